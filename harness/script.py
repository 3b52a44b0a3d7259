"""A standalone script for a case: Python's standard library and torch alone.

The script draws the same bits as ``harness.inputs``, computes golden and the rounding budget
densely in float64, runs the calls and exits 1 while one of them is wrong.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from harness.attendable import tail
from harness.budget import UNIT_ROUNDOFF, tiny
from harness.calls import filled
from harness.case import DecodeCase
from harness.environment import environment, one_line
from harness.fields import Spec
from harness.inputs import LEVER, LOW, NEEDLE, POISON
from harness.paths import PATHS
from harness.repro import REPORT_URL

# Position t of a query row is ``pos[b] + q``.
_MASKS = {
    "causal": "kv <= t",
    "window": "(kv <= t) & (kv > t - {0})",
    "sinks": "(kv <= t) & ((kv > t - {0}) | (kv < {1}))",
    "prefix": "(kv <= t) | (kv < {0})",
    "document": "(kv <= t) & (kv // {0} == t // {0})",
}
# Statement of the score_mod, and the sum of its absolute intermediate values for the budget.
_SCORES = {
    "softcap": ("s = {0} * torch.tanh(s / {0})", "{0} * 4"),
    "alibi": ("s = s - slopes[h] * (t - kv)", "(slopes[h] * (t - kv)).abs()"),
    "bias": (
        "s = s + table[h, (t - kv).clamp(0, {0} - 1)]",
        "table[h, (t - kv).clamp(0, {0} - 1)].abs()",
    ),
    "shift": ("s = s + {0}", "abs({0})"),
}
# How a cache x comes to lie in its buffer, and the view of the buffer that is the cache.
_TABLES = {"alibi": "slopes", "bias": "table"}
LAYOUT_CODE = {
    "bshd": ("x.transpose(1, 2).contiguous()", "x.transpose(1, 2)"),
    "longer": ("F.pad(x, (0, 0, 8, 8), value=math.nan)", "x[:, :, 8:-8]"),
    "stacked": ("torch.stack([x * math.nan, x, x * math.nan])", "x[1]"),
    "expanded": ("x[:1].clone()", "x.expand(B, -1, -1, -1)"),
    "wider": ("F.pad(x, (8, 8), value=math.nan)", "x[..., 8:-8]"),
    "stepped": ("torch.stack([x, x * math.nan], 3).flatten(2, 3)", "x[:, :, ::2]"),
}
_FLEX = "torch.nn.attention.flex_attention"
INPUTS_END = "# Golden and the rounding budget, float64."


def report_script(case: DecodeCase, device: str) -> str:
    """Who is right in gpt-fast#233: both of the report's sides, and what each should have been.

    Exits 1 while one of the report's two computations is wrong.
    """
    last = case.input_pos[0]
    calls = [
        ("full cache, as reported", "flex(attends, S)"),
        ("sliced cache, as reported", "flex(lambda b, h, q, kv: q >= kv, N)"),
        ("sliced cache, with the query offset", "flex(attends, N)"),
        ("float64 SDPA over the filled slots", _SDPA64),
    ]
    end = [
        "full, sliced = (out[name] for name in list(out)[:2])",
        "error = (full - sliced).abs()",
        "relative = error.mean() / sliced.abs().mean()",
        'print(f"mean error {error.mean():.6f}, relative {relative:.1%}")',
        'print(f"std: full cache {full.std():.6f}, sliced cache {sliced.std():.6f}")',
        "first = torch.equal(sliced, value[:, :, :1])",
        'print("the sliced side equals v[:, :, :1] bit for bit:", first)',
        f'print("its one query has q_idx 0, so q >= kv shows it slot 0 alone; it sits at {last}")',
        "sys.exit(any(wrong[:2]))",
    ]
    title = f"Which side of {REPORT_URL} is wrong?"
    return _script(case, device, title, [f"N = {last + 1}  # slots filled"], calls, end)


_SDPA64 = (
    "F.scaled_dot_product_attention(\n"
    "        query.double(), key[:, :, :N].double(), value[:, :, :N].double(), scale=SCALE\n"
    "    )"
)


def case_script(case: DecodeCase, device: str) -> str:
    """The same calls as the harness's FlexAttention paths on one case.

    Exits 1 while one of them is wrong.
    """
    calls = []
    if PATHS["full-cache"].unsupported(case, device) is None:
        calls.append(("flex_attention over the whole cache", "flex(attends, S)"))
    if PATHS["sliced-offset"].unsupported(case, device) is None:
        length = filled(case)
        calls.append(("flex_attention over the filled slots", f"flex(attends, {length})"))
    if not calls:
        calls.append(("flex_attention over the whole cache", "flex(attends, S)"))
    title = "FlexAttention decoding against float64."
    return _script(case, device, title, [], calls, ["sys.exit(any(wrong))"])


def _script(
    case: DecodeCase,
    device: str,
    title: str,
    constants: list[str],
    calls: list[tuple[str, str]],
    end: list[str],
) -> str:
    lines = [
        f'"""{title}',
        "",
        f"Case: {case}",
        *textwrap.wrap(f"Written with {one_line(environment(device))}.", 88),
        "Needs torch alone. Exit code 1 while a call below is wrong, 0 otherwise.",
        '"""',
        "",
        "import math",
        "import sys",
        "",
        "import torch",
        "import torch.nn.functional as F",
        f"from {_FLEX} import BlockMask, create_block_mask, flex_attention",
        "",
        *input_lines(case, device),
        *constants,
        "",
        INPUTS_END,
        *golden_lines(case),
        *_flex(case, device),
        *_table(calls),
        *end,
    ]
    text = "\n".join(lines) + "\n"
    for name in ("F", "BlockMask", "create_block_mask"):
        if not re.search(rf"\b{name}\.|\b{name}\(", text):
            text = text.replace(f"import {name}, ", "import ").replace(f" {name}, ", " ")
            text = text.replace(f"import torch.nn.functional as {name}\n", "")
    return text


