"""Records the attention calls of a model while it runs, whatever it calls attention by.

Watched are ``F.scaled_dot_product_attention``, ``flex_attention``, the table of attention functions
of transformers, and functions marked with ``like_sdpa``. A call within another one (transformers'
``sdpa`` calls SDPA) counts once, as the outer one. Within ``torch.compile`` nothing can be watched.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import BlockMask, create_mask
from torch.overrides import TorchFunctionMode

from harness.auditing.call import AttentionCall, ScoreMod


@dataclass
class Recorder:
    """Gets each call; ``forward()`` starts a forward, from which layers are counted.

    With ``exactly`` a call returns what float64 says instead of what it computed, in the dtype of
    its own output. ``asleep``, it lets calls pass."""

    receive: Callable[[AttentionCall], None]
    exactly: bool = False
    asleep: bool = False
    layer: int = 0
    inside: bool = field(default=False, init=False)

    def forward(self) -> None:
        """Count layers from 0 again."""
        self.layer = 0

    @property
    def watches(self) -> bool:
        """Whether a call that begins now is to be recorded."""
        return not (self.inside or self.asleep or torch.compiler.is_compiling())

    def record(self, function: Callable[[Tensor], Tensor], **tensors: Any) -> Tensor:
        """Call ``function(value)`` and record it; ``tensors`` are those of ``AttentionCall``."""
        self.inside = True
        try:
            output = function(tensors["value"])
        finally:
            self.inside = False
        facts: dict[str, Any] = {
            name: _copy(fact) if isinstance(fact, Tensor) else fact
            for name, fact in tensors.items()
        }
        facts |= {"output": _copy(output), "again": self._apart(function)}
        call = AttentionCall(layer=self.layer, **facts)
        self.layer += 1
        self.receive(call)
        return call.exact().to(output.dtype) if self.exactly else output

    def _apart(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        @functools.wraps(function)
        def again(value: Tensor) -> Tensor:
            before, self.inside = self.inside, True
            try:
                return function(value)
            finally:
                self.inside = before

        return again


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def stated_mask(mask: Tensor | None, shape: tuple[int, ...]) -> tuple[Tensor, ScoreMod | None]:
    """What a mask tensor says: the visible slots, bool of ``shape`` ``[B, Hq, Q, S]``, and the
    bias that it adds to scores, or None.

    A bias below half of the dtype's lowest number stands for a slot that is hidden, as -inf does.
    """
    if mask is None:
        return torch.ones(shape, dtype=torch.bool), None
    mask = _copy(mask[..., : shape[-1]]).expand(shape)
    if mask.dtype is torch.bool:
        return mask, None
    visible = mask > torch.finfo(mask.dtype).min / 2
    bias = mask.double().masked_fill(~visible, 0.0)
    return visible, (lambda score: (score + bias, bias.abs())) if bias.any() else None


_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def like_sdpa(function: _Function) -> _Function:
    """Mark a function of a project's own, with the parameters of
    ``F.scaled_dot_product_attention``, as attention, so that audits watch its calls."""

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Tensor:
        recorder = _active.get()
        if recorder is None or not recorder.watches:
            return function(*args, **kwargs)
        return _sdpa(recorder, function, *args, **kwargs)

    return marked  # type: ignore[return-value]


@contextlib.contextmanager
def observed(recorder: Recorder) -> Iterator[Recorder]:
    """Every attention call in the block goes through ``recorder``."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_Sdpa(recorder))
        stack.enter_context(_flex_watched(recorder))
        if "transformers.modeling_utils" in sys.modules:
            stack.enter_context(_interface_watched(recorder))
        token = _active.set(recorder)
        stack.callback(_active.reset, token)
        yield recorder


