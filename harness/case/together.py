"""What fields of a case cannot be together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.case.errors import CaseError
from harness.case.fields import Spec
from harness.case.forms import clashes as form_clashes
from harness.case.layouts import clash as layouts_clash

if TYPE_CHECKING:
    from harness.case.decode_case import DecodeCase


def clash(case: DecodeCase) -> str | None:
    """The reason why fields of a case, each of which is allowed by itself, cannot be together; or
    None."""
    last = case.cache_len - case.q_len
    most = max(case.input_pos, default=0)
    reasons = {
        f"kv_heads (Hkv): {case.kv_heads} does not divide H {case.heads}": (
            case.heads % case.kv_heads == 0
        ),
        f"q_len (Q): {case.q_len} exceeds cache_len (S) {case.cache_len}": last >= 0,
        f"input_pos (pos): {most} is beyond the cache; allowed are -1 (idle) and 0 to S - Q ="
        f" {last}": most <= last,
        "dynamic: needs mode=compiled or mode=reduce-overhead": (
            not case.dynamic or case.mode != "eager"
        ),
        f"kernels: {case.kernels} needs mode=compiled": (
            case.kernels == "cpp" or case.mode == "compiled"
        ),
    }
    for name, argument in case.mask_kind.arguments.items():
        value = case.mask_arguments[name]
        text = f"mask: {name} {value} exceeds cache_len (S) {case.cache_len}"
        reasons[text] = not argument.in_cache or value <= case.cache_len
    probe, arguments = Spec.parse_one(case.probe)
    text = f"probe: needle slot must be below cache_len (S) {case.cache_len}"
    reasons[text] = probe != "needle" or arguments[0] < case.cache_len
    reasons |= _quantised(case, probe) | form_clashes(case)
    reason = next((reason for reason, fine in reasons.items() if not fine), None)
    reason = reason or layouts_clash(case.layout_kind, case.value_layout_kind, case.batch)
    return reason or _earlier(case)


def _earlier(case: DecodeCase) -> str | None:
    """Why a call before this one is none."""
    if case.earlier and case.mode == "eager":
        return "earlier: needs mode=compiled or mode=reduce-overhead"
    if case.cache_len in case.earlier:
        return f"earlier: {case.cache_len} is the length of the call itself (S)"
    if case.earlier and min(case.earlier) < case.q_len:
        return f"earlier: {min(case.earlier)} is shorter than the query (Q), {case.q_len}"
    try:
        case.earlier_calls()
    except CaseError as error:
        return f"earlier: {error}"
    return None


def _quantised(case: DecodeCase, probe: str) -> dict[str, bool]:
    kind = case.quantised
    if kind is None:
        return {}
    layouts = {case.layout, case.value_layout_kind.name}
    return {
        f"cache: {case.cache} needs contiguous caches": layouts == {"contiguous"},
        f"cache: {case.cache} goes with probe=none or uniform, since others need certain numbers": (
            probe in ("none", "uniform")
        ),
        f"cache: {case.cache} goes with finite tails alone": (
            case.tail_kind.finite or kind.feature == "fp8"
        ),
    }
