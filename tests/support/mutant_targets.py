"""Every mutant as a user's function: its name is ``fault`` or ``fault__scope``, with underscores.

They see what a user's function sees, its arguments; the case is read off them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.case import MASKS, SCORES, DecodeCase
from harness.case.features import FEATURES
from harness.case.kinds import Kind
from harness.case.quantised import QUANTISED, options_of_feature
from harness.faults import FAULTS, FaultKind
from harness.faults.mutants import MODEL, mutant, scopes
from harness.inputs import Inputs
from harness.inputs.quantised import CODES, decoded
from harness.paths import Path

Decode = Callable[..., Tensor]
STORED = options_of_feature("int8")


def _decode(path: Path) -> Decode:
    def decode(
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        input_pos: Tensor,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        given = {name: x for name, x in options.items() if isinstance(x, Tensor)}
        stored = {name: x for name, x in given.items() if name in STORED}
        parameters = {name: x for name, x in given.items() if name not in STORED}
        case = DecodeCase(
            cache_len=key_cache.size(2),
            input_pos=tuple(input_pos.tolist()),
            heads=query.size(1),
            kv_heads=key_cache.size(1),
            head_dim=query.size(3),
            value_dim=value_cache.size(3),
            q_len=query.size(2),
            dtype=str(query.dtype).removeprefix("torch."),
            mask=_text(MASKS, options) or "causal",
            score=_text(SCORES, options) or "none",
            scale=scale,
            # The caches are views already, of whichever layout.
            layout="contiguous" if key_cache.is_contiguous() else "longer",
            cache=_kind(key_cache, stored),
        )
        if stored:
            stored |= dict(zip(CODES, (key_cache, value_cache), strict=True))
            key_cache, value_cache = (
                decoded(
                    stored[f"{name}_codes"],
                    stored[f"{name}_scale"],
                    stored.get(f"{name}_zero_point", torch.zeros(())),
                )
                for name in ("key", "value")
            )
        inputs = _Views(case, query, key_cache, value_cache, input_pos, parameters, stored=stored)
        output = path(inputs).output
        assert isinstance(output, torch.Tensor)
        return output

    decode.supports = set(FEATURES)  # type: ignore[attr-defined]
    return decode


def _kind(codes: Tensor, stored: Mapping[str, Tensor]) -> str:
    """The kind of quantised cache that a call was given."""
    if not stored:
        return "none"
    dims = {0: "tensor", 1: "head", 3: "token"}[stored["key_scale"].dim()]
    dtype = str(codes.dtype).removeprefix("torch.")
    return next(k.name for k in QUANTISED.values() if (k.dtype, k.grain) == (dtype, dims))


def _text(kinds: Mapping[str, Kind], options: Mapping[str, Any]) -> str:
    """The kinds that a call's options ask for: of masks the one that takes most of them."""
    asked = []
    for kind in sorted(kinds.values(), key=lambda kind: -len(kind.options)):
        parameter = getattr(kind, "parameter", None)
        names = [*kind.options, *([parameter.name] if parameter else [])]
        if kind.feature and set(names) <= set(options):
            asked.append(kind)
    if kinds is MASKS:
        asked = asked[:1]
    texts = {
        kind.name: kind.text({n: int(options[a.option]) for n, a in kind.arguments.items()})
        for kind in asked
    }
    return "+".join(texts[name] for name in kinds if name in texts)


class _Views(Inputs):
    """Inputs whose buffers are the caches."""

    @property
    def key_cache(self) -> Tensor:
        return self.key_buffer

    @property
    def value_cache(self) -> Tensor:
        return self.value_buffer


def identifier(name: str) -> str:
    """As the function of a mutant of this name is called here."""
    return name.replace("@", "__").replace("-", "_")


MUTANTS: dict[str, Decode] = {
    path.name: _decode(path)
    for fault in FAULTS.values()
    if fault.kind is FaultKind.OUTPUT
    for path in (mutant(fault, scope) for scope in scopes(fault))
}
sound = _decode(MODEL)
globals().update({identifier(name): function for name, function in MUTANTS.items()})