class _Sdpa(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention or not self._recorder.watches:
            return function(*args, **kwargs)
        return _sdpa(self._recorder, function, *args, **kwargs)


_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def _sdpa(recorder: Recorder, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    given: dict[str, Any] = dict(zip(_SDPA, args, strict=False)) | kwargs
    query, key = given["query"], given["key"]
    shape = (*query.shape[:3], key.size(2))
    visible, score_mod = stated_mask(given.get("attn_mask"), shape)
    if given.get("is_causal"):
        # SDPA aligns its causal mask to the top left.
        visible = visible & torch.ones(shape[2:], dtype=torch.bool).tril()
    scale = given.get("scale")
    return recorder.record(
        lambda value: function(**{**given, "value": value}),
        query=query,
        key=key,
        value=given["value"],
        visible=visible,
        scale=scale if scale is not None else 1 / math.sqrt(query.size(-1)),
        score_mod=score_mod,
        operator="sdpa" if function is F.scaled_dot_product_attention and not score_mod else "",
    )


@contextlib.contextmanager
def _flex_watched(recorder: Recorder) -> Iterator[None]:
    """``flex_attention`` is replaced under each name by which a module has it."""
    original = flex_module.flex_attention

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not recorder.watches:
            return original(*args, **kwargs)
        return _flex(recorder, original, *args, **kwargs)

    places = [
        (module, name)
        for module in list(sys.modules.values())
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is original
    ]
    for module, name in places:
        setattr(module, name, watched)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, original)


def _flex(recorder: Recorder, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    given = inspect.signature(original).bind(*args, **kwargs)
    given.apply_defaults()
    named = given.arguments
    query, key, mask, mod = (named[k] for k in ("query", "key", "block_mask", "score_mod"))
    shape = (*query.shape[:3], key.size(2))

    def again(value: Tensor) -> Any:
        return original(**{**named, "value": value, "return_lse": False, "return_aux": None})

    output = recorder.record(
        again,
        query=query,
        key=key,
        value=named["value"],
        visible=_block_mask_says(mask, shape),
        scale=named["scale"] if named["scale"] is not None else 1 / math.sqrt(query.size(-1)),
        score_mod=None if mod is None else _modified(mod, shape),
        operator="flex_attention" if mod is None else "",
    )
    if named["return_lse"] or named["return_aux"] is not None:
        return original(**named)
    return output


def _block_mask_says(mask: BlockMask | None, shape: tuple[int, ...]) -> Tensor:
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    batch, heads, queries, slots = shape
    says = create_mask(mask.mask_mod, batch, heads, queries, slots, device="cpu")
    return says.expand(shape).clone()


def _modified(mod: Callable[..., Tensor], shape: tuple[int, ...]) -> ScoreMod:
    indices = [torch.arange(n) for n in shape]

    def score_mod(score: Tensor) -> tuple[Tensor, Tensor]:
        function = mod
        for axis in reversed(range(4)):
            dims = [None] * 4
            dims[axis] = 0  # type: ignore[call-overload]
            function = torch.vmap(function, in_dims=(0, *dims))
        changed = function(score, *indices)
        # What lies between is the model's own affair; twice either side of it is ample.
        return changed, 2 * (score.abs() + changed.abs())

    return score_mod


@contextlib.contextmanager
def _interface_watched(recorder: Recorder) -> Iterator[None]:
    from transformers.modeling_utils import AttentionInterface

    original = AttentionInterface.get_interface

    def get_interface(self: Any, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = original(self, name, default)

        def watched(module: Any, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
            if not recorder.watches:
                return function(module, query, key, *rest, **options)
            of_torch = name if name in ("sdpa", "flex_attention") else ""
            return _interface(recorder, function, of_torch, module, query, key, *rest, **options)

        return watched

    AttentionInterface.get_interface = get_interface
    try:
        yield
    finally:
        AttentionInterface.get_interface = original


def _interface(
    recorder: Recorder,
    function: Callable[..., Any],
    operator: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **options: Any,
) -> Any:
    shape = (*query.shape[:3], key.size(2))
    score_mod = None
    if isinstance(attention_mask, BlockMask):
        visible = _block_mask_says(attention_mask, shape)
    else:
        visible, score_mod = stated_mask(attention_mask, shape)
        if attention_mask is None and shape[2] > 1:
            # Where there is no mask, transformers lets SDPA make a causal one, to the top left.
            visible = torch.ones(shape, dtype=torch.bool).tril()
    operator = operator if score_mod is None else ""
    if softcap := options.get("softcap"):
        score_mod = _softcapped(float(softcap), score_mod)
    scaling = options.get("scaling")
    sink = options.get("s_aux", getattr(module, "sinks", None))
    weights: list[Any] = []

    def again(value: Tensor) -> Tensor:
        output, *rest = function(module, query, key, value, attention_mask, **options)
        weights[:] = rest
        return output.transpose(1, 2)

    output = recorder.record(
        again,
        query=query,
        key=key,
        value=value,
        visible=visible,
        scale=scaling if scaling is not None else 1 / math.sqrt(query.size(-1)),
        score_mod=score_mod,
        sink=sink,
        softcap=softcap,
        operator=operator,
    )
    return (output.transpose(1, 2).contiguous(), *weights)


def _softcapped(softcap: float, then: ScoreMod | None) -> ScoreMod:
    def score_mod(score: Tensor) -> tuple[Tensor, Tensor | float]:
        score = softcap * torch.tanh(score / softcap)
        changed, size = then(score) if then is not None else (score, 0.0)
        return changed, size + 4 * softcap

    return score_mod
