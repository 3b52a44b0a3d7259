"""Mutation testing of what decides a verdict: ``python -m tests.mutation``, see docs/power.md.

cosmic-ray makes the mutants, coverage.py says which tests run a mutated line. A mutant is one
change of one place, in a copy of the checkout; it is killed where a test fails. A process that has
imported torch forks for each mutant, since a mutant costs little more than its tests then.

``mutants``  the places of the subjects that can be mutated, and a sample of them
``forked``   pytest in a fork of this process, in the copy, with limits
``covered``  which tests run which lines, at what cost
``trial``    a mutant, planted and tried
``record``   what came of each mutant: JSON, rates, the table
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DAY = "2026-11-30"

# What decides a verdict. ``known_failures`` only says which drawn cases are left out.
SUBJECTS = tuple(
    str(file.relative_to(ROOT))
    for file in (
        ROOT / "harness" / "case" / "visible.py",
        *sorted((ROOT / "harness" / "oracle").glob("*.py")),
        *sorted((ROOT / "harness" / "verdict").glob("*.py")),
    )
    if file.name not in ("__init__.py", "known_failures.py")
)

# Modules whose tests judge in their own process. A test in them is left out where it compiles,
# starts a process, or takes more than a few seconds.
TESTS = (
    "tests/judge/test_oracle.py",
    "tests/judge/test_budget.py",
    "tests/judge/test_error.py",
    "tests/judge/test_exact.py",
    "tests/judge/test_verdict.py",
    "tests/judge/test_precision.py",
    "tests/judge/test_loop.py",
    "tests/judge/test_process_state.py",
    "tests/judge/test_handing.py",
    "tests/judge/test_junk.py",
    "tests/judge/test_serving.py",
    "tests/judge/test_state.py",
    "tests/judge/test_long.py",
    "tests/judge/test_quantised.py",
    "tests/judge/test_inputs.py",
    "tests/judge/test_limits.py",
    "tests/judge/test_relations.py",
    "tests/judge/test_repeats.py",
    "tests/judge/test_regressions.py",
    "tests/paths/test_properties.py",
    "tests/paths/test_forms.py",
    "tests/power/test_faults.py",
    "tests/power/test_precision.py",
)
