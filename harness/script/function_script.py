"""Standalone scripts for a user's function and a case, which need torch and that function alone.

A script holds only what is needed to see its verdict again: a wrong output needs the oracle, a
crash does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from harness.case import TAILS, DecodeCase
from harness.case.features import features_of, given_options
from harness.case.layouts import PROJECTED
from harness.case.precision import Precision
from harness.case.visible import tail
from harness.script.endings import crash, ending, mutated
from harness.script.inputs import drawn, filled, other_tail, parameters
from harness.script.oracle import (
    budget_lines,
    golden_lines,
    intermediates,
    product_lines,
    score_lines,
)
from harness.script.quantised import copied, junk_scales, quantised
from harness.script.text import both, bracketed, laid_out, quoted, script
from harness.script.watch import INTERPRET, WATCHED, in_reverse, watched_call, watching
from harness.verdict import Verdict
from harness.verdict.junk import M_PERTURB, PERTURB

INPUTS_END = "# The function under test."
_ENDS = (Verdict.ERROR, Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM)
_REPEATS = (Verdict.LEAK, Verdict.NONDETERMINISTIC)


def target_script(
    target: str,
    case: DecodeCase,
    device: str,
    verdict: Verdict = Verdict.WRONG,
    *,
    precision: Precision | None = None,
    timeout: float = 30.0,
    triton: bool = False,
) -> str:
    """A script that calls the function on the case and exits 1 while the verdict holds.

    - WRONG, NONFINITE: the result against float64, with a table of the largest errors;
    - LEAK, NONDETERMINISTIC: calls with another tail and with junk in new memory, bit for bit;
    - MUTATED: the caches' memory, the inputs and the process's settings, before and after;
    - ERROR: what it raises; OOM: the same with memory limited;
    - CRASH: the calls in a child process, whose status is shown; TIMEOUT: a traceback of where
      it hangs after ``timeout`` seconds;
    - OUT_OF_BOUNDS, UNINITIALISED, RACE: the call with its Triton kernels watched.

    With ``triton``, Triton kernels run in Triton's interpreter.
    """
    title = f"Exit code 1 while {target} is {verdict} on this case."
    body = _body(target, case, device, verdict, precision, timeout, triton)
    return script(title, case, device, body)


def _body(
    target: str,
    case: DecodeCase,
    device: str,
    verdict: Verdict,
    precision: Precision | None,
    timeout: float,
    triton: bool,
) -> Iterator[str]:
    if triton or verdict in WATCHED:
        yield INTERPRET
    if verdict is Verdict.CRASH:
        yield from crash()
    yield from drawn(case, device)
    yield 'b, h, q, kv = torch.meshgrid(*map(torch.arange, (B, HQ, Q, S)), indexing="ij")'
    yield "t = pos[b] + q  # the query's position"
    rule = case.mask_kind.script.format(**case.mask_arguments)
    yield f"allowed = ({rule}) & (pos[b] >= 0)"
    yield from filled(case)
    if case.quantised:
        yield from quantised(case, case.quantised)
    yield ""
    yield INPUTS_END
    if verdict in WATCHED:
        yield from watching(verdict, gaps=_has_gaps(case, verdict))
    yield from imported(target, "decode")
    if case.mode != "eager":
        yield f"decode = torch.compile(decode, fullgraph=True, dynamic={case.dynamic})"
    yield from _call(case, device, verdict)
    if verdict is Verdict.MUTATED:
        yield from mutated(case)
    elif verdict in WATCHED:
        yield from watched_call(verdict)
    elif verdict in _ENDS:
        yield from ending(verdict, timeout, device, _others(case, device))
    elif verdict in _REPEATS:
        yield from _repeats(case, device, in_reverse() if triton else [])
    else:
        yield from _numbers(case, device, precision or Precision())


def imported(target: str, by: str) -> Iterator[str]:
    """Statements that import the target under the name ``by``."""
    place, _, name = target.rpartition(":")
    folder, module = "", place
    if place.endswith(".py"):
        folder, module = str(Path(place).parent), Path(place).stem
    yield from bracketed("sys.path.insert(", ["0", quoted(folder)], ")")
    if folder and module in (*sys.stdlib_module_names, "torch"):
        # An import by this name would find the module of the standard library, or torch.
        first, dot, rest = name.partition(".")
        end = f")[{quoted(first)}]{dot}{rest}"
        yield from bracketed(f"{by} = runpy.run_path(", [quoted(place)], end)
    else:
        yield from bracketed(f"{by} = importlib.import_module(", [quoted(module)], f").{name}")


def _options(case: DecodeCase, device: str) -> Iterator[str]:
    yield from (f"{name}={value}" for name, value in given_options(case).items())
    for parameter, _ in parameters(case):
        yield f"{parameter.name}={parameter.short}" + ("" if device == "cpu" else ".to(DEVICE)")
    if case.scale is not None:
        yield "scale=SCALE"


def _copies(case: DecodeCase, indent: str = "") -> Iterator[str]:
    if case.quantised:
        yield from copied(case.quantised, indent)
        if case.query_layout != "contiguous":
            yield from laid_out("q", PROJECTED[0], indent)
            yield f"{indent}q = q{PROJECTED[1]}"
        return
    yield f"{indent}q, k, v, p = (x.to(DEVICE, copy=True) for x in (query, key, value, pos))"
    if case.query_layout != "contiguous":
        yield from laid_out("q", PROJECTED[0], indent)
        yield f"{indent}q = q{PROJECTED[1]}"
    if case.value_layout_kind is case.layout_kind:
        if case.layout != "contiguous":
            yield from both("k, v", "".join(case.layout_kind.script), "k, v", indent)
        return
    for name, kind in (("k", case.layout_kind), ("v", case.value_layout_kind)):
        yield from laid_out(name, "".join(kind.script), indent)


def _has_gaps(case: DecodeCase, verdict: Verdict) -> bool:
    return verdict is Verdict.OUT_OF_BOUNDS and "strided" in features_of(case)


def _call(case: DecodeCase, device: str, verdict: Verdict) -> Iterator[str]:
    """The function ``call(key, value)``, which copies its tensors in every call."""
    yield from bracketed("options = dict(", list(_options(case, device)), ")")
    if verdict is Verdict.MUTATED:
        yield from _copies(case)
        if case.quantised:
            yield "options = given"
        return
    yield ""
    yield ""
    yield "def call(key, value):"
    yield from _copies(case, "    ")
    call = f"return decode(q, k, v, p, **{'given' if case.quantised else 'options'})"
    if _has_gaps(case, verdict):
        yield "    hand(q, k, v, p)"
    yield "    with torch.no_grad():"
    yield f"        {call}"
    yield ""
    yield ""


def _numbers(case: DecodeCase, device: str, precision: Precision) -> Iterator[str]:
    yield "out = call(key, value)"
    yield 'facts = [getattr(out, x, None) for x in ("shape", "dtype", "device", "layout")]'
    yield "wanted = [(B, HQ, Q, DV), DTYPE, query.to(DEVICE).device, torch.strided]"
    yield "if facts != wanted:"
    yield '    sys.exit(f"{type(out).__name__} is {facts}, should be {wanted}")'
    yield from product_lines(case)
    yield "# Golden, and what rounding can explain: float64 over the attended slots."
    yield from golden_lines(case, score_lines(case))
    yield from budget_lines(case, device, precision, intermediates(case))
    yield ""
    yield "error = (out.cpu() - golden).abs()"
    yield "used = (error / budget.clamp(min=1e-300)).nan_to_num(math.inf).flatten()"
    yield 'print("[b, h, q, d]: result, should be, error in rounding budgets")'
    yield "for i in used.argsort(descending=True)[:5]:"
    yield "    at = torch.unravel_index(i, out.shape)"
    yield '    print(f"{[*map(int, at)]}: {out[at]:.6g}, {golden[at]:.6g}, {used[i]:.3g}")'
    yield "sys.exit(not (error <= budget).all())"


def _others(case: DecodeCase, device: str) -> Iterator[str]:
    """Statements with the other calls by which a function is judged: with another tail, and with
    junk in new memory."""
    if tail(case).any():
        yield "given = key, value"
        yield from _other_tail(case)
        yield "call(key, value)  # other values in slots that nobody attends"
        yield "key, value = given"
    yield from _junk(device)
    yield "call(key, value)  # with junk in new memory"


def _other_tail(case: DecodeCase) -> Iterator[str]:
    yield from other_tail(case)
    if case.quantised:
        finite = TAILS[case.tail_kind.other].finite
        yield from junk_scales(case, case.quantised, finite=finite)


def _junk(device: str) -> Iterator[str]:
    if device == "cpu":
        yield f"ctypes.CDLL(None).mallopt({M_PERTURB}, {PERTURB})  # glibc: new memory holds junk"
    else:
        yield "sizes = [2**n for n in range(9, 27)]"
        yield "[torch.full((n,), 254, dtype=torch.uint8, device=DEVICE) for n in sizes]"


def _repeats(case: DecodeCase, device: str, more: list[str]) -> Iterator[str]:
    yield "out = call(key, value).cpu().clone()"
    yield "again = {}"
    if tail(case).any():
        yield "given = key, value"
        yield from _other_tail(case)
        yield 'again["other values in slots that nobody attends"] = call(key, value).cpu().clone()'
        yield "key, value = given"
        if case.quantised:
            yield from junk_scales(case, case.quantised, finite=case.tail_kind.finite)
    yield from _junk(device)
    yield 'again["junk in new memory"] = call(key, value).cpu().clone()'
    yield from more
    yield "bad = False"
    yield "for what, other in again.items():"
    yield "    changed = (out != other) & ~(out.isnan() & other.isnan())"
    yield '    print(f"with {what}: {changed.sum()} of {out.numel()} elements changed")'
    yield "    for i in changed.nonzero().tolist()[:5]:"
    yield '        print(f"  {tuple(i)}: {out[tuple(i)]:.6g}, then {other[tuple(i)]:.6g}")'
    yield "    bad = bad or bool(changed.any())"
    yield "sys.exit(bad)"
