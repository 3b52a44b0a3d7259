"""Functions by which ``check`` is measured, faulty and sound, as authors of kernels write them.

``entry``         what is known of a function, and how it is registered
``shown``, ``shown_conduct``   how a mistake is shown without ``check``: no function is a dud
``parts``, ``arithmetic``   the steps of a kernel, and arithmetic that is narrower
``sizes``, ``heads``, ``places``, ``contexts``   faulty: shapes, positions, long contexts
``state``, ``retained``, ``races``   faulty: what is kept between calls, what varies
``conduct``, ``declarations``, ``precision``   faulty otherwise
``orders``, ``keepers``, ``declared``   sound
``measure``, ``table``   ``check`` on each, as its users run it; the result as JSON and text

They were written before ``check`` was changed to find them, and are not to be tuned to it: what it
misses stays in the table. ``python -m tests.functions`` measures.
"""

from __future__ import annotations

from tests.functions import (
    conduct,
    contexts,
    declarations,
    declared,
    heads,
    keepers,
    orders,
    places,
    precision,
    races,
    retained,
    sizes,
    state,
)
from tests.functions.entry import REGISTERED, Entry

__all__ = ["CATEGORIES", "FUNCTIONS", "Entry"]

_MODULES = (
    sizes, heads, places, contexts, state, retained, races, conduct, declarations, precision,
    orders, keepers, declared,
)  # fmt: skip
CATEGORIES = tuple(module.__name__.rpartition(".")[2] for module in _MODULES)
FUNCTIONS: dict[str, Entry] = {
    f"{entry.category}.{entry.name}": entry
    for entry in sorted(REGISTERED, key=lambda e: CATEGORIES.index(e.category))
}
