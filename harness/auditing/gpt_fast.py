"""The model of a gpt-fast checkout, tiny and with random weights, decoding as its generate.py does.

Nothing of gpt-fast is stated here but how its own functions are called: ``model.Transformer``, and
``prefill`` and ``decode_one_token`` of ``generate``, whose sampling is replaced by handing the
logits out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from harness.auditing.model import Configuration, Refused

VOCABULARY = 1024
POSITIONS = 512
_HEADS: dict[str, dict[str, int]] = {
    "heads": dict(n_head=4, n_local_heads=4),
    "groups": dict(n_head=4, n_local_heads=2),
}
# Random weights are small, so that all tokens would look alike to the softmax.
ENLARGED = 2


def stated(name: str) -> dict[str, int]:
    """What ``ModelArgs`` is given, by the name in a configuration's."""
    sizes = dict(block_size=POSITIONS, vocab_size=VOCABULARY)
    return {**sizes, **dict(n_layer=2, dim=64, intermediate_size=96), **_HEADS[name]}


def dtype(*, compiled: bool) -> torch.dtype:
    """The dtype in which the model decodes; in float32 its query does not compile on a CPU
    (flexcpu-linear-query), and gpt-fast's own default is bfloat16."""
    return torch.bfloat16 if compiled else torch.float32


class CheckoutError(ValueError):
    """A folder that is no checkout of gpt-fast, or one that cannot be imported."""


@dataclass(frozen=True)
class Checkout:
    """A checkout of gpt-fast: its modules ``model`` and ``generate``, and its ``commit``."""

    model: ModuleType
    generate: ModuleType
    commit: str

    @classmethod
    def at(cls, folder: Path) -> Checkout:
        """Import the modules of a checkout.

        Raises:
            CheckoutError: where the folder lacks them, or they cannot be imported.
        """
        for name in ("model.py", "generate.py"):
            if not (folder / name).is_file():
                raise CheckoutError(f"{folder} has no {name}")
        with _importing_from(folder):
            model = _module("model", folder)
            # Only needed to load checkpoints; it imports tokenizers that need not be here.
            sys.modules.setdefault("tokenizer", _Tokenizer("tokenizer"))
            generate = _module("generate", folder)
        return cls(model, generate, _commit(folder))

    def configurations(self, *, compiled: bool = False) -> Iterator[Configuration]:
        """With as many KV heads as query heads, and with groups; ``compiled`` as ``generate.main``
        does it."""
        for name in _HEADS:
            sizes = stated(name)
            yield Configuration(
                f"gpt-fast/{name}",
                VOCABULARY,
                lambda batch, slots, sizes=sizes: Session.begun(  # type: ignore[misc]
                    self, sizes, batch, slots, compiled=compiled
                ),
                self._uncached(sizes),
            )

    def transformer(self, sizes: dict[str, int], dtype: torch.dtype) -> Any:
        """A tiny model with random weights."""
        torch.manual_seed(0)
        model = self.model.Transformer(self.model.ModelArgs(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(ENLARGED)
        return model.to(dtype).eval()

    def _uncached(self, sizes: dict[str, int]) -> Callable[[Tensor], Tensor]:
        models: list[Any] = []

        def uncached(tokens: Tensor) -> Tensor:
            if not models:
                models.append(self.transformer(sizes, torch.float64))
            model, count = models[0], len(tokens)
            model.setup_caches(1, POSITIONS)
            for layer in model.layers:
                layer.attention.kv_cache = None
            mask = create_block_mask(_causal, 1, 1, count, count, device="cpu")
            logits: Tensor = model(mask, tokens.unsqueeze(0), torch.arange(count))[0]
            return logits

        return uncached


def _causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return q >= kv


@dataclass
class Session:
    """A model with its own caches, at one position for the whole batch, as gpt-fast has it;
    ``decode_one_token`` and ``model_forward`` are those of ``generate``, or compiled."""

    checkout: Checkout
    model: Any
    block_mask: Any
    decode_one_token: Callable[..., Any]
    model_forward: Callable[..., Any]
    filled: int = 0
    logits: list[Tensor] = field(default_factory=list)

    @classmethod
    def begun(
        cls,
        checkout: Checkout,
        sizes: dict[str, int],
        batch: int,
        slots: int,
        *,
        compiled: bool = False,
    ) -> Session:
        """A session on an empty cache."""
        model = checkout.transformer(sizes, dtype(compiled=compiled))
        model.setup_caches(max_batch_size=batch, max_seq_length=slots)
        length, generate = model.max_seq_length, checkout.generate
        # As in gpt-fast's decode_n_tokens.
        mask = create_block_mask(generate.causal_mask, 1, 1, length, length, device="cpu")
        functions = [generate.decode_one_token, generate.model_forward]
        if compiled:
            # As in gpt-fast's main, where its prefill is left as it is by default.
            compile_ = partial(torch.compile, mode="reduce-overhead", fullgraph=True)
            functions = [compile_(function) for function in functions]
        return cls(checkout, model, mask, *functions)

    def feed(self, ids: Tensor, real: Tensor) -> Tensor:
        """See ``harness.auditing.model.Session``."""
        if not real.all():
            raise Refused("gpt-fast has no padding: one position for the whole batch")
        count = ids.size(1)
        position = torch.arange(self.filled, self.filled + count)
        first, self.filled = self.filled == 0, self.filled + count
        with self._handing_out():
            if first:
                self.checkout.generate.prefill(self.model, ids, position)
            elif count == 1:
                self.decode_one_token(self.model, ids, position, self.block_mask)
            else:
                # The call of several tokens in speculative_decode.
                try:
                    return self.model_forward(self.model, ids, position)
                except (AttributeError, TypeError, torch._dynamo.exc.Unsupported) as error:
                    line = str(error).splitlines()[0]
                    raise Refused(
                        f"model_forward, which speculative_decode calls, raised"
                        f" {type(error).__name__}: {line}"
                    ) from None
        return self.logits.pop()

    @cached_property
    def _kept(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """In place of sampling, a function that keeps the logits; one for all forwards, since
        compiled code is compiled again where it meets another."""
        logits_of = self.logits

        def kept(logits: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            logits_of.append(logits)
            return logits.argmax(-1), logits

        return kept

    @contextlib.contextmanager
    def _handing_out(self) -> Iterator[None]:
        generate: Any = self.checkout.generate
        original, generate.sample = generate.sample, self._kept
        try:
            yield
        finally:
            generate.sample = original

    def rollback(self, count: int) -> None:
        """See ``harness.auditing.model.Session``; the next tokens overwrite the slots."""
        self.filled -= count


class _Tokenizer(ModuleType):
    def get_tokenizer(self, *_: object) -> None:
        """Never called here."""


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def _module(name: str, folder: Path) -> ModuleType:
    # generate.py imports model.py by this name.
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CheckoutError(f"importing {name}.py raised {type(error).__name__}: {error}") from None
    return module


def _commit(folder: Path) -> str:
    head = folder / ".git" / "HEAD"
    if not head.is_file():
        return "unknown commit"
    text = head.read_text(encoding="utf-8").strip()
    if not text.startswith("ref: "):
        return text[:12]
    named = folder / ".git" / text.removeprefix("ref: ")
    return named.read_text(encoding="utf-8").strip()[:12] if named.is_file() else text
