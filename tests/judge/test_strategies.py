"""The strategies draw what they promise, and ``fit`` gives every path cases it takes."""

import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings

from harness.case import DTYPES, LAYOUTS, MASKS, SCORES, TAILS, DecodeCase
from harness.paths import PATHS
from harness.strategies.paths import (
    BLOCKS,
    CACHE_LENS,
    GROUPS,
    HEAD_DIMS,
    KV_HEADS,
    LOGITS,
    Q_LENS,
    SCALES,
    decode_data,
    fit,
    path_cases,
    sampled_cases,
)
from tests.support.drawn import SOUND

# A case without groups has nothing to pack: the packed path is drawn compiled, with geometries.


@cache
def cases(run: int = 0) -> list[DecodeCase]:
    """The same 500 cases on every run."""
    return sampled_cases(500, run)


def kinds(case: DecodeCase) -> Iterator[tuple[str, object]]:
    """Every value of a case that the space promises, as (what, value)."""
    block = case.block_size[1]
    yield "dtype", case.dtype
    yield "layout", case.layout
    yield "views", case.views
    yield "tail", case.tail
    yield "logits", case.logits
    yield "recipe", case.recipe
    yield "block", case.block_size
    yield "batch", case.batch
    yield "group", case.heads // case.kv_heads
    yield "kv_heads", case.kv_heads
    yield "head_dim", case.head_dim
    yield "value_dim differs", case.value_dim != case.head_dim
    yield "q_len", case.q_len
    yield "scale", case.scale
    yield "mask", case.mask_kind.name
    yield "probe", case.probe.split(":")[0]
    yield "cache_len", case.cache_len
    for name, arguments in case.scores.items() or [("none", {})]:
        yield "score", name
        yield from arguments.items()
    for multiple in (1, 2, 3):
        yield f"cache_len - {multiple} blocks", case.cache_len - multiple * block
    live = [p for p in case.input_pos if p >= 0]
    yield "idle", len(live) < case.batch
    yield "ragged", len(set(live)) > 1
    yield "shared", case.batch > 1 and len(set(case.input_pos)) == 1
    for position in live:
        yield "position", position
        yield "position in block", (position % block) if block > 1 else None
        yield "last position", position == case.cache_len - case.q_len
        if position >= block - 1:
            yield "block edge", (position + 1) % block - 1
    if case.probe.startswith("needle") and live:
        slot = int(case.probe.split(":")[1])
        yield "needle at the newest slot", slot == live[0] + case.q_len - 1
        yield "needle at slot 0", slot == 0
        yield "needle at a block edge", slot % block in (0, block - 1)
        if "window" in case.mask_arguments:
            outside = live[0] - case.mask_arguments["window"]
            yield "needle just outside the window", slot == outside
    if case.batch:
        yield "slots per sequence reach 512", case.cache_len / case.batch >= 512


PROMISED: dict[str, tuple[object, ...]] = {
    "dtype": DTYPES,
    "layout": tuple(LAYOUTS),
    "views": ("outside", "inside"),
    "tail": tuple(TAILS),
    "logits": LOGITS,
    "recipe": ("fresh", "row", "kv-blocks"),
    "block": BLOCKS,
    "batch": (0, 1, 2, 3, 4),
    "group": GROUPS,
    "kv_heads": KV_HEADS,
    "head_dim": HEAD_DIMS,
    "value_dim differs": (True, False),
    "q_len": (1, *Q_LENS),
    "scale": SCALES,
    "mask": tuple(MASKS),
    "probe": ("none", "needle", "uniform", "integers"),
    "cache_len": CACHE_LENS,
    "score": ("none", *SCORES),
    "softcap": (1, 5, 20, 50),
    "shift": (0, -1, -30, -95, -100, -300),
    "cache_len - 1 blocks": (-1, 0, 1),
    "cache_len - 2 blocks": (-1, 0, 1),
    "cache_len - 3 blocks": (-1, 0, 1),
    "idle": (True, False),
    "ragged": (True, False),
    "shared": (True, False),
    "position": (0, 1),
    "last position": (True, False),
    "block edge": (-1, 0, 1),
    "needle at the newest slot": (True, False),
    "needle at slot 0": (True, False),
    "needle at a block edge": (True, False),
    "needle just outside the window": (True, False),
    "slots per sequence reach 512": (True, False),
}


def test_every_promised_value_is_drawn() -> None:
    """Within 3000 cases, so a value that drops out of the space is noticed."""
    missing = {(what, value) for what, values in PROMISED.items() for value in values}
    for run in (0, 4, 1, 2, 3, 5):  # the first two have the rarest value, too
        missing -= {kind for case in cases(run) for kind in kinds(case)}
        if not missing:
            break
    assert missing == set()


@pytest.mark.parametrize("path", SOUND)
def test_fit_gives_every_path_cases_that_it_takes(path: str) -> None:
    """Only an empty batch, which has no position to share, is left over."""
    left = [fit(case, PATHS[path]) for case in cases()]
    refused = [case for case in left if PATHS[path].unsupported(case, "cpu") and case.batch]
    assert refused == []


@pytest.mark.parametrize("path", SOUND)
def test_fit_keeps_what_a_path_takes(path: str) -> None:
    """A case that is fine is not touched."""
    for case in cases():
        if PATHS[path].unsupported(case, "cpu") is None:
            assert fit(case, PATHS[path]) == case


@settings(max_examples=200)
@given(case=decode_data(DecodeCase.from_text("S=300,pos=0/0,H=2,block=64,mode=compiled")))
def test_drawn_data_leave_the_geometry_alone(case: DecodeCase) -> None:
    """Nothing that is drawn makes a kernel be compiled again."""
    geometry = DecodeCase.from_text("S=300,pos=0/0,H=2,block=64,mode=compiled")
    assert case.geometry == geometry.geometry


@settings(max_examples=100)
@given(case=path_cases(min_batch=1, min_q_len=2, causal=True, idle=True))
def test_asked_for_features_are_there(case: DecodeCase) -> None:
    """Arguments of ``path_cases`` hold in every case."""
    assert case.batch >= 1
    assert case.q_len >= 2
    assert case.mask_kind.causal
    assert -1 in case.input_pos


def test_the_same_seed_draws_the_same_whatever_modules_a_process_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of modules outside of site-packages Hypothesis would draw the numbers that stand in them."""
    before = sampled_cases(150, 3)
    file = tmp_path / "mine.py"
    file.write_text(f"NUMBERS = {list(range(1, 900, 7))}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    assert sampled_cases(150, 3) == before