def input_lines(case: DecodeCase, device: str) -> Iterator[str]:
    """Statements that draw the case's tensors: query, key, value, pos, slopes, allowed."""
    yield f"B, HQ, HKV, Q = {case.batch}, {case.heads}, {case.kv_heads}, {case.q_len}"
    yield f"S, D, DV = {case.cache_len}, {case.head_dim}, {case.value_dim}"
    scale = "D**-0.5" if case.scale is None else repr(case.scale)
    yield f'DEVICE, DTYPE, SCALE = "{device}", torch.{case.dtype}, {scale}'
    yield f"pos = torch.tensor({list(case.input_pos)}, dtype=torch.int64)"
    yield f"g = torch.Generator().manual_seed({case.seed})"
    yield "query = torch.randn(B, HQ, Q, D, generator=g)"
    yield "key, value = (torch.randn(B, HKV, S, n, generator=g) for n in (D, DV))"
    names = dict(case.score_specs)
    if "bias" in names:
        yield f"table = torch.randn(HQ, {names['bias'][0]}, generator=g)"
    if "alibi" in names:
        yield "slopes = 2.0 ** (-8 * (torch.arange(1, HQ + 1) / HQ))"
    if case.layout == "expanded":
        yield "key, value = (x[:1].expand(B, -1, -1, -1).clone() for x in (key, value))"
    yield from _logits(case)
    yield "query, key, value = (x.to(DTYPE) for x in (query, key, value))"
    yield "b, h, q, kv = ("
    yield "    torch.arange(n).view([-1 if i == axis else 1 for i in range(4)])"
    yield "    for axis, n in enumerate((B, HQ, Q, S))"
    yield ")"
    yield ""
    yield ""
    yield "def attends(b, h, q, kv):"
    yield "    t = pos[b] + q  # the query's position"
    name, arguments = case.mask_spec
    yield f"    return ({_MASKS[name].format(*arguments)}) & (pos[b] >= 0)"
    yield ""
    yield ""
    yield "allowed = attends(b, h, q, kv)  # [B, 1, Q, S]"
    yield from _tail(case)
    yield from _needle(case)


