"""The same call in every form in which it can be written: right, but for known failures of torch;
and as a script."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import black
import pytest
import torch

from harness.case import CaseError, DecodeCase
from harness.case.forms import TABLE_SIZES, TABLES
from harness.case.layouts import QUERY_LAYOUTS
from harness.inputs import Inputs, make_inputs
from harness.paths import PATHS
from harness.paths.calls import Call
from harness.paths.forms import Inside, tables_of
from harness.script.case_script import INPUTS_END, case_script
from harness.strategies.corners import corner_cases, data_cases
from harness.strategies.factors import KERNELS, Geometry, covering, geometry, possible_pairs
from harness.verdict import Problem, Verdict, judge
from harness.verdict.known_failures import known_failure
from tests.support.processes import Preloaded

FULL = PATHS["full-cache"]
RAGGED = "S=200,pos=150/60/-1,H=4,Hkv=2,D=16,block=16,tail=poison"
SHARED = "S=200,B=2,pos=150,H=4,Hkv=2,D=16,block=16,tail=poison"
FORMS = [
    *(f"{RAGGED},tables={form}" for form in TABLES[1:]),
    *(f"{RAGGED},tsize={form}" for form in TABLE_SIZES[1:]),
    *(f"{RAGGED},capture={form}" for form in ("view", "computed")),
    f"{SHARED},capture=number",
    *(f"{RAGGED},qlayout={form}" for form in QUERY_LAYOUTS[1:]),
    f"{RAGGED},layers=3",
    f"{RAGGED},options=partition:64",
    f"{RAGGED},layout=bshd,vlayout=stacked,views=inside",
    f"{RAGGED},recipe=kv-blocks,tables=counts-expanded",
    f"{RAGGED},recipe=kv-blocks,tsize=one,tables=padded",
    f"{RAGGED},Q=20,mask=window:30,tables=counts-expanded",
    f"{RAGGED},Q=20,mask=prefix:50,tables=full-expanded,tsize=heads",
    f"{RAGGED},layers=2,capture=view,tables=inside,qlayout=tokens-inside,views=inside,layout=wider",
]


@pytest.mark.parametrize("text", FORMS)
def test_every_form_shows_the_same_slots(text: str) -> None:
    """Eager FlexAttention, which is held to golden, with the tail poisoned."""
    case = DecodeCase.from_text(text)
    assert judge(FULL, Problem.of(case)).findings == ()


@pytest.mark.parametrize("text", [t for t in FORMS if "tables" in t or "tsize" in t])
def test_tables_by_hand_list_what_the_mask_shows(text: str) -> None:
    """Full blocks are shown whole, and what is in no listed block is not shown; eager
    FlexAttention does not read the tables."""
    inputs = make_inputs(DecodeCase.from_text(text))
    mask = FULL.prepare(inputs).arguments["block_mask"]
    if isinstance(mask, Inside):
        mask = mask.block_mask()
    case, (q_block, kv_block) = inputs.case, inputs.case.block_size
    counts, indices, full_counts, full_indices = tables_of(mask)
    grid = torch.meshgrid(
        *map(torch.arange, (case.batch, 1, case.q_len, case.cache_len)), indexing="ij"
    )
    shown = mask.mask_mod(*grid)
    assert counts is not None and indices is not None
    for b, row in itertools.product(range(case.batch), range(counts.size(2))):
        tokens = shown[b, 0, row * q_block : (row + 1) * q_block]
        z = b % counts.size(0)
        partial = indices[z, -1, row, : counts[z, -1, row]].tolist()
        full: list[int] = []
        if full_counts is not None and full_indices is not None:
            full = full_indices[z, -1, row, : full_counts[z, -1, row]].tolist()
        assert len({*partial, *full}) == len(partial) + len(full)
        for block, slots in enumerate(tokens.split(kv_block, -1)):
            assert bool(slots.all()) or block not in full
            assert not slots.any() or block in (*partial, *full)


def test_expanded_counts_have_no_stride_over_the_batch() -> None:
    """Of partial blocks alone, or of full ones alone; the other tables lie as they are."""
    for form, which in (("counts-expanded", 0), ("full-expanded", 2)):
        inputs = make_inputs(DecodeCase.from_text(f"{RAGGED},tables={form}"))
        tables = tables_of(FULL.prepare(inputs).arguments["block_mask"])
        strides = [0 if t is None else t.stride(0) for t in tables]
        assert [n for n, stride in enumerate(strides) if stride == 0] == [which]


# By the name of the known failure that a form shows once it is compiled, or "".
COMPILED = {
    "S=256,pos=60/150,H=4,Hkv=2,D=32,block=64,tsize=heads,tables=reversed,capture=view,layers=2,"
    "qlayout=projected-inside,Q=7": "",
    "S=256,pos=60/150,H=2,D=32,block=64,tables=sliced,kernels=avx2": "",
    "S=1024,pos=700,H=2,D=32,tables=padded,options=partition:512,layout=bshd,vlayout=stepped,"
    "views=inside": "",
    "S=200,pos=60/150,H=4,Hkv=2,D=32,block=64,earlier=600/130,recipe=kv-blocks,layout=bshd": "",
    "S=600,pos=599/150,D=32,earlier=130/2048,dynamic=yes,views=inside,layout=wider,"
    "qlayout=projected-inside": "flexcpu-view-offset-dropped",
    "S=256,pos=60/150,D=16,tables=counts-expanded,tail=poison": "flexcpu-full-table-strides",
    "S=256,pos=60,D=16,capture=computed": "flexcpu-computed-capture",
    "S=256,pos=60,D=16,qlayout=product": "flexcpu-linear-query",
    "S=1024,pos=600,D=16,Q=4,qlayout=tokens-inside": "flexcpu-split-kernel-for-chunk",
    "S=256,pos=60,D=16,recipe=compiled": "flexcpu-create-mask-padding",
}


@pytest.mark.compiles
@pytest.mark.parametrize("text", COMPILED)
def test_a_compiled_form_is_right_but_for_known_failures(text: str) -> None:
    """Each known failure shows in the region that is left out for it, and in no other here."""
    problem = Problem.of(DecodeCase.from_text(f"{text},mode=compiled"))
    known = known_failure(FULL, problem)
    assert (known.name if known else "") == COMPILED[text]
    assert (judge(FULL, problem).verdict is Verdict.OK) == (known is None)


@pytest.mark.parametrize("text", [*FORMS, *(f"{text},mode=compiled" for text in COMPILED)])
def test_a_script_of_a_form_is_as_black_writes_it_and_draws_the_same_query(text: str) -> None:
    """Its first part runs, whatever the form."""
    case = DecodeCase.from_text(text)
    script = case_script(case, "cpu")
    assert black.format_str(script, mode=black.Mode()) == script
    names: dict[str, torch.Tensor] = {}
    exec(script.split(INPUTS_END)[0], names)
    assert torch.equal(names["query"], make_inputs(case).query)


@pytest.mark.parametrize("text", [FORMS[0], FORMS[-1], f"{SHARED},capture=number,tables=sliced"])
def test_a_script_of_a_sound_form_exits_0(text: str, preloaded: Preloaded, tmp_path: Path) -> None:
    """It needs torch alone."""
    file = tmp_path / "script.py"
    file.write_text(case_script(DecodeCase.from_text(text), "cpu"), encoding="utf-8")
    result = preloaded.run(file, folder=tmp_path, without=["harness", "hypothesis", "pytest"])
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.compiles
def test_a_function_that_was_called_with_other_lengths_is_compiled_for_them_first() -> None:
    """One graph for its first length, and another, whose shapes are dynamic, for all others; with
    dynamic=yes one for all."""
    for text, graphs in (("earlier=130/300", 2), ("earlier=130/300,dynamic=yes", 1)):
        case = DecodeCase.from_text(f"S=200,pos=150,D=16,mode=compiled,{text}")
        assert judge(FULL, Problem.of(case)).findings == ()
        assert FULL.graphs(case) == graphs
        assert FULL.graphs(case.replace(earlier=())) == 0


def test_earlier_calls_are_on_the_device_of_the_call() -> None:
    """Their tensors are made where those of the case are."""
    seen: list[tuple[int, torch.device]] = []

    def noted(inputs: Inputs) -> Call:
        seen.append((inputs.case.cache_len, inputs.key_cache.device))
        return Call(lambda: None, {})

    case = DecodeCase.from_text("S=20,pos=9,earlier=10/30,mode=compiled")
    path = dataclasses.replace(FULL, name="noted", prepare=noted)
    path.bound(make_inputs(case).to("meta"))
    assert seen == [(length, torch.device("meta")) for length in (20, 10, 30)]


def test_positions_of_earlier_calls_are_as_near_as_their_lengths_allow() -> None:
    """An idle sequence stays idle, and a chunk has room."""
    case = DecodeCase.from_text("S=300,pos=290/-1/3,Q=4,earlier=100/400,mode=compiled")
    assert [c.input_pos for c in case.earlier_calls()] == [(96, -1, 3), (290, -1, 3)]
    assert [c.cache_len for c in case.earlier_calls()] == [100, 400]
    assert not any(c.earlier for c in case.earlier_calls())


@pytest.mark.compiles
def test_a_script_of_a_form_that_is_wrong_exits_1(tmp_path: Path) -> None:
    """The tables that show flexcpu-full-table-strides are in it."""
    text = "S=256,pos=60/150,D=16,tables=counts-expanded,tail=poison,mode=compiled"
    file = tmp_path / "script.py"
    file.write_text(case_script(DecodeCase.from_text(text), "cpu"), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "WRONG" in run.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables=listed,recipe=row", "tables: listed cannot go with recipe=row"),
        ("tables=full-expanded,recipe=kv-blocks", "lists no full blocks"),
        ("tsize=one,tables=counts-expanded", "tsize: one cannot go with"),
        ("capture=computed,recipe=row", "capture: computed cannot go with recipe=row"),
        ("recipe=compiled", "recipe: compiled needs mode=compiled"),
        ("qlayout=product,H=64,D=64", "qlayout: product needs"),
        ("earlier=50", "earlier: needs mode=compiled"),
        ("earlier=100,mode=compiled", "earlier: 100 is the length of the call itself"),
        ("earlier=3,Q=4,mode=compiled", "earlier: 3 is shorter than the query"),
        ("earlier=50,mask=prefix:90,mode=compiled", "earlier: mask: prefix 90 exceeds"),
        ("earlier=50,tables=listed,mode=compiled", "earlier: cannot go with tables by hand"),
        ("tables=odd", "tables .*'odd' is not one of made listed"),
        ("options=tile:8:64", "options .*8 is not a whole number 16 to 256"),
    ],
)
def test_forms_that_cannot_be_together_are_refused(text: str, said: str) -> None:
    """The error names the field and what is wrong."""
    with pytest.raises(CaseError, match=said):
        DecodeCase.from_text(f"S=100,pos=0,{text}")


def test_other_paths_refuse_forms() -> None:
    """They make their block mask themselves; a query's layout they take."""
    case = DecodeCase.from_text("S=100,pos=0,tables=listed")
    assert "makes its block mask itself" in str(PATHS["fixed"].refuses(case))
    assert PATHS["fixed"].refuses(DecodeCase.from_text("S=100,pos=0,qlayout=product")) is None


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_pool_covers_every_pair_of_which_there_is_a_geometry(kernels: str, seed: int) -> None:
    """With far fewer geometries than pairs."""
    pool = covering(kernels, seed)
    covered = set().union(*(one.pairs for one in pool))
    assert covered >= possible_pairs(kernels)
    assert len(pool) < 120
    assert len(covered) > 3000


