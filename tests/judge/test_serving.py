"""Cache classes: their contract, how they are judged, and what a wrong row attended."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from harness import cache_machine
from harness.case.domain import Domain
from harness.case.precision import Precision
from harness.case.program import Program
from harness.function.spec import TargetError
from harness.serving.attended import attended, explained
from harness.serving.caches import DenseCache, FixedPath, RingCache
from harness.serving.contract import Abilities, ContractError
from harness.serving.faults import (
    LivePositionCaptured,
    MaximumUsedForAll,
    NanThroughZeroWeight,
    RollbackLeavesPosition,
    WrittenOneSlotLate,
)
from harness.serving.judging import judge_program
from harness.serving.pages import TRAP, GatheredPages, PagedCache, Pages
from harness.serving.session import CacheClass
from harness.verdict import Verdict
from tests.support import cache_classes

SERVED = (
    "S=20,B=2,pos=0,H=4,Hkv=2,D=16,Dv=8 admit:0:3 admit:1:20 rollback:0/2 decode:1 decode:0"
    " decode:2/1 reset:0 decode:3/0 release:1 decode:1 admit:1:5 decode:1"
)


def cache_class(cls: type, junk: float = 1e4) -> CacheClass:
    """The class as the judge takes it."""
    return CacheClass(cls, Abilities.of(cls), junk)


def named(cls: type, text: str) -> dict[str, str]:
    """The names of what the first wrong row of a program attended, with their sentences."""
    cache, program = cache_class(cls), Program.from_text(text)
    judged = judge_program(cache, program)
    assert judged.at is not None
    seen = attended(cache, program, "cpu", judged.number, judged.at, Precision())
    assert seen is not None
    return dict(explained(seen))


@pytest.mark.parametrize("cls", [DenseCache, FixedPath])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_sound_classes_are_right_in_every_row(cls: type, dtype: str) -> None:
    """With junk behind every sequence, and in the padding of ragged calls."""
    program = Program.from_text(SERVED)
    program = program.replace(case=program.case.replace(dtype=dtype))
    judged = judge_program(cache_class(cls), program)
    assert judged.verdict is Verdict.OK
    assert judged.rows == 4 * (3 + 20 + 2 + 3 + 3 + 1 + 5 + 2)
    assert judged.utilisation is not None
    assert 0 < judged.utilisation < 1


def test_pages_are_right_when_they_are_shared_and_used_again() -> None:
    """A fork writes into a page that it shares; a released one's pages go to another sequence."""
    program = Program.from_text(
        "S=12,B=3,pos=0,D=16 page:4 admit:0:6 fork:0:1 decode:1/2/0 release:0 admit:2:12 fork:1:0"
        " rollback:3/0/5 decode:1 grow:20 decode:8/1/0"
    )
    assert judge_program(cache_class(GatheredPages), program).verdict is Verdict.OK


def test_the_abilities_of_a_class_show_in_its_methods_and_arguments() -> None:
    """What it lacks is not asked."""
    least = Abilities.of(cache_classes.Lockstep)
    assert least == Abilities()
    assert least.actions == ("admit", "decode")
    ring = Abilities.of(RingCache)
    assert ring.ragged
    assert ring.methods == ("reset", "release", "poison")
    assert ring.features == ("gqa", "value_dim", "window")
    paged = Abilities.of(GatheredPages)
    assert paged.pages
    assert {"fork", "grow", "contents"} <= set(paged.methods)
    # Keywords that go on to the class below are those that this one takes.
    assert Abilities.of(cache_classes.Forgetful).arguments == Abilities.of(DenseCache).arguments


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (cache_classes.NoDecode, "NoDecode has no method decode(query, key, value)"),
        (cache_classes.NoDtype, "NoDtype(...) takes no dtype and no device"),
    ],
)
def test_a_class_that_is_no_cache_is_refused(cls: type, message: str) -> None:
    """With what it lacks."""
    with pytest.raises(ContractError) as error:
        Abilities.of(cls)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("cls", "text", "reason"),
    [
        (DenseCache, "S=8,pos=0,D=16 page:4 decode:1", "it has no pages"),
        (GatheredPages, "S=8,pos=0,D=16 decode:1", "it needs a page size, page:N"),
        (RingCache, "S=8,pos=0,D=16,mask=window:2 decode:1 rollback:1", "no method rollback"),
        (cache_classes.Lockstep, "S=8,B=2,pos=0,D=16 decode:1/0", "its decode takes no query_lens"),
        (cache_classes.Lockstep, "S=8,pos=0,D=16 decode:0", "its decode takes no query_lens"),
        (cache_classes.Lockstep, "S=8,pos=0,D=16 decode:1 admit:0:1", "it has no method reset"),
        (DenseCache, "S=8,pos=0,D=16,scale=0.5 decode:1", "needs scale: not in supports"),
    ],
)
def test_a_program_that_a_class_cannot_take_is_refused(cls: type, text: str, reason: str) -> None:
    """With the step, or the feature."""
    abilities = Abilities.of(cls)
    assert reason in (abilities.refuses(Program.from_text(text), Domain(abilities.features)) or "")