def _logits(case: DecodeCase) -> Iterator[str]:
    lever = f"({LEVER} / SCALE) ** 0.5"
    if case.logits == "x5":
        yield "query *= 5"
    elif case.logits == "huge":
        yield "key[:, :, 0] *= 30"
    elif case.logits == "equal":
        yield "key.copy_(key[:, :, :1].expand_as(key).clone())"
    elif case.logits == "low":
        yield f"query[..., 0] = {lever}"
        yield f"key[..., 0] = {LOW} / (SCALE * {lever})"
    if case.probe in ("uniform", "integers"):
        yield "query.zero_()"
    if case.probe == "integers":
        yield "value = (value * 4).round().clamp(-8, 8)"


def _tail(case: DecodeCase) -> Iterator[str]:
    if not tail(case).any() and case.layout != "expanded":
        return
    yield "unused = ~allowed.any(2).any(1)[:, None, :, None]  # slots that no query attends"
    rows = "B"
    if case.layout == "expanded":
        yield "unused = unused.all(0, keepdim=True)"
        rows = "1"
    key_fill, value_fill = {
        "zeros": ("0.0", "0.0"),
        "leftovers": (f"torch.randn({rows}, HKV, S, D, generator=g)",) * 2,
        "poison": (f"torch.randn({rows}, HKV, S, D, generator=g)", f"{POISON}"),
        "max": (f"{POISON}", "torch.finfo(DTYPE).max"),
        "nan": ("math.nan", "math.nan"),
        "inf": ("math.inf", "math.inf"),
    }[case.tail]
    value_fill = value_fill.replace("S, D,", "S, DV,")
    for name, fill in (("key", key_fill), ("value", value_fill)):
        yield f"fill = torch.as_tensor({fill}, dtype=DTYPE)"
        yield f"{name} = torch.where(unused, fill, {name})"


def _needle(case: DecodeCase) -> Iterator[str]:
    name, arguments = Spec.parse_one(case.probe)
    if name != "needle":
        return
    base, slot = LOW if case.logits == "low" else 0.0, arguments[0]
    yield f"lever = ({LEVER} / SCALE) ** 0.5"
    yield "query[..., 0] = lever"
    yield "used = allowed.any(2).any(1)[:, None, :].expand(B, HKV, S)"
    yield f"key[..., 0] = torch.where(used, {base} / (SCALE * lever), key[..., 0])"
    yield f"key[:, :, {slot}] = 0"
    yield f"key[:, :, {slot}, 0] = {base + NEEDLE} / (SCALE * lever)"
    yield f"value[:, :, {slot}] = torch.arange(1, DV + 1).remainder(7).add(3).to(DTYPE)"


def golden_lines(case: DecodeCase) -> Iterator[str]:
    """Statements that compute golden and the default precision's budget, densely."""
    u_in, u = UNIT_ROUNDOFF[case.dtype], UNIT_ROUNDOFF["float32"]
    yield "used = allowed.any(2).any(1)[:, None, :, None]  # the tail is never read"
    yield "k, v = (x.double().masked_fill(~used, 0) for x in (key, value))"
    if case.heads != case.kv_heads:
        yield "k, v = (x.repeat_interleave(HQ // HKV, 1) for x in (k, v))"
    yield "s = query.double() @ k.mT * SCALE"
    yield "w = query.double().abs() @ k.abs().mT * SCALE"
    if case.score_specs:
        yield "t, extra = pos[b] + q, 0"
    for name, arguments in case.score_specs:
        statement, size = (text.format(*arguments) for text in _SCORES[name])
        # A float32 slope times an int64 distance would be rounded to float32.
        yield f"extra = extra + {size}"
        yield statement.replace("slopes[h]", "slopes.double()[h]")
    yield "s = s.masked_fill(~allowed, -math.inf)"
    yield "p = torch.softmax(s, -1).nan_to_num(0.0)  # a row with nothing to attend is 0"
    yield "golden, gap = p @ v, s.amax(-1, keepdim=True) - s"
    yield "s, gap = (x.masked_fill(~allowed, 0.0) for x in (s, gap))"
    yield f"u, u_in, tiny = {u!r}, {u_in!r}, {tiny(case.dtype)!r}"
    size = "s.abs() + extra" if case.score_specs else "s.abs()"
    yield f"ds = (D + 3) * u * w + 2 * u * (gap + {size})"
    yield "n = allowed.sum(-1, keepdim=True)"
    yield "e = torch.expm1(ds + (p * ds).sum(-1, keepdim=True)) + u_in + (n + 4) * u"
    yield "budget = (p * e + tiny * allowed) @ v.abs() + u_in * golden.abs() + tiny * (n > 0)"


