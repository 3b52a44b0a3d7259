"""Records the attention calls of a model while it runs, whatever it calls attention by.

Watched are ``F.scaled_dot_product_attention``, ``flex_attention``, the table of attention functions
of transformers, and functions marked with ``like_sdpa``. A call within another one (transformers'
``sdpa`` calls SDPA) counts once, as the outer one. Calls within ``torch.compile`` are recorded for
a recorder that asks for them (``in_graph``).

What takes the place of a function is one function for all recorders, since compiled code is
compiled again where it meets another.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import BlockMask

from harness.auditing import in_graph
from harness.auditing.by_hand import BY_HAND
from harness.auditing.recorder import Recorder, activated, active, watching
from harness.auditing.replacing import Watched, replaced
from harness.auditing.stated import (
    block_mask_says,
    four,
    interface_options,
    modified,
    softcapped,
    stated_mask,
    stated_scale,
)

_SDPA = F.scaled_dot_product_attention
_FLEX = flex_module.flex_attention
_Function = TypeVar("_Function", bound=Callable[..., Tensor])
# Whether the active recorder wants calls of compiled code; a compiler reads no context variable.
_in_graph = False


def like_sdpa(function: _Function) -> _Function:
    """Mark a function of a project's own, with the parameters of
    ``F.scaled_dot_product_attention``, as attention, so that audits watch its calls."""

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Tensor:
        if torch.compiler.is_compiling() or (recorder := watching()) is None:
            return function(*args, **kwargs)
        return _sdpa(recorder, function, *args, **kwargs)

    return marked  # type: ignore[return-value]


@contextlib.contextmanager
def observed(recorder: Recorder, holders: Iterable[Any] = ()) -> Iterator[Recorder]:
    """Every attention call in the block goes through ``recorder``; ``holders`` are objects which
    may have kept a function of attention as an attribute."""
    global _in_graph  # noqa: PLW0603  # Compiled code depends on it.
    before, outermost = _in_graph, active() is None
    _in_graph = recorder.in_graph
    watched: Watched = {_SDPA: _watched_sdpa, _FLEX: _watched_flex, **BY_HAND}
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(activated(recorder))
            stack.enter_context(replaced(watched, holders, outermost=outermost))
            if "transformers.modeling_utils" in sys.modules:
                stack.enter_context(_interface_watched())
            yield recorder
    finally:
        _in_graph = before


@functools.wraps(_SDPA)
def _watched_sdpa(*args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling():
        return in_graph.sdpa(_SDPA, *args, **kwargs) if _in_graph else _SDPA(*args, **kwargs)
    if (recorder := watching()) is None:
        return _SDPA(*args, **kwargs)
    return _sdpa(recorder, _SDPA, *args, **kwargs)


_SDPA_TAKES = (
    "query",
    "key",
    "value",
    "attn_mask",
    "dropout_p",
    "is_causal",
    "scale",
    "enable_gqa",
)


def _sdpa(recorder: Recorder, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    given: dict[str, Any] = dict(zip(_SDPA_TAKES, args, strict=False)) | kwargs
    name = getattr(function, "__name__", "a function like SDPA")
    try:
        if given.get("dropout_p"):
            raise ValueError("dropout is random")
        query, key, value = (given[k] for k in _SDPA_TAKES[:3])
        query, key, value, mask = four(query, key, value, given.get("attn_mask"))
        shape = (*query.shape[:3], key.size(2))
        causal = bool(given.get("is_causal"))
        visible, score_mod = stated_mask(mask, shape, causal=causal)
        facts = dict(
            query=query,
            key=key,
            value=value,
            visible=visible,
            scale=stated_scale(given.get("scale"), query),
            score_mod=score_mod,
            operator="sdpa" if function is _SDPA and not score_mod else "",
            named=name,
        )
    except Exception as error:
        _passed(recorder, name, error)
        return function(*args, **kwargs)
    if value is given["value"]:
        return recorder.record(lambda value: function(**{**given, "value": value}), **facts)
    made: list[Tensor] = []

    def again(value: Tensor) -> Tensor:
        output = function(**{**given, "value": value.reshape(given["value"].shape)})
        made.append(output)
        return output.reshape(*query.shape[:3], value.size(3))

    if value.numel() == given["value"].numel():
        output = recorder.record(again, **facts)
        return output.reshape(made[0].shape)
    with recorder.within():
        output = function(*args, **kwargs)
    recorder.take(again=None, output=output.reshape(*query.shape[:3], value.size(3)), **facts)
    return output


def _passed(recorder: Recorder, name: str, error: Exception) -> None:
    """A call that cannot be understood: it is made all the same, where that can be told."""
    if recorder.passed_over is None:
        raise error
    recorder.pass_over(name, (str(error).strip().splitlines() or [type(error).__name__])[0])


@functools.wraps(_FLEX)
def _watched_flex(*args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling():
        return in_graph.flex(_FLEX, *args, **kwargs) if _in_graph else _FLEX(*args, **kwargs)
    if (recorder := watching()) is None:
        return _FLEX(*args, **kwargs)
    return _flex(recorder, *args, **kwargs)


def _flex(recorder: Recorder, *args: Any, **kwargs: Any) -> Any:
    try:
        given = inspect.signature(_FLEX).bind(*args, **kwargs)
        given.apply_defaults()
        named = given.arguments
        query, key, mask, mod = (named[k] for k in ("query", "key", "block_mask", "score_mod"))
        shape = (*query.shape[:3], key.size(2))
        facts = dict(
            query=query,
            key=key.expand(query.size(0), -1, -1, -1),
            value=named["value"].expand(query.size(0), -1, -1, -1),
            visible=block_mask_says(mask, shape),
            scale=stated_scale(named["scale"], query),
            score_mod=None if mod is None else modified(mod, shape, query.device),
            operator="flex_attention" if mod is None else "",
            named="flex_attention",
        )
    except Exception as error:
        _passed(recorder, "flex_attention", error)
        return _FLEX(*args, **kwargs)

    def again(value: Tensor) -> Any:
        return _FLEX(**{**named, "value": value, "return_lse": False, "return_aux": None})

    output = recorder.record(again, **facts)
    if named["return_lse"] or named["return_aux"] is not None:
        return _FLEX(**named)
    return output


@functools.cache
def _watched_interface() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """transformers' own look-up of an attention function, and what takes its place."""
    from transformers.modeling_utils import AttentionInterface

    original = AttentionInterface.get_interface

    def get_interface(self: Any, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = original(self, name, default)
        of_torch = name if name in ("sdpa", "flex_attention") else ""

        def watched(*args: Any, **options: Any) -> Any:
            if torch.compiler.is_compiling():
                if _in_graph:
                    return in_graph.interface(function, of_torch, *args, **options)
                return function(*args, **options)
            if (recorder := watching()) is None:
                return function(*args, **options)
            return _interface(recorder, function, of_torch, *args, **options)

        return watched

    return original, get_interface


@contextlib.contextmanager
def _interface_watched() -> Iterator[None]:
    from transformers.modeling_utils import AttentionInterface

    original, watched = _watched_interface()
    outermost = AttentionInterface.get_interface is original
    AttentionInterface.get_interface = watched
    try:
        yield
    finally:
        if outermost:
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
    name = operator or getattr(function, "__name__", "an attention function of transformers")
    try:
        if options.get("dropout"):
            raise ValueError("dropout is random")
        shape = (*query.shape[:3], key.size(2))
        facts, score_mod = interface_options(module, query, attention_mask, options), None
        if isinstance(attention_mask, BlockMask):
            visible = block_mask_says(attention_mask, shape)
        else:
            visible, score_mod = stated_mask(attention_mask, shape, causal=facts["causal"])
    except Exception as error:
        _passed(recorder, name, error)
        with recorder.within():
            return function(module, query, key, value, attention_mask, **options)
    operator = operator if score_mod is None else ""
    if softcap := facts["softcap"]:
        score_mod = softcapped(softcap, score_mod)
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
        scale=facts["scale"],
        score_mod=score_mod,
        sink=facts["sink"],
        softcap=softcap or None,
        operator=operator,
        named=name,
    )
    return (output.transpose(1, 2).contiguous(), *weights)