@pytest.mark.parametrize(
    ("name", "verdict", "said"),
    [
        ("ChangesItsQuery", Verdict.MUTATED, "changed its argument query"),
        ("HandsOutItsBuffer", Verdict.MUTATED, "changed the output of an earlier call, that of s"),
        ("Raises", Verdict.ERROR, "RuntimeError: no such sequence (cache_classes.py, line "),
        ("ReadsUnwrittenMemory", Verdict.NONDETERMINISTIC, "with junk in new memory"),
    ],
)
def test_what_no_number_shows_is_found(name: str, verdict: Verdict, said: str) -> None:
    """Arguments, earlier outputs, exceptions, memory that nobody wrote."""
    program = Program.from_text("S=8,pos=0,D=16 decode:1 decode:1 release:0 admit:0:2")
    judged = judge_program(cache_class(getattr(cache_classes, name)), program)
    assert judged.verdict is verdict
    assert said in judged.findings[0].evidence


def test_a_class_may_hand_out_its_buffer_if_it_says_so() -> None:
    """Then an earlier output may change."""
    program = Program.from_text("S=8,pos=0,D=16 decode:1 decode:1")
    cache = cache_class(cache_classes.HandsOutItsBuffer)
    assert judge_program(cache, program, reuses_output=True).verdict is Verdict.OK


def test_a_class_that_takes_nan_in_free_slots_gets_it() -> None:
    """Finite junk does not show what NaN does."""
    program = Program.from_text("S=8,pos=0,D=16 decode:2")
    assert judge_program(cache_class(NanThroughZeroWeight), program).verdict is Verdict.OK
    found = judge_program(cache_class(NanThroughZeroWeight, math.nan), program)
    assert found.verdict is Verdict.NONFINITE


def test_contents_are_compared_where_no_row_shows_them() -> None:
    """A token that is damaged while its sequence runs idle."""

    class Damages(DenseCache):
        def release(self, sequences: list[int]) -> None:
            super().release(sequences)
            self.key[1 - sequences[0], :, 0] += 1

    program = Program.from_text("S=8,B=2,pos=0,D=16 decode:2 release:0 decode:0")
    judged = judge_program(cache_class(Damages), program)
    assert [f.evidence for f in judged.findings] == [
        "holds another key for tokens [0] of sequence 1"
    ]
    assert judged.number == 3


