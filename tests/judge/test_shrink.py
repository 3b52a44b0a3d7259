"""Shrinking: small cases, by few runs of large ones."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.case import DecodeCase
from harness.case.program import Task
from harness.function.item import Single
from harness.function.outcome import Outcome
from harness.function.run import LocalRunner
from harness.function.schedule import Source
from harness.function.search import check
from harness.function.shrink import SIZES, shrink
from harness.function.spec import TargetSpec
from harness.function.speed import work
from harness.verdict import Verdict
from tests.support import TARGETS


def test_an_empty_batch_can_be_made_small() -> None:
    """It has no positions to lower; its sizes are."""
    case = DecodeCase(cache_len=256, input_pos=(), heads=4, head_dim=64)
    small = shrink(case, lambda smaller: smaller.batch == 0, SIZES)
    assert (small.cache_len, small.heads, small.head_dim) == (1, 1, 1)


def test_shrinking_reaches_what_a_predicate_needs() -> None:
    """Batch, heads, cache, positions, options and values, all at once."""
    case = DecodeCase.from_text(
        "S=900,pos=700/31/-1/8,H=24,Hkv=3,D=256,Dv=64,Q=17,dtype=bf16,mask=window:300,"
        "score=softcap:20+alibi,scale=0.5,layout=longer,tail=nan,logits=huge,probe=needle:690,seed=9"
    )
    small = shrink(case, lambda c: c.q_len >= 2 and max(c.input_pos) >= 5 and c.heads > c.kv_heads)
    assert str(small) == "S=7,pos=5,H=2,Hkv=1,D=1,Q=2"
    assert shrink(case, lambda c: None) == case


def test_a_large_case_is_made_small_first() -> None:
    """A failure that needs the 4096th slot keeps that, and one head of the fewest dims; most of the
    runs on the way are of cases that are small already."""
    case = DecodeCase.from_text("S=40000,pos=39000/200/7,H=32,Hkv=8,D=128,dtype=bf16,seed=5")
    tried: list[int] = []

    def still(smaller: DecodeCase) -> bool:
        tried.append(work(smaller))
        return max(smaller.input_pos) >= 4095 and smaller.head_dim >= 16

    assert str(shrink(case, still, SIZES)) == "S=4096,pos=4095,D=16,dtype=bf16,seed=5"
    assert sum(tried) < 3 * work(case)
    assert str(shrink(case, still)) == "S=4096,pos=4095,D=16"


@dataclass
class Hanging(LocalRunner):
    """Hangs from so many slots on, for longer than the time limits of shrinking and, from
    ``really`` on, for longer than its own; no time passes."""

    slots: int = 0
    really: int = 0

    def fresh(self) -> bool:
        """Each process is."""
        return True

    def run(self, case: Task, *, timeout: float | None = None, last_alone: bool = False) -> Outcome:
        """What is known without running it."""
        assert isinstance(case, DecodeCase)
        hangs = case.cache_len >= (self.really if timeout is None else self.slots)
        return Outcome.found(Verdict.TIMEOUT, "did not return") if hangs else Outcome()


@pytest.mark.parametrize(("really", "small"), [(4, "S=4,pos=0,D=16"), (9, "S=40,pos=30")])
def test_a_hang_is_shrunk_as_long_as_it_lasts(really: int, small: str, unhurried: None) -> None:
    """With a shorter limit than its own, which the smallest case must exceed too, or else the case
    stays as it was found."""
    spec = TargetSpec(f"{TARGETS}:base")
    runner = Hanging(spec, slots=4, really=really)
    case = DecodeCase.from_text("S=40,pos=30")
    result = check(spec, runner, [Source("drawn", 1, [Single(case)])], lambda text: None)
    assert (result.verdict, str(result.case)) == (Verdict.TIMEOUT, small)


def test_shrinking_keeps_the_verdict(tmp_path: Path, unhurried: None) -> None:
    """Where smaller cases fail in another way: wrong from 20 slots on, below that not finite."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def decode(q, k_cache, v_cache, input_pos):\n"
        "    return q.new_full(q.shape, 9.0 if k_cache.size(2) >= 20 else float('nan'))\n"
    )
    spec = TargetSpec(f"{file}:decode")
    case = DecodeCase.from_text("S=40,pos=30,D=16")
    result = check(spec, LocalRunner(spec), [Source("drawn", 1, [Single(case)])], lambda text: None)
    assert result.verdict is Verdict.WRONG
    assert str(result.case) == "S=20,pos=0,D=16"
    assert result.item is not None
    assert result.item.run(LocalRunner(spec)).verdict is Verdict.WRONG
