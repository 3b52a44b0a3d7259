"""Scripts for a user's function: each verdict shows again, and not where nothing is wrong."""

import functools
import itertools
import json
from pathlib import Path

import black
import pytest
import torch

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.case.features import FEATURES
from harness.case.precision import Precision
from harness.faults.mutants import MODEL, Scope
from harness.function.load import target_path
from harness.inputs import make_inputs
from harness.script import text as script_text
from harness.script.function_script import target_script
from harness.script.watch import WATCHED
from harness.strategies.drawing import domain_cases
from harness.support.environment import environment
from harness.verdict import Verdict, judge, judgeable
from tests.support import MUTANT_TARGETS, ROOT
from tests.support.day import nightly, parts
from tests.support.mutant_targets import MUTANTS, identifier, sound
from tests.support.processes import Preloaded

EVERYTHING = Domain(tuple(FEATURES), (16, 24, 64), (1, 300))
# What cannot be asked of a user's function: sinks, and a position before the sequence's first.
# ALiBi without the offset is a constant for all slots of a row, which the softmax takes out. Caches
# of nine blocks are longer than those drawn here.
INEXPRESSIBLE = {
    "left-padding-attended",
    "ninth-split-dropped",
    "score-without-offset",
    "sinks-missing-from-denominator",
}
SMALL = "S=40,pos=5,D=16,tail=poison"
LAYOUTS = ("contiguous", "bshd", "longer", "stacked", "stepped", "expanded")
# Runs scripts as main modules, one after the other: importing the mutants takes longer than any.
MANY = """
import contextlib, ctypes, json, os, runpy, sys
statuses = []
for script in json.load(open(sys.argv[1])):
    status = 0
    ctypes.CDLL(None).mallopt(-6, 0)  # Scripts before it may have left junk in new memory.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
        except BaseException as error:
            status = f"{script}: {error!r}"
    statuses.append(int(status) if isinstance(status, bool) else status)
print(json.dumps(statuses))
"""


def statuses(texts: list[str], folder: Path, preloaded: Preloaded) -> list[int | str]:
    """How each script ends, all in one process, whose files may import the project."""
    scripts = [folder / f"show{index}.py" for index in range(len(texts))]
    for script, text in zip(scripts, texts, strict=True):
        script.write_text(text)
    many = folder / "many.py"
    many.write_text(MANY)
    (folder / "scripts.json").write_text(json.dumps([*map(str, scripts)]))
    result = preloaded.run(many, folder / "scripts.json", folder=folder, path=[ROOT])
    assert result.returncode == 0, result.stderr
    found: list[int | str] = json.loads(result.stdout.splitlines()[-1])
    return found


def failures(names: list[str]) -> dict[str, tuple[DecodeCase, Verdict]]:
    """The first drawn case on which each mutant fails, and how."""
    left = {name: target_path(name, MUTANTS[name], EVERYTHING, Precision()) for name in names}
    found = {}
    for problem in judgeable(itertools.islice(domain_cases(EVERYTHING, 2), 600)):
        case = problem.case
        for name, path in list(left.items()):
            judgement = judge(path, problem)
            if not judgement.verdict.passes:
                found[name] = case, judgement.verdict
                del left[name]
        if not left:
            break
    return found


def showing() -> list[str]:
    """The mutants that a script can show, wrong in all rows or in one head."""
    return [
        name
        for name, (fault, _, where) in ((name, name.partition("@")) for name in MUTANTS)
        if fault not in INEXPRESSIBLE and where in ("", Scope.HEAD)
    ]


@pytest.mark.parametrize("names", parts(showing(), 6), ids=lambda names: names[0])
def test_every_mutant_shows_again_in_its_script(
    names: list[str], tmp_path: Path, preloaded: Preloaded
) -> None:
    """Exit 1 for the mutant, exit 0 for the sound model in the same script."""
    found = failures(names)
    assert set(names) == set(found)
    texts = []
    for function in (identifier, lambda name: "sound"):
        for name, (case, verdict) in found.items():
            target = f"{MUTANT_TARGETS}:{function(name)}"
            texts.append(target_script(target, case, "cpu", verdict))
    ends = statuses(texts, tmp_path, preloaded)
    wrong, right = ends[: len(found)], ends[len(found) :]
    assert {name: end for name, end in zip(found, wrong, strict=True) if end != 1} == {}
    assert {name: end for name, end in zip(found, right, strict=True) if end != 0} == {}