def test_a_wrong_row_is_explained_by_what_it_attends() -> None:
    """Whose tokens, and why they should not be there."""
    text = "S=9,B=2,pos=0,D=16 decode:3/1 rollback:2/0 decode:1"
    assert named(RollbackLeavesPosition, text) == {
        "taken-back-attended": "token 1 of sequence 0 attends tokens 1, 2, which sequence 0 took"
        " back"
    }
    assert set(named(WrittenOneSlotLate, "S=9,pos=0,D=16 decode:1")) == {
        "new-tokens-missing",
        "slots-without-token",
    }
    program = Program.from_text("S=9,pos=0,D=16 decode:2")
    live = cache_class(LivePositionCaptured)
    seen = attended(live, program, "cpu", 1, (0, 0, 0), Precision())
    assert seen is not None
    assert set(dict(explained(seen))) == {"future-attended", "slots-without-token"}
    text = "S=9,B=2,pos=0,D=16 admit:0:5 decode:0/2 rollback:0/1 reset:0 admit:0:4 decode:1"
    assert "slots-without-token" in named(MaximumUsedForAll, text)


def test_a_right_row_attends_what_it_should() -> None:
    """So that nothing is explained which is not wrong."""
    program = Program.from_text(SERVED)
    for cls in (DenseCache, FixedPath):
        seen = attended(cache_class(cls), program, "cpu", 12, (1, 3, 0), Precision())
        assert seen is not None
        assert (seen.query.sequence, seen.query.position) == (1, 5)
        assert list(explained(seen)) == []
        assert seen.weight.sum() == pytest.approx(1)


def test_pages_lie_in_no_order_and_hold_junk() -> None:
    """What a table does not use names a page of junk; the order differs from that of a pool."""
    pages = Pages(batch_size=2, num_kv_heads=1, cache_len=32, head_dim=4, page_size=2)
    pages.append(torch.zeros(2, 1, 20, 4), torch.zeros(2, 1, 20, 4), (20, 3))
    table = pages.block_table
    assert table.shape == (2, 16)
    assert table.dtype == torch.int32
    assert (table[1, 2:] == TRAP).all()
    used = [*pages.tables[0], *pages.tables[1]]
    assert len(set(used)) == 12
    assert used != sorted(used)
    assert (pages.key[TRAP] == 1e4).all()
    assert pages.seq_lens.tolist() == [20, 3]


def test_a_paged_kernel_needs_attend_alone() -> None:
    """A subclass of few lines is a class that ``check`` takes."""

    class Mine(PagedCache):
        def attend(self, query: torch.Tensor, query_lens: torch.Tensor) -> torch.Tensor:
            rows = []
            for b, table in enumerate(self.pages.block_table.tolist()):
                key, value = (
                    torch.cat([pool[page] for page in table]).transpose(0, 1)
                    for pool in (self.pages.key, self.pages.value)
                )
                group = query.size(1) // key.size(0)
                key, value = (x.repeat_interleave(group, 0) for x in (key, value))
                position = self.pages.seq_lens[b] - query_lens[b] + torch.arange(query.size(2))
                score = query[b] @ key.mT * query.size(-1) ** -0.5
                hidden = torch.arange(key.size(1)) > position[:, None]
                rows.append(score.masked_fill(hidden, -math.inf).softmax(-1) @ value)
            return torch.stack(rows)

    program = Program.from_text("S=9,B=2,pos=0,H=2,Hkv=1,D=16 page:2 decode:3/1 fork:0:1 decode:2")
    assert judge_program(cache_class(Mine), program).verdict is Verdict.OK


def test_a_project_can_run_the_machine_in_its_own_tests() -> None:
    """A sound class passes; a failure names the program, what was attended, and the command."""
    few = settings(cache_machine(DenseCache).TestCase.settings, max_examples=20, database=None)
    run_state_machine_as_test(cache_machine(DenseCache), settings=few)
    few = settings(few, phases=[Phase.generate])
    with pytest.raises(AssertionError) as error:
        run_state_machine_as_test(cache_machine(WrittenOneSlotLate), settings=few)
    message = str(error.value)
    assert message.startswith("WrittenOneSlotLate is WRONG: ")
    assert "does not attend token 0 of sequence 0, which came with it" in message
    assert "repro: python -m harness check harness.serving.faults:WrittenOneSlotLate" in message


def test_a_machine_of_no_cache_is_refused() -> None:
    """At once, with what it lacks."""
    with pytest.raises(TargetError, match="has no method decode"):
        cache_machine(cache_classes.NoDecode)
