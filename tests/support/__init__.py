"""What tests of several folders need, and nothing that is a test.

``altered``         paths with planted behaviour
``callables``       what may be called and is no plain function
``cache_classes``   cache classes for check: sound and with planted behaviour
``command``         ``python -m harness`` in this process
``day``             what a day runs of a claim that takes long, and what it leaves to the night
``drawn``           problems for drawn cases
``eager``           eager flex_attention, traced or not
``entries``         a ledger of one entry
``fixed_path``      the rule of the fixed path by its definition
``forked``          a process that a server forks, and what it tells of itself
``gates``           gates of a few steps, in this process
``hidden``          Triton, where only the tests that interpret kernels see it
``hunted``          a judge of planted failures for a hunt, and factors with few values
``imprecise``       functions that lose more bits than they declare, ``imprecise_targets`` for check
``interpreted``     what runs in the process that interprets; ``interpreting`` asks it
``launches``        functions that launch Triton kernels, sound and with planted faults
``relations``       how golden must change when the inputs change
``processes``       child processes: started, interrupted, watched until they end
``plugged``         pytest with the plugin, in a project that is not this one
``preloaded``       a process with torch that runs scripts in forks of itself
``sound``           sound decode paths that differ in arithmetic alone
``stateful``        functions that keep something between calls, sound and with planted faults
``targets``         functions as a user might bring them, sound and with planted faults
``mutant_targets``  every mutant as a user's function
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGETS = Path(__file__).with_name("targets.py")
MUTANT_TARGETS = Path(__file__).with_name("mutant_targets.py")
CALLABLES = Path(__file__).with_name("callables.py")
