"""The tables of kinds: each entry is served everywhere, and one that is not known raises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from harness.case import MASKS, SCORES, CaseError, DecodeCase, UnknownKind
from harness.case.features import FEATURES, features_of
from harness.case.kinds import Kind
from harness.case.visible import visible_slots
from harness.faults.model import Attention
from harness.function.load import call_options
from harness.function.shrink import shrink
from harness.inputs import Inputs, make_inputs
from harness.oracle.golden import golden
from harness.paths import PATHS, masks
from harness.paths.masks import mask_mod

CASE = DecodeCase.from_text("S=40,pos=20,H=2,D=8")
STATEMENTS: dict[str, list[Callable[[Inputs], object]]] = {
    "mask": [
        lambda inputs: visible_slots(inputs.case, 0),
        mask_mod,
        PATHS["fixed"].prepare,
    ],
    "score": [
        golden,
        lambda inputs: Attention.of(inputs, torch.float64).run(),
        masks.score_mod,
        PATHS["fixed"].prepare,
    ],
}
TABLES: dict[str, dict[str, Kind]] = {"mask": dict(MASKS), "score": dict(SCORES)}


@pytest.mark.parametrize(
    ("field", "statement"), [(field, s) for field, all_ in STATEMENTS.items() for s in all_]
)
def test_a_kind_that_a_statement_does_not_know_raises_there(
    field: str, statement: Callable[[Inputs], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the table that nobody has stated is not taken for another kind."""
    table = {"mask": MASKS, "score": SCORES}[field]
    like = {"mask": MASKS["causal"], "score": SCORES["shift"]}[field]
    entry = dataclasses.replace(like, name="unstated", arguments={})  # type: ignore[type-var]
    monkeypatch.setitem(table, "unstated", entry)  # type: ignore[misc]
    # A case is checked when it is made, against the table as it was imported.
    case = dataclasses.replace(CASE)
    inputs = dataclasses.replace(make_inputs(CASE), case=case)
    object.__setattr__(case, field, "unstated")
    with pytest.raises(UnknownKind, match="'unstated' is not one of"):
        statement(inputs)


@pytest.mark.parametrize("field", ["mask", "score", "tail", "layout"])
def test_a_case_of_an_unknown_kind_cannot_be_made(field: str) -> None:
    """The error names the field and what is allowed."""
    with pytest.raises(CaseError, match=rf"{field} .*'unknown' is not one of"):
        CASE.replace(**{field: "unknown"})


@pytest.mark.parametrize("kind", [*MASKS.values(), *SCORES.values()], ids=lambda kind: kind.name)
def test_a_kind_arrives_in_the_options_that_it_promises(kind: Kind) -> None:
    """What a function declares by the feature's name, it gets by the keywords of the entry."""
    text = kind.text(dict.fromkeys(kind.arguments, 3))
    case = CASE.replace(**{"mask" if kind.name in MASKS else "score": text})
    wanted = {kind.feature} - {""}
    assert set(features_of(case)) == wanted <= set(FEATURES)
    if kind.feature:
        parameter = getattr(kind, "parameter", None)
        names = {*kind.options, *([parameter.name] if parameter else [])}
        assert set(call_options(make_inputs(case))) == names


@pytest.mark.parametrize(
    ("mask", "smallest"),
    [
        ("window:9", "window:4"),
        ("sinks:9:5", "sinks:1:4"),
        ("dilated:9:5", "dilated:1:4"),
        ("prefix:9", "prefix:4"),
    ],
)
def test_shrinking_lowers_one_argument_and_keeps_the_others(mask: str, smallest: str) -> None:
    """A failure that needs the last argument to be 4 at least keeps it and loses the rest."""
    kind = MASKS[mask.partition(":")[0]]

    def still(case: DecodeCase) -> bool:
        return case.mask_kind is kind and [*case.mask_arguments.values()][-1] >= 4

    assert shrink(CASE.replace(mask=mask), still).mask == smallest


def test_a_kind_with_more_arguments_shrinks_to_one_with_fewer() -> None:
    """Sinks that do not matter are left out, and the window stays as it must be."""
    case = CASE.replace(mask="sinks:9:5")
    assert shrink(case, lambda c: c.mask_arguments.get("window", 0) >= 7).mask == "window:7"
