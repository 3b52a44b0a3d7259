"""The models of transformers, tiny and with random weights, in each kind of cache and attention."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.auditing.model import Configuration, Refused
from harness.case.precision import Precision

VOCABULARY = 1024
WINDOW = 8
# Random weights are small, so that all tokens would look alike to the softmax.
ENLARGED = 4
MODELS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt-oss")
CACHES = ("dynamic", "static")
ATTENTIONS = ("eager", "sdpa", "flex_attention")
_SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
)


def stated(name: str) -> tuple[str, dict[str, Any]]:
    """The name of a model's class of configurations, and what it is given."""
    more: dict[str, Any] = {}
    if name in ("mistral", "gemma2", "gemma3", "gpt-oss"):
        more["sliding_window"] = WINDOW
    if name == "gpt-oss":
        # Grouped products of experts exist in no float64.
        more |= dict(num_local_experts=2, num_experts_per_tok=1, experts_implementation="eager")
    kinds = {
        "llama": "LlamaConfig",
        "mistral": "MistralConfig",
        "qwen2": "Qwen2Config",
        "qwen3": "Qwen3Config",
        "gemma2": "Gemma2Config",
        "gemma3": "Gemma3TextConfig",
        "gpt-oss": "GptOssConfig",
    }
    return kinds[name], {**_SIZES, **more}


def _config(name: str) -> Any:
    import transformers

    kind, arguments = stated(name)
    return getattr(transformers, kind)(**arguments)


def configurations(
    models: tuple[str, ...] = MODELS,
    caches: tuple[str, ...] = CACHES,
    attentions: tuple[str, ...] = ATTENTIONS,
    dtype: torch.dtype = torch.float32,
    *,
    compiled: bool = False,
) -> Iterator[Configuration]:
    """Each combination, by the name ``model/cache/attention``. ``compiled`` as ``generate`` does it
    on a GPU: with a static cache, and from the second forward on."""
    for name in models:
        uncached = _uncached(name)
        for attention in attentions:
            for cache in caches:
                yield Configuration(
                    f"{name}/{cache}/{attention}",
                    VOCABULARY,
                    _beginning(name, cache, attention, dtype, compiled),
                    uncached,
                    _precision(attention, dtype),
                )


def _precision(attention: str, dtype: torch.dtype) -> Precision:
    name = str(dtype).removeprefix("torch.")
    # Eager attention multiplies queries by keys in the model's dtype, and rounds the weights to it.
    return Precision(score=name, weight=name) if attention == "eager" else Precision()


def made(name: str, attention: str, dtype: torch.dtype) -> Any:
    """A model with the weights that it has in every audit.

    Raises:
        Refused: where the project refuses such attention.
    """
    import transformers

    torch.manual_seed(0)
    config = _config(name)
    try:
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=torch.float32
        )
    except (ValueError, NotImplementedError, ImportError) as error:
        raise Refused(str(error).splitlines()[0]) from None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(ENLARGED)
    # Weights are drawn in float32, so that the model is the same one in every dtype.
    return model.to(dtype).eval()


def _uncached(name: str) -> Callable[[Tensor], Tensor]:
    models: list[Any] = []

    def uncached(tokens: Tensor) -> Tensor:
        if not models:
            models.append(made(name, "eager", torch.float64))
        logits: Tensor = models[0](tokens.unsqueeze(0), use_cache=False).logits[0]
        return logits

    return uncached


def _beginning(
    name: str, cache: str, attention: str, dtype: torch.dtype, compiled: bool
) -> Callable[[int, int], Session]:
    models: list[Any] = []

    def begin(batch: int, slots: int) -> Session:
        if not models:
            models.append(made(name, attention, dtype))
        if compiled:
            # Else a model that is compiled for a tenth time in a process runs eagerly.
            torch.compiler.reset()
        kept = _cache(cache, models[0].config, slots)
        return Session(models[0], kept, compiled=compiled and cache == "static")

    return begin


def cache_argument(model: Any) -> str:
    """By which name a model's ``forward`` takes a cache, which changed within version 5."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _cache(kind: str, config: Any, slots: int) -> Any:
    import transformers

    if kind == "dynamic":
        return transformers.DynamicCache(config=copy.deepcopy(config))
    return transformers.StaticCache(config=copy.deepcopy(config), max_cache_len=slots)


@dataclass
class Session:
    """A model of transformers with a cache, fed as ``generate`` feeds it: a mask of padding over
    all slots so far, and positions counted without padding."""

    model: Any
    cache: Any
    compiled: bool = False
    real: list[Tensor] = field(default_factory=list)

    def feed(self, ids: Tensor, real: Tensor) -> Tensor:
        """See ``harness.auditing.model.Session``."""
        self.real.append(real)
        if len(self.real) == 2:
            # After the prompt, as ``generate`` does it for speculative decoding.
            self.cache.activate_past_recording()
        mask = torch.cat(self.real, 1)
        position = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.size(1) :]
        cache = {cache_argument(self.model): self.cache}
        try:
            decoding = self.compiled and len(self.real) > 1
            model = self.model.get_compiled_call(None) if decoding else self.model
            logits: Tensor = model(
                ids, attention_mask=mask.long(), position_ids=position, **cache
            ).logits
        except (ValueError, NotImplementedError) as error:
            if len(self.real) > 1:
                raise
            # What a configuration refuses, it refuses at once.
            raise Refused(str(error).splitlines()[0]) from None
        return logits

    def rollback(self, count: int) -> None:
        """See ``harness.auditing.model.Session``."""
        if not self.cache.is_croppable:
            # Its ``crop`` does not raise all the same.
            raise Refused("the cache's is_croppable is False")
        try:
            self.cache.crop(-count)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise Refused(str(error).splitlines()[0]) from None
        self.real = [torch.cat(self.real, 1)[:, :-count]]