PLANTED = """
import ctypes, os, sys, time
import torch

def good(q, k, v, p):
    print("noise")
    s = (q.double() @ k.double().mT * q.size(3) ** -0.5)[..., : p[0] + 1]
    return (s.softmax(-1) @ v[:, :, : p[0] + 1].double()).to(q.dtype)

def segfault(q, k, v, p): ctypes.string_at(0)
def leaves(q, k, v, p): os._exit(0)
def hangs(q, k, v, p): time.sleep(600)
def hoards(q, k, v, p):
    hoard = []
    while True: hoard.append(torch.empty(2**27))
def raises(q, k, v, p): raise IndexError("list index out of range")
def exits(q, k, v, p): sys.exit(0)
def writes(q, k, v, p):
    k[0, 0, 0, 0] += 1
    return good(q, k, v, p)
def threads(q, k, v, p):
    torch.set_num_threads(7)
    return good(q, k, v, p)
def view(q, k, v, p): return v[:, :, :1]
def nan(q, k, v, p): return good(q, k, v, p) * torch.nan
def pair(q, k, v, p): return good(q, k, v, p), None
def shape(q, k, v, p): return good(q, k, v, p)[0]
def dtype(q, k, v, p): return good(q, k, v, p).double()
def wrong(q, k, v, p): return good(q, k, v, p - 1)
def leaks(q, k, v, p): return good(q, k, v, p) + (v[0, 0, -1, 0] > 100)
def random(q, k, v, p): return good(q, k, v, p) * (1 + torch.rand(()) * 1e-3)
def unwritten(q, k, v, p):
    return torch.where(torch.arange(16) > 0, good(q, k, v, p), torch.empty(16))
"""
KINDS = [
    ("segfault", Verdict.CRASH, "the process ended with -11"),
    ("leaves", Verdict.CRASH, "the process ended with 0"),
    ("hangs", Verdict.TIMEOUT, "in hangs"),
    ("hoards", Verdict.OOM, "allocate memory"),
    ("raises", Verdict.ERROR, "IndexError: list index out of range"),
    ("exits", Verdict.CRASH, "the process ended with 0"),
    ("writes", Verdict.MUTATED, "changed: key_cache"),
    ("threads", Verdict.MUTATED, "changed: torch.get_num_threads"),
    ("view", Verdict.MUTATED, "changed: value_cache"),
    ("nan", Verdict.NONFINITE, "[0, 0, 0, 0]: nan, "),
    ("pair", Verdict.WRONG, "tuple is [None, None, None, None], should be [(1, 1, 1, 16)"),
    ("shape", Verdict.WRONG, "Tensor is [torch.Size([1, 1, 16]), "),
    ("dtype", Verdict.WRONG, "torch.float64"),
    ("wrong", Verdict.WRONG, "error in rounding budgets"),
    ("leaks", Verdict.LEAK, "other values in slots that nobody attends: 16 of 16"),
    ("random", Verdict.NONDETERMINISTIC, "with junk in new memory: "),
    ("unwritten", Verdict.NONDETERMINISTIC, "with junk in new memory: 1 of 16"),
]


