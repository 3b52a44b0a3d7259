"""The contract of a cache class: how it is made, its methods, and what it thereby can do.

    cache = Cache(batch_size=2, num_heads=4, cache_len=160, head_dim=64, dtype=..., device=...)
    out = cache.decode(query, key, value)

``decode`` writes the next Q tokens of each sequence, attends, and moves on: ``query``
``[B, Hq, Q, D]``, ``key`` ``[B, Hkv, Q, D]``, ``value`` ``[B, Hkv, Q, Dv]``, the result
``[B, Hq, Q, Dv]``. With ``query_lens``, int64 ``[B]`` on the cache's device, sequence b has
``query_lens[b] <= Q`` new tokens; the rows after them are padding, whose results are not looked at.
Everything else is optional, and what a class lacks is not asked of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from harness.case.domain import Domain
from harness.case.features import given_options
from harness.case.program import ACTIONS, Program

NEEDED = ("batch_size", "num_heads", "cache_len", "head_dim", "dtype", "device")
# Arguments of the class that it may take, and the feature that each of them gives.
OPTIONAL = {
    "num_kv_heads": "gqa",
    "value_head_dim": "value_dim",
    "window": "window",
    "softcap": "softcap",
    "scale": "scale",
}
PAGE_SIZE = "page_size"
QUERY_LENS = "query_lens"
METHODS = {
    "rollback": "(n): the last ``n`` tokens of each sequence are taken back, int64 [B]; an int"
    " where decode takes no query_lens",
    "reset": "(sequences): these become empty, a list of ints",
    "release": "(sequences): these give their slots back, and get no tokens until a reset",
    "fork": "(source, target): the target becomes a copy of the source",
    "grow": "(cache_len): the cache gets more slots",
    "poison": "(value): every slot that holds no token of a sequence is filled with the value,"
    " called before each decode",
    "contents": "(sequence): the keys [Hkv, n, D] and values [Hkv, n, Dv] that it holds, compared"
    " bit for bit after each step",
}


class ContractError(ValueError):
    """A class that is no cache; the message names what it lacks."""


@dataclass(frozen=True)
class Abilities:
    """What a cache class can do: the optional ``methods`` and ``arguments`` that it has, and
    whether its calls take ``ragged`` numbers of new tokens."""

    methods: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    ragged: bool = False

    @classmethod
    def of(cls, cache: type) -> Abilities:
        """Those that the methods of a class show.

        Raises:
            ContractError: where it has no ``decode``, or cannot be made as the contract says.
        """
        decode = getattr(cache, "decode", None)
        if not callable(decode):
            raise ContractError(f"{cache.__name__} has no method decode(query, key, value)")
        made = _constructor(cache)
        called, _ = _parameters(decode)
        if lacking := [name for name in NEEDED if not made(name)]:
            raise ContractError(f"{cache.__name__}(...) takes no {' and no '.join(lacking)}")
        return cls(
            tuple(name for name in METHODS if callable(getattr(cache, name, None))),
            tuple(name for name in (*OPTIONAL, PAGE_SIZE) if made(name)),
            QUERY_LENS in called,
        )

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Abilities:
        """Read what ``dataclasses.asdict`` gave, after a way through JSON."""
        return cls(tuple(values["methods"]), tuple(values["arguments"]), values["ragged"])

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the cases that the class takes."""
        return tuple(OPTIONAL[name] for name in self.arguments if name in OPTIONAL)

    @property
    def pages(self) -> bool:
        """Whether the class is made for a page size."""
        return PAGE_SIZE in self.arguments

    @property
    def actions(self) -> tuple[str, ...]:
        """The words of the steps that it takes."""
        return tuple(word for word, kind in ACTIONS.items() if set(kind.needs) <= {*self.methods})

    def refuses(self, program: Program, domain: Domain) -> str | None:
        """The reason why a program is not for this class, or None."""
        if reason := domain.refuses(program.case):
            return reason
        if self.pages != (program.page_size is not None):
            return "it needs a page size, page:N" if self.pages else "it has no pages"
        for before, step in zip(program.lengths(), program.steps, strict=True):
            lacking = [name for name in step.kind.needs if name not in self.methods]
            if step.word == "admit" and before.tokens[step.numbers[0]] != 0:
                lacking += [] if "reset" in self.methods else ["reset"]
            if lacking:
                return f"{step}: it has no method {' and no '.join(lacking)}"
            counted = step.word in ("admit", "decode", "rollback")
            counts = before.counts(step) if counted else (1,)
            alone = step.word in ("reset", "release") and program.case.batch > 1
            if not self.ragged and (len(set(counts)) > 1 or counts[0] == 0 or alone):
                return f"{step}: its decode takes no {QUERY_LENS}, so that all go together"
        return None

    def make(self, cache: type, program: Program, device: str) -> Any:
        """An object of the class for the program's geometry."""
        case = program.case
        given: dict[str, Any] = {
            "batch_size": case.batch,
            "num_heads": case.heads,
            "cache_len": case.cache_len,
            "head_dim": case.head_dim,
            "dtype": getattr(torch, case.dtype),
            "device": torch.device(device),
        }
        sizes = {"num_kv_heads": case.kv_heads, "value_head_dim": case.value_dim}
        given |= {name: size for name, size in sizes.items() if name in self.arguments}
        given |= given_options(case)
        if case.scale is not None:
            given["scale"] = case.scale
        if program.page_size is not None:
            given[PAGE_SIZE] = program.page_size
        return cache(**given)


def contract() -> Iterator[tuple[str, str]]:
    """The optional methods with their signatures, and what each of them does."""
    for name, text in METHODS.items():
        signature, _, meaning = text.partition(": ")
        yield name + signature, meaning


def _constructor(cache: type) -> Callable[[str], bool]:
    """Whether a class is made with an argument by this name: of its own, or of a class that its
    ``**keywords`` go on to."""
    names: set[str] = set()
    for base in cache.__mro__:
        if "__init__" in vars(base):
            own, more = _parameters(vars(base)["__init__"])
            names |= own
            if not more:
                return names.__contains__
    return lambda name: True


def _parameters(function: Any) -> tuple[set[str], bool]:
    """The names of a function's parameters, and whether it takes any other keyword."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return set(), True  # A class written in C may have no signature that can be read.
    more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return set(parameters), more
