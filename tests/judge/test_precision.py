"""Counts of precision: rounding, emulated rows, and what is counted of an output."""

import json
import math

import pytest
import torch

from harness.case import DTYPES, DecodeCase
from harness.case.precision import Precision
from harness.oracle.emulation import forms
from harness.oracle.rounding import cut, number, rounded, spacing
from harness.oracle.rows import some_rows
from harness.support.threads import one_thread
from harness.verdict import Problem, judge
from harness.verdict.precision import Counts, count, observe
from tests.support.sound import SOUND

ALL = "S=40,pos=30/-1/17,H=6,Hkv=2,Q=3,D=16,Dv=24,mask=window:9,score=softcap:5+alibi,layout=bshd"


def problem(text: str) -> Problem:
    """The problem of a case id."""
    return Problem.of(DecodeCase.from_text(text))


@pytest.mark.parametrize("shape", [(3, 999, 16), (999,), (2, 64, 999)])
def test_index_add_adds_in_the_order_of_its_index(shape: tuple[int, ...]) -> None:
    """Each addition rounded to float32, so that the emulation sums one term after the other."""
    terms, dim = torch.randn(shape, generator=torch.Generator().manual_seed(0)), shape.index(999)
    one_by_one = torch.zeros_like(terms.select(dim, 0))
    for term in terms.unbind(dim):
        one_by_one += term
    start, index = torch.zeros_like(terms.narrow(dim, 0, 1)), torch.zeros(999, dtype=torch.int64)
    with one_thread():
        assert torch.equal(start.index_add(dim, index, terms).squeeze(dim), one_by_one)
        backwards = start.index_add(dim, index, terms.flip(dim)).squeeze(dim)
    assert not torch.equal(backwards, one_by_one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_torchs(dtype: str) -> None:
    """To nearest; a unit in the last place is the distance to the next number; cutting off never
    goes away from zero."""
    x = torch.randn(1000, dtype=torch.float64) * 10.0 ** torch.arange(1000).remainder(5).sub(2)
    near, kind = rounded(x, dtype), getattr(torch, dtype)
    assert torch.equal(near, x.to(kind).double())
    following = torch.nextafter(near.to(kind).abs(), torch.tensor(math.inf, dtype=kind)).double()
    assert torch.equal(following - near.abs(), spacing(near, dtype))
    less = cut(x, dtype)
    assert torch.equal(less, less.to(kind).double())
    assert ((x - less) * x.sign() >= 0).all()
    assert ((x - less).abs() < spacing(x, dtype)).all()


def test_tf32_has_ten_bits_after_the_leading_one() -> None:
    """Half a step goes to the even neighbour."""
    assert number(1 + 2**-10, "tf32") == 1 + 2**-10
    assert number(1 + 2**-11, "tf32") == 1
    assert number(1 + 3 * 2**-11, "tf32") == 1 + 2**-9


def test_rows_are_a_call_of_their_own() -> None:
    """Whatever mask, score_mods, layout and group: their exact arithmetic gives golden."""
    given = problem(ALL)
    seen = 0
    for rows in some_rows(given.inputs):
        exact = torch.softmax(rows.score, -1) @ rows.value
        wanted = rows.of(given.golden.output)
        assert (exact - wanted).abs().max() < 1e-12
        again = rows.scored(query=rows.query, key=rows.key, scale=given.case.softmax_scale)
        assert torch.equal(torch.isinf(again), torch.isinf(rows.score))
        assert rows.lengths.max() == 9
        seen += wanted[..., 0].numel()
    assert seen == 2 * 6 * 3


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        ("float32", Precision(), 1),
        ("bfloat16", Precision(), 6),
        ("bfloat16", Precision(weight="float32"), 1),
        ("bfloat16", Precision(weight="float32", score="bfloat16"), 4),
        ("bfloat16", Precision(weight="float32", operand="bfloat16"), 3),
        ("float32", Precision(operand="tf32"), 2 * 4 * 6),
    ],
)
def test_what_is_declared_is_emulated_in_every_form(
    dtype: str, precision: Precision, expected: int
) -> None:
    """And nothing else: the first form is exact, all others differ from it."""
    [rows] = some_rows(problem(f"S=60,pos=59,H=2,D=32,dtype={dtype}").inputs)
    exact, *others = forms(rows, precision)
    assert len(others) + 1 == expected
    assert all(not torch.equal(exact, other) for other in others)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_mean_distance_is_the_mean_internal_error(dtype: str) -> None:
    """Whatever its size: golden lies anywhere between two numbers of the dtype."""
    generator = torch.Generator().manual_seed(0)
    golden = torch.rand(200_000, dtype=torch.float64, generator=generator) + 1
    unit = spacing(golden, dtype)
    for size in (0.01, 0.3, 2.5):
        error = size * torch.randn(golden.shape, dtype=torch.float64, generator=generator) * unit
        away = (rounded(golden + error, dtype) - rounded(golden, dtype)).abs() / unit
        wanted = (error.abs() / unit).mean()
        assert abs(away.mean() - wanted) < 5 * (away.std() / golden.numel() ** 0.5)


def test_counts_add_up_and_survive_json() -> None:
    """In any order, by class; a case without rows adds nothing."""
    path = SOUND["rounded-weights"]
    texts = ["S=40,pos=39,H=16,D=16,dtype=bf16", "S=90,pos=80,H=16,D=16,dtype=bf16"]
    each = [count(problem(t), path(problem(t).inputs).output, Precision()) for t in texts]
    both, other = Counts(), Counts()
    for one in (Counts(), *each):
        both += Counts.from_values(json.loads(json.dumps(one.to_values())))
    for one in (*reversed(each), Counts()):
        other += one
    assert set(both.cells) == {("bfloat16", 5, 16), ("bfloat16", 6, 16)}
    pool, same = both.pooled("bfloat16"), other.pooled("bfloat16")
    assert (pool.rows, pool.elements, pool.exact) == (same.rows, same.elements, same.exact)
    assert (pool.rows, pool.elements) == (32, 512)
    assert sum(pool.bins.values()) == 512
    assert both.pooled("bfloat16", 6).rows == 16
    assert both.gains["bfloat16"].gain == pytest.approx(other.gains["bfloat16"].gain)


@pytest.mark.parametrize(
    ("text", "precision", "counted"),
    [
        ("S=40,pos=39,H=16,D=16,dtype=bf16", Precision(), True),
        ("S=40,pos=39,H=15,D=16,dtype=bf16", Precision(), False),
        ("S=40,pos=39,H=16,D=16,logits=equal,dtype=bf16", Precision(), False),
        ("S=40,pos=39,H=16,D=16,probe=needle:3,dtype=bf16", Precision(), False),
        ("S=40,pos=39,H=16,D=16,score=sink,dtype=bf16", Precision(), False),
        ("S=40,pos=39,H=16,D=16,dtype=bf16", Precision(accumulator="bfloat16"), False),
    ],
)
def test_rows_with_random_data_are_counted(text: str, precision: Precision, counted: bool) -> None:
    """Not few ones, not data that make roundings depend on each other, nor sums whose loss depends
    on their order."""
    given = problem(text)
    found = observe(given, judge(SOUND["rounded-weights"], given), precision)
    assert bool(found.cells) is counted
