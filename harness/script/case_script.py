"""Standalone scripts for a case, which need Python's standard library and torch alone.

Such a script draws the same bits as ``harness.inputs``, computes golden and the budget densely in
float64, runs the calls and exits with 1 while one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import DecodeCase
from harness.case.forms import by_hand, made_inside
from harness.case.layouts import PROJECTED
from harness.case.precision import Precision
from harness.issue233.answer import REPORT_URL
from harness.paths import PATHS
from harness.paths.calls import filled
from harness.script import forms
from harness.script.inputs import drawn, parameters
from harness.script.inputs import filled as filled_tail
from harness.script.oracle import (
    budget_lines,
    column,
    golden_lines,
    intermediates,
    product_lines,
    score_lines,
)
from harness.script.text import both, bracketed, indented, laid_out, script

INPUTS_END = "# Golden, and what rounding can explain: float64 over the attended slots."
_SLICED = "lambda b, h, q, kv: q >= kv"

# The name of a call, its mask_mod, and how many slots of the cache it gets.
_Call = tuple[str, str, str]


def report_script(case: DecodeCase, device: str) -> str:
    """A script that shows which side of gpt-fast#233 is wrong, and the slice with its mask fixed.

    It exits with 1 while one of the report's two computations is wrong.
    """
    last = case.input_pos[0]
    length = str(last + 1)
    calls = [
        ("full cache, as reported", "attends", "S"),
        ("sliced cache, as reported", _SLICED, length),
        ("sliced cache, with the query offset", "attends", length),
    ]
    end = [
        "full, sliced = (x.double() for x in outputs[:2])",
        f"k, v = (x[:, :, :{length}].cpu().double() for x in (key, value))",
        "sdpa = torch.nn.functional.scaled_dot_product_attention",
        "other = sdpa(query.cpu().double(), k, v, scale=SCALE)",
        'print(f"float64 SDPA, filled slots: {(other - golden).abs().max():.3g} from golden")',
        "mean = (full - sliced).abs().mean()",
        'print(f"mean error {mean:.6f}, relative {mean / sliced.abs().mean():.1%}")',
        'print(f"std: full cache {full.std():.6f}, sliced cache {sliced.std():.6f}")',
        "first = torch.equal(sliced, value[:, :, :1].cpu().double())",
        'print("the sliced side equals v[:, :, :1] bit for bit:", first)',
        f'print("its one query has q_idx 0, sees slot 0 alone, and sits at {last}")',
        "sys.exit(any(wrong[:2]))",
    ]
    title = f"{REPORT_URL}: exit code 1 while a side is off."
    return script(title, case, device, [*_body(case, device, calls), *end])


def case_script(case: DecodeCase, device: str) -> str:
    """A script that makes the calls of ``full-cache`` and ``sliced-offset`` on one case.

    It exits with 1 while one of them is wrong.
    """
    calls = [("the whole cache", "attends", "S")]
    if not case.earlier and PATHS["sliced-offset"].unsupported(case, device) is None:
        sliced = ("the filled slots", "attends", str(filled(case)))
        calls.append(sliced)
    title = "FlexAttention decoding against float64: exit code 1 while a call is wrong."
    return script(title, case, device, [*_body(case, device, calls), "sys.exit(any(wrong))"])


def _body(case: DecodeCase, device: str, calls: list[_Call]) -> Iterator[str]:
    constants = [*forms.machine(case)]
    yield from [*constants, ""] if constants else []
    yield from _functions(case)
    yield ""
    yield ""
    yield from drawn(case, device)
    yield from _number(case)
    yield 'b, h, q, kv = torch.meshgrid(*map(torch.arange, (B, HQ, Q, S)), indexing="ij")'
    yield "allowed = attends(b, h, q, kv)"
    yield from filled_tail(case)
    yield ""
    yield INPUTS_END
    yield from product_lines(case)
    scores = ["score_mod(s, b, h, q, kv)"] if score_lines(case) else []
    yield from golden_lines(case, scores)
    yield from budget_lines(case, device, Precision(), intermediates(case))
    yield ""
    if case.earlier:
        yield from _at_each_length(case, device, calls[0])
        return
    yield from _placed(case, device)
    # The outputs of the report's calls are kept, to be compared with each other.
    yield ("outputs, wrong = [], []" if len(calls) > 2 else "wrong = []")
    lines = [*_call(case), *row_lines(case)]
    if len(calls) > 2:
        lines.append("outputs.append(out)")
    if len(calls) == 1:
        name, mask_mod, length = calls[0]
        yield f'name, mask_mod, n = "{name}", {mask_mod}, {length}'
        yield from lines
        return
    yield from bracketed("calls = {", [f'"{name}": ({f}, {n})' for name, f, n in calls], "}")
    yield "for name, (mask_mod, n) in calls.items():"
    yield from ("    " + line for line in lines)


def _at_each_length(case: DecodeCase, device: str, call: _Call) -> Iterator[str]:
    """The call with each of the earlier lengths, which see the same numbers as far as there are
    any, and then the one that is judged."""
    name, mask_mod, length = call
    yield "wrong = []"
    yield "given, at = (key, value), pos"
    yield from ["queries = query"] if case.query_layout != "contiguous" else []
    yield f"for S in {(*case.earlier, case.cache_len)}:"
    lines = ["pad = torch.nn.functional.pad"]
    lines += ["key, value = (pad(x, (0, 0, 0, S - x.size(2))) for x in given)"]
    lines += ["query = queries"] if case.query_layout != "contiguous" else []
    lines += ["pos = at.clamp(max=S - Q)"]
    yield from indented(lines)
    yield from _placed(case, device, "    ")
    yield from indented([f"mask_mod, n = {mask_mod}, {length}", *_call(case)])
    yield f'name = "{name}"'
    yield from row_lines(case)


def _functions(case: DecodeCase) -> Iterator[str]:
    """The functions of mask and score_mods, which flex_attention gets and golden uses too, and the
    function to compile."""
    yield ""
    yield "def attends(b, h, q, kv):"
    at = "number" if case.capture == "number" else "pos[b]"
    yield f"    t = {at} + q  # the query's position"
    yield f"    return ({case.mask_kind.script.format(**case.mask_arguments)}) & ({at} >= 0)"
    yield from score_functions(case)
    if not forms.has_function(case):
        return
    mode = "" if case.mode == "compiled" else f', mode="{case.mode}"'
    yield ""
    yield ""
    if case.mode != "eager":
        yield f"@torch.compile(fullgraph=True, dynamic={case.dynamic_shapes}{mode})"
    yield f"def {_function_call(case)}:"
    yield from indented(forms.query_view(case))
    if case.views == "inside":
        yield from _cut(case, "    ")
    if made_inside(case):
        yield from indented(forms.mask_inside(case))
    if case.layers == 1:
        yield f"    return {flex_call(case)}"
        return
    yield "    outputs = []"
    yield f"    for i in range({case.layers}):"
    yield "        q, scale = query * 2**i, SCALE / 2**i"
    yield f"        out = {flex_call(case, 'q', 'scale')}"
    yield "        outputs.append(out)"
    yield "    return outputs"


def _function_call(case: DecodeCase) -> str:
    """The function that makes the call, with its arguments."""
    caches = "key, value" if case.views == "inside" else "k, v"
    names = ["query", caches, "tables, given" if made_inside(case) else "mask"]
    names += ["n"] if case.views == "inside" else []
    names += ["eye"] if case.query_layout == "product" else []
    return f"attention({', '.join(names)})"


def score_functions(case: DecodeCase) -> Iterator[str]:
    """The functions ``score_mod`` and ``flex_with_sink``, each where the case needs it."""
    if scores := score_lines(case):
        yield ""
        yield ""
        yield "def score_mod(s, b, h, q, kv):"
        yield from (f"    s = {score}" for score in scores[:-1])
        yield f"    return {scores[-1]}"
    if name := column(case):
        yield ""
        yield ""
        yield "def flex_with_sink(*arguments, **options):"
        yield "    with_lse = AuxRequest(lse=True)"
        yield "    out, aux = flex_attention(*arguments, return_aux=with_lse, **options)"
        factor = f"(aux.lse - {name}[:, None]).sigmoid()[..., None]"
        yield f"    return (out * {factor}).to(out.dtype)"


def _cut(case: DecodeCase, indent: str = "") -> Iterator[str]:
    """``k, v``, which the call gets: the first slots of the views of the buffers."""
    key, value = case.layout_kind.script[1], case.value_layout_kind.script[1]
    if key == value:
        yield from both("k, v", f"x{key}[:, :, :n]", indent=indent)
    else:
        yield f"{indent}k, v = key{key}[:, :, :n], value{value}[:, :, :n]"


def flex_call(case: DecodeCase, query: str = "query", scale: str = "SCALE") -> str:
    """An expression that calls FlexAttention on ``query, k, v`` and a block mask, ``mask``."""
    score_mod = "score_mod" if score_lines(case) else "None"
    flex = "flex_with_sink" if column(case) else "flex_attention"
    arguments = f"{query}, k, v, {score_mod}, mask, {scale}, HQ != HKV"
    more = ", **OPTIONS" if forms.options(case) else ""
    return f"{flex}({arguments}{more})"


def _placed(case: DecodeCase, device: str, indent: str = "") -> Iterator[str]:
    """Statements that put the caches into their buffers and the tensors on the device."""
    yield from (indent + line for line in forms.placed_query(case))
    if case.query_layout == "projected":
        yield from laid_out("query", PROJECTED[0], indent)
        yield f"{indent}query = query{PROJECTED[1]}"
    if case.value_layout_kind is not case.layout_kind:
        yield from laid_out("key", case.layout_kind.script[0], indent)
        yield from laid_out("value", case.value_layout_kind.script[0], indent)
    elif case.layout != "contiguous":
        yield from both("key, value", case.layout_kind.script[0], indent=indent)
    if device != "cpu":
        names = "query, key, value, pos"
        names += "".join(f", {parameter.short}" for parameter, _ in parameters(case))
        yield from both(names, "x.to(DEVICE)", names, indent)
    if device != "cpu" or case.earlier:
        yield from (indent + line for line in _number(case))


def _number(case: DecodeCase) -> Iterator[str]:
    if case.capture == "number":
        yield "number = pos[0].clone()"


def _call(case: DecodeCase) -> Iterator[str]:
    yield from _block_mask(case)
    if case.views == "outside" or not forms.has_function(case):
        yield from _cut(case)
    if made_inside(case):
        yield f"given = {forms.given(case)}"
    call = _function_call(case) if forms.has_function(case) else flex_call(case)
    if case.layers == 1:
        yield f"out = {call}.cpu()"
        return
    yield f"layers = [out.cpu() for out in {call}]"
    yield "out = next((x for x in layers if not torch.equal(x, layers[-1])), layers[-1])"


def _block_mask(case: DecodeCase) -> Iterator[str]:
    block = case.block_size
    if by_hand(case) or made_inside(case):
        yield from forms.tables(case)
        if not made_inside(case):
            yield f"mask = {forms.mask_from_tables(case, 'mask_mod')}"
    elif case.recipe == "compiled":
        yield f"create = torch.compile(create_block_mask, fullgraph=True, dynamic={case.dynamic})"
        yield f"mask = create(mask_mod, B, None, Q, n, DEVICE, {block})"
    elif case.recipe == "row":
        yield f"past = {_SLICED}  # gpt-fast's square mask"
        yield f"mask = create_block_mask(past, 1, None, S, S, DEVICE, {block})"
        yield f"mask = mask[:, :, pos[:1] // {block[0]}]"
        yield "mask.mask_mod, mask.seq_lengths = mask_mod, (1, S)"
    elif case.recipe == "kv-blocks":
        rows, columns = -(-case.q_len // block[0]), str(-(-case.cache_len // block[1]))
        columns = f"-(-S // {block[1]})" if case.earlier else columns
        index = f"torch.arange({columns}, dtype=torch.int32, device=DEVICE)"
        yield f"index = {index}"
        yield f"index = index.repeat(B, 1, {rows}, 1)"
        yield f"blocks = torch.full_like(index[..., 0], {columns}), index, None, None, {block}"
        yield "mask = BlockMask.from_kv_blocks(*blocks, mask_mod, (Q, S))"
    else:
        yield f"mask = create_block_mask(mask_mod, B, None, Q, n, DEVICE, {block})"


def row_lines(case: DecodeCase) -> Iterator[str]:
    """Statements that print one row of the table of errors, of ``out`` against ``golden``, and add
    to the list ``wrong``."""
    yield "error = (out - golden).abs()"
    yield "wrong.append(not (error <= budget).all())"
    yield f"worst = {'(error / budget.clamp(min=1e-300)).max()' if case.batch else '0.0'}"
    yield 'word = "WRONG" if wrong[-1] else "OK"'
    relative = "{error.norm() / golden.norm():9.3%}"
    yield f'print(f"{{name:36}} {relative} {{worst:9.3g}} budgets {{word}}")'
