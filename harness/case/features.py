"""Features, by name: what a case may need of a user's function beyond a plain decode call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from harness.case import MASKS, SCORES, DecodeCase
from harness.case.kinds import Kind
from harness.case.quantised import QUANTISED_FEATURES, options_of_feature


def _asked(kinds: Mapping[str, Kind]) -> dict[str, str]:
    return {kind.feature: kind.asks for kind in kinds.values() if kind.feature}


FEATURES = {
    "gqa": "fewer KV heads than query heads",
    "ragged": "entries of input_pos differ",
    "chunk": "Q in 2..128",
    "idle": "input_pos[b] == -1: all rows of the sequence are 0",
    **_asked(MASKS),
    **_asked(SCORES),
    "scale": "option scale, instead of 1 / sqrt(D)",
    "value_dim": "Dv != D",
    "strided": "a query and caches that are not contiguous, with stride 1 over D",
    "nonfinite_tail": "slots that were never written may hold inf and NaN",
    **QUANTISED_FEATURES,
}
_NEEDED: dict[str, Callable[[DecodeCase], bool]] = {
    "gqa": lambda case: case.heads != case.kv_heads,
    "ragged": lambda case: len(set(case.input_pos)) > 1,
    "chunk": lambda case: case.q_len > 1,
    "idle": lambda case: -1 in case.input_pos,
    "scale": lambda case: case.scale is not None,
    "value_dim": lambda case: case.value_dim != case.head_dim,
    "strided": lambda case: (
        {case.layout, case.value_layout_kind.name, case.query_layout} != {"contiguous"}
    ),
    "nonfinite_tail": lambda case: not case.tail_kind.finite,
}


def features_of(case: DecodeCase) -> tuple[str, ...]:
    """The features that a case needs, in the order of ``FEATURES``."""
    needed = {name for name, needs in _NEEDED.items() if needs(case)}
    needed |= {kind.feature for kind in (case.mask_kind, *case.score_kinds)}
    needed |= {case.quantised.feature} if case.quantised else set()
    return tuple(name for name in FEATURES if name in needed)


def options_of(features: Iterable[str]) -> tuple[str, ...]:
    """The optional keywords under which a function with these features may get arguments."""
    options: list[str] = []
    wanted = set(features)
    for kind in (*MASKS.values(), *SCORES.values()):
        if kind.feature in wanted:
            options += kind.options
    for kind in SCORES.values():
        if kind.feature in wanted and kind.parameter is not None:
            options.append(kind.parameter.name)
    options += ["scale"] if "scale" in wanted else []
    for feature in QUANTISED_FEATURES:
        options += options_of_feature(feature) if feature in wanted else ()
    return tuple(dict.fromkeys(options))


def given_options(case: DecodeCase) -> dict[str, int | float]:
    """Arguments of a case's mask and score_mods, by the keyword in which a function gets them."""
    given: list[tuple[Kind, dict[str, int]]] = [(case.mask_kind, case.mask_arguments)]
    given += [(kind, case.scores[kind.name]) for kind in case.score_kinds]
    return {
        argument.option: float(values[name]) if argument.as_float else values[name]
        for kind, values in given
        for name, argument in kind.arguments.items()
        if argument.option
    }
