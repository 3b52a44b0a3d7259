"""Statements of a standalone script for quantised caches, with the bits of
``harness.inputs.quantised``.

There a cache of plain numbers is encoded with scales that do not depend on them; encoding what
codes stand for gives the same codes. So a script keeps numbers, and encodes them for each call.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import DecodeCase
from harness.case.quantised import Quantised
from harness.case.visible import tail
from harness.inputs.quantised import ZEROS


def quantised(case: DecodeCase, kind: Quantised) -> Iterator[str]:
    """Statements that draw ``scales`` and ``zeros``, of keys and of values, define ``encoded``, and
    replace ``key, value`` by what their codes stand for."""
    shape = {"tensor": "()", "head": "(HKV,)", "token": "(B, HKV, S)"}[kind.grain]
    yield f"g = torch.Generator().manual_seed({(case.seed + 1) % 2**32})"
    yield "scales, zeros = [], []"
    yield "for _ in (key, value):"
    yield f"    scale = {kind.step!r} * (0.5 + torch.rand({shape}, generator=g))"
    yield "    scales.append(scale.to(torch.bfloat16).float())"
    yield f"    zero = torch.randint({-ZEROS}, {ZEROS + 1}, {shape}, generator=g)"
    drawn = kind.zero_point and case.seed % 2
    yield f"    zeros.append({'zero' if drawn else 'torch.zeros_like(zero)'})"
    yield from junk_scales(case, kind, finite=case.tail_kind.finite)
    yield ""
    yield ""
    yield "def spread(x):"
    yield "    return x.view(1, -1, 1, 1) if x.dim() == 1 else x[..., None] if x.dim() else x"
    yield ""
    yield ""
    yield "def encoded(cache, scale, zero):"
    if kind.zero_point:
        yield "    codes = (cache.float() / spread(scale)).nan_to_num(127) + spread(zero)"
        yield "    return codes.round().clamp(-128, 127).to(torch.int8)"
    else:
        yield f"    most = torch.finfo(torch.{kind.dtype}).max"
        yield "    codes = (cache.float() / spread(scale)).clamp(-most, most)"
        yield f"    return codes.to(torch.{kind.dtype})"
    yield ""
    yield ""
    yield "def decoded(cache, scale, zero):"
    yield "    codes = encoded(cache, scale, zero)"
    yield "    return (codes.float() - spread(zero)) * spread(scale)"
    yield ""
    yield ""
    yield "key, value = map(decoded, (key, value), scales, zeros)"
    if kind.zero_point:
        yield "# Twice what a zero point stands for: a code may be so much larger than its number."
        yield "sizes = (2 * spread(z.abs() * s.double()) for s, z in zip(scales, zeros))"
        more = "x.expand(B, HKV, S, 1).repeat_interleave(HQ // HKV, 1)"
        yield f"k_more, v_more = ({more} for x in sizes)"


def junk_scales(case: DecodeCase, kind: Quantised, *, finite: bool) -> Iterator[str]:
    """A statement that fills the scales of slots that nobody attends, where each token has one."""
    if kind.grain == "token" and tail(case).any():
        junk = repr(kind.junk_scale) if finite else "math.nan"
        yield f"scales = [x.masked_fill(tail[..., 0], {junk}) for x in scales]"


def copied(kind: Quantised, indent: str) -> Iterator[str]:
    """Statements that copy what the function gets, caches as codes, to ``q, k, v, p``, and its
    options with scales to ``given``."""
    lines = [
        "k, v = map(encoded, (key, value), scales, zeros)",
        "q, k, v, p = (x.to(DEVICE, copy=True) for x in (query, k, v, pos))",
        "ks, vs = (x.to(DEVICE) for x in scales)",
        "given = dict(options, key_scale=ks, value_scale=vs)",
    ]
    if kind.zero_point:
        lines.append("kz, vz = (x.to(DEVICE, torch.int32) for x in zeros)")
        lines.append("given.update(key_zero_point=kz, value_zero_point=vz)")
    yield from (f"{indent}{line}" for line in lines)