def test_another_seed_puts_other_values_together() -> None:
    """Hardly a geometry of one is in the other; the same seed gives the same pool."""
    first, second = ({str(g.case) for g in covering("cpp", seed)} for seed in (0, 1))
    assert len(first & second) <= 1  # The empty batch has one alone.
    assert first == {str(g.case) for g in covering("cpp", 0)}


def test_a_pool_leaves_out_what_is_not_accepted() -> None:
    """Pairs that need it are no longer wanted."""

    def accepts(one: Geometry) -> bool:
        return one.case.capture != "computed"

    pool = covering("cpp", 0, accepts)
    assert all(one.case.capture != "computed" for one in pool)
    covered = set().union(*(one.pairs for one in pool))
    assert covered >= possible_pairs("cpp", accepts)


def test_a_row_that_is_no_case_is_no_geometry() -> None:
    """A chunk cannot come from a row of a square block mask."""
    assert geometry({"recipe": "row", "tokens": "3"}, "cpp") is None
    assert geometry({"recipe": "row"}, "cpp") is not None


def test_corners_are_idle_ragged_low_and_full() -> None:
    """Every kind that kernels have been wrong on, and no compiled kernel is another's."""
    base = DecodeCase.from_text("S=300,B=3,pos=0,H=2,D=16,mode=compiled")
    corners = corner_cases(base)
    assert {case.geometry for case in corners} == {base.geometry}
    assert any(max(case.input_pos) < 0 for case in corners)
    assert any(-1 in case.input_pos and max(case.input_pos) >= 0 for case in corners)
    assert any(case.input_pos == (0, 0, 299) for case in corners)
    assert {"low", "normal"} == {case.logits for case in corners}
    assert len({str(case) for case in data_cases(base, 12, 0)}) == 12