@pytest.mark.parametrize(("name", "verdict", "message"), KINDS)
def test_every_kind_of_verdict_shows_again(
    name: str, verdict: Verdict, message: str, tmp_path: Path, preloaded: Preloaded
) -> None:
    """In a process of its own: exit 1, and a line that says what is wrong."""
    (tmp_path / "mine.py").write_text(PLANTED)
    case = DecodeCase.from_text(SMALL)
    text = target_script(f"mine.py:{name}", case, "cpu", verdict, timeout=2)
    (tmp_path / "show.py").write_text(text)
    result = preloaded.run("show.py", folder=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert message in result.stdout + result.stderr


def test_no_kind_of_script_accuses_a_sound_function(tmp_path: Path, preloaded: Preloaded) -> None:
    """It prints, which is no fault; a module by its dotted name, and one named as Python's own."""
    (tmp_path / "kernels").mkdir()
    for name in ("mine.py", "kernels/random.py"):
        (tmp_path / name).write_text(PLANTED)
    case = DecodeCase.from_text(SMALL)
    targets = ("mine.py:good", "mine:good", "kernels/random.py:good")
    # Those of Triton kernels need Triton, see test_sanitizer.py.
    kinds = [v for v in Verdict if not v.passes and v not in (Verdict.CRASH, *WATCHED)]
    texts = [target_script(t, case, "cpu", kind) for t in targets for kind in kinds]
    assert statuses(texts, tmp_path, preloaded) == [0] * len(texts)
    (tmp_path / "show.py").write_text(target_script(targets[0], case, "cpu", Verdict.CRASH))
    assert preloaded.run("show.py", folder=tmp_path).returncode == 0


def test_a_declared_precision_widens_the_scripts_budget(
    tmp_path: Path, preloaded: Preloaded
) -> None:
    """Scores rounded to bfloat16 are wrong unless they are declared."""
    name = "scores-rounded-to-bfloat16"
    case, verdict = failures([name])[name]
    target = f"{MUTANT_TARGETS}:{identifier(name)}"
    declared = Precision(score="bfloat16")
    texts = [
        target_script(target, case, "cpu", verdict, precision=precision)
        for precision in (None, declared)
    ]
    assert statuses(texts, tmp_path, preloaded) == [1, 0]


def _note(seen: list[tuple[torch.Tensor, ...]], *tensors: torch.Tensor) -> None:
    seen.append(tensors)


@pytest.mark.parametrize(
    "layout", [*LAYOUTS, "bshd,vlayout=stepped", "contiguous,vlayout=bshd,qlayout=projected"]
)
def test_the_function_gets_the_harness_tensors(layout: str) -> None:
    """The same bits, strides and offset; memory of its own at every call."""
    for heads in (1, 3):
        case = DecodeCase.from_text(f"S=9,pos=4,B=2,H={heads},D=16,layout={layout},tail=nan")
        text = target_script("math:sqrt", case, "cpu", Verdict.CRASH)
        names: dict[str, object] = {"__file__": "show.py"}
        start, end = text.index("\nB, HQ"), text.index("\n\ncall(key, value)")
        exec(f"import importlib, math, sys, torch\n{text[start:end]}", names)
        seen: list[tuple[torch.Tensor, ...]] = []
        names["decode"] = functools.partial(_note, seen)
        for _ in range(2):
            exec("call(key, value)", names)
        inputs = make_inputs(case)
        wanted = (inputs.query, inputs.key_cache, inputs.value_cache, inputs.input_pos)
        for first, second, right in zip(*seen, wanted, strict=True):
            assert first.nan_to_num(7.0).equal(right.nan_to_num(7.0))
            assert (first.stride(), first.storage_offset()) == (
                right.stride(),
                right.storage_offset(),
            )
            assert first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("count", [8, nightly(40)])
def test_scripts_fit_on_a_page_and_black_has_nothing_to_do(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 80 lines for every verdict, wherever the function lies, on CPU and GPU; some more
    where a logit without a value takes part, where caches are quantised, for what a call changes,
    and where Triton kernels are watched."""
    gpu = environment("cpu") | dict(device="cuda:0", gpu="NVIDIA H200", cuda="13.0", tf32=False)
    monkeypatch.setattr(script_text, "environment", lambda device: gpu)
    declared = Precision(score="bfloat16", operand="bfloat16", output="float16")
    targets = itertools.cycle(["a.py:f", f"{'folder/' * 8}random.py:Kernels.f", "b.c.d:f"])
    kinds = [v for v in Verdict if not v.passes]
    for case in itertools.islice(domain_cases(EVERYTHING, 0), count):
        for kind, target, device in zip(kinds, targets, itertools.cycle(["cpu", "cuda:0"])):
            text = target_script(target, case, device, kind, precision=declared)
            assert black.format_str(text, mode=black.Mode()) == text
            lines = text.splitlines()
            more = {Verdict.MUTATED: 5} | dict.fromkeys(WATCHED, 50)
            # A race alone is told by the bits that are there after a store, too.
            more[Verdict.RACE] = 65
            limit = 80 + 15 * case.has_column + 45 * (case.cache != "none") + more.get(kind, 0)
            assert len(lines) <= limit, text
            assert (
                max(len(line) for line in lines if "folder" not in line and line[:4] != "Case")
                <= 88
            )
            assert "harness" not in text


def test_the_model_behind_the_mutants_is_sound() -> None:
    """Or else every mutant would fail for a reason of its own."""
    path = target_path(MODEL.name, sound, EVERYTHING, Precision())
    for problem in judgeable(itertools.islice(domain_cases(EVERYTHING, 2), 60)):
        assert judge(path, problem).findings == ()
