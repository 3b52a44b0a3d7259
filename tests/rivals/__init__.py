"""Other projects' acceptance rules for attention, run on this project's planted faults.

``rule``     what a rule is: a recipe for its inputs, and when it accepts an output
``pytorch``, ``flash_attention``, ``serving``, ``plain``   the rules, by project
``measure``  every rule on every fault
``table``    the result as JSON and as Markdown; ``python -m tests.rivals`` writes it

Here, and nowhere else in this project, numbers are compared with tolerances: they are the
subject. Each rule was read in its project's tests and is restated here in this project's terms.
"""

from __future__ import annotations

from tests.rivals import flash_attention, plain, pytorch, serving
from tests.rivals.rule import Rule

__all__ = ["RULES", "Rule"]

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (*pytorch.RULES, *flash_attention.RULES, *serving.RULES, *plain.RULES)
}