def _flex(case: DecodeCase, device: str) -> Iterator[str]:
    tensors = ["query", "key", "value", "pos"]
    tensors += [name for score, name in _TABLES.items() if score in dict(case.score_specs)]
    pack, view = LAYOUT_CODE.get(case.layout, (None, None))
    if pack is not None:
        yield f"key, value = ({pack} for x in (key, value))"
    if device != "cpu":
        yield f"{', '.join(tensors)} = (x.to(DEVICE) for x in ({', '.join(tensors)}))"
    yield ""
    yield ""
    if view is not None:
        yield "def view(x):"
        yield f"    return {view}"
        yield ""
        yield ""
    if case.score_specs:
        yield "def score_mod(s, b, h, q, kv):"
        yield "    t = pos[b] + q"
        for name, arguments in case.score_specs:
            yield "    " + _SCORES[name][0].format(*arguments)
        yield "    return s"
        yield ""
        yield ""
    cut = "view({0})[:, :, :n]" if view is not None else "{0}[:, :, :n]"
    caches, cuts = "key, value", f"{cut.format('key')}, {cut.format('value')}"
    yield "def attention(key, value, n, block_mask):"
    if case.views == "inside":
        yield f"    key, value = {cuts}"
    mod = "score_mod" if case.score_specs else "None"
    yield f"    mods = {mod}, block_mask"
    yield "    return flex_attention(query, key, value, *mods, SCALE, HQ != HKV)"
    yield ""
    yield ""
    if case.mode != "eager":
        mode = "" if case.mode == "compiled" else f', mode="{case.mode}"'
        options = f"fullgraph=True, dynamic={case.dynamic}{mode}"
        yield f"attention = torch.compile(attention, {options})"
        yield ""
        yield ""
    yield "def flex(mask_mod, n):"
    yield from ("    " + line for line in _block_mask(case))
    yield "    with torch.no_grad():"
    if case.views == "inside":
        yield f"        return attention({caches}, n, block_mask)"
    else:
        yield f"        return attention({cuts}, n, block_mask)"
    yield ""
    yield ""


def _block_mask(case: DecodeCase) -> Iterator[str]:
    size = f"{case.block_size}"
    if case.recipe == "row":
        yield "causal = lambda b, h, q, kv: q >= kv"
        yield f"square = create_block_mask(causal, 1, None, S, S, DEVICE, {size})"
        yield f"block_mask = square[:, :, pos[:1] // {case.block_size[0]}]"
        yield "block_mask.mask_mod, block_mask.seq_lengths = mask_mod, (1, S)"
    elif case.recipe == "kv-blocks":
        rows = -(-case.q_len // case.block_size[0])
        columns = -(-case.cache_len // case.block_size[1])
        yield f"index = torch.arange({columns}, dtype=torch.int32, device=DEVICE)"
        yield f"index = index.expand(B, 1, {rows}, {columns}).contiguous()"
        yield "block_mask = BlockMask.from_kv_blocks("
        yield f"    torch.full_like(index[..., 0], {columns}),"
        yield "    index,"
        yield f"    BLOCK_SIZE={size},"
        yield "    mask_mod=mask_mod,"
        yield "    seq_lengths=(Q, S),"
        yield ")"
    else:
        yield f"block_mask = create_block_mask(mask_mod, B, None, Q, n, DEVICE, {size})"


def _table(calls: list[tuple[str, str]]) -> Iterator[str]:
    yield "out = {"
    for name, call in calls:
        yield f'    "{name}": {call},'
    yield "}"
    yield "wrong = []"
    yield "for name, actual in out.items():"
    yield "    error = (actual.cpu().double() - golden).abs()"
    yield "    used = torch.where(error == 0, 0.0, error / budget).nan_to_num(math.inf)"
    yield "    wrong.append(used.max().item() > 1)"
    yield "    relative = (error.norm() / golden.norm()).item()"
    yield '    verdict = "WRONG" if wrong[-1] else "OK"'
    yield '    print(f"{name:36} {relative:9.3%} {used.max():9.3g} budgets  {verdict}")'
