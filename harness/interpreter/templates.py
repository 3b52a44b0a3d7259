"""The templates of FlexAttention's Triton kernels: which of them ran, and their text rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from torch._inductor.kernel.flex import flex_attention, flex_decoding
from torch._inductor.kernel.flex.common import load_flex_template

Rewrite = Callable[[str], str]

# Each template with the files whose text it is made of.
_TEMPLATES = {
    "flex_decoding": (flex_decoding.flex_decoding_template, "flex_decode"),
    "flex_attention": (flex_attention.flex_attention_template, "flex_attention"),
}
_SHARED = ("utilities", "common")


@dataclass(frozen=True)
class Ran:
    """A kernel that was generated: its template, its tile, and the number of splits whose partial
    sums are reduced afterwards (0 for the general kernel, which has none)."""

    template: str
    tile: tuple[int, int]
    splits: int

    def __str__(self) -> str:
        tile = "x".join(map(str, self.tile))
        return f"{self.template} {tile}" + (f" in {self.splits} splits" if self.splits else "")


def text_of(name: str) -> str:
    """The text of a template."""
    return "".join(load_flex_template(file) for file in (_TEMPLATES[name][1], *_SHARED))


@contextmanager
def recorded(ran: list[Ran]) -> Iterator[None]:
    """Append to ``ran`` each kernel that a template is made into."""
    with ExitStack() as stack:
        for name, (template, _) in _TEMPLATES.items():
            patch = mock.patch.object(template, "maybe_append_choice", _recording(name, ran))
            stack.enter_context(patch)
        yield


def _recording(name: str, ran: list[Ran]) -> Callable[..., Any]:
    template = _TEMPLATES[name][0]
    append = template.maybe_append_choice

    def maybe_append_choice(choices: list[Any], **options: Any) -> Any:
        before = len(choices)
        refused = append(choices, **options)
        if len(choices) > before:
            tile = int(options["BLOCK_M"]), int(options["BLOCK_N"])
            ran.append(Ran(name, tile, int(options.get("SPLIT_KV", 0))))
        return refused

    return maybe_append_choice


@contextmanager
def rewritten(name: str, rewrite: Rewrite) -> Iterator[None]:
    """Generate kernels from the text that ``rewrite`` makes of a template's.

    Raises:
        ValueError: where it changes nothing, since a planted defect would then prove nothing.
    """
    template, before = _TEMPLATES[name][0], text_of(name)
    after = rewrite(before)
    if after == before:
        raise ValueError(f"the text of {name} is as it was")
    with mock.patch.object(template, "template", template._template_from_string(after)):
        yield
