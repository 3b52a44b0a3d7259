"""Declarations: what a user's function says of itself, by its attributes or by options of
``check``."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from harness.case import DTYPES, SHORT_DTYPES, DecodeCase, long_dtype
from harness.case.domain import (
    HEAD_DIMS,
    Domain,
    DomainError,
    known_dtypes,
    known_features,
    known_head_dims,
)
from harness.case.features import FEATURES, features_of, options_of
from harness.case.precision import Precision

ROUNDED = tuple(field.name for field in fields(Precision))
# How much alike two names are, from 0 to 1, where one is taken for a misspelling of the other.
_ALIKE = 0.75


@dataclass(frozen=True)
class Declarations:
    """What a function declares; None for what it does not.

    ``supports`` are features that a case may need, ``requires`` those that every case has, and
    ``precision`` has the dtypes of its arithmetic by fields of ``Precision``, for one dtype of the
    inputs alone under that dtype's name: ``{"weight": "fp32", "bf16": {"score": "bf16"}}``. Dtypes
    have long or short names. With ``reuses_output``, a call may overwrite the output of an earlier
    one.

    Raises:
        DomainError: for a value that a declaration does not allow; the message names both.
    """

    supports: tuple[str, ...] | None = None
    requires: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    head_dims: tuple[int, ...] | None = None
    precision: Mapping[str, Any] | None = None
    reuses_output: bool | None = None

    def __post_init__(self) -> None:
        read: dict[str, Callable[[Any], Any]] = {
            "supports": known_features,
            "requires": lambda names: known_features(names, "requires"),
            "dtypes": known_dtypes,
            "head_dims": known_head_dims,
            "precision": _known_precision,
            "reuses_output": _known_flag,
        }
        for name, known in read.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, known(getattr(self, name)))

    @classmethod
    def of(cls, function: Callable[..., Any], given: Declarations | None = None) -> Declarations:
        """Those in the function's attributes, each replaced where ``given`` has it; a partial has
        its function's, and a method of such a name is none."""
        given = given or cls()
        found = {name: getattr(given, name) for name in NAMES}
        for name in (name for name, value in found.items() if value is None):
            inner = function
            while isinstance(inner, functools.partial) and getattr(inner, name, None) is None:
                inner = inner.func
            value = getattr(inner, name, None)
            found[name] = None if inspect.isroutine(value) else value
        return cls(**found)

    def domain(self, cache_len: tuple[int, int] = Domain.cache_len) -> Domain:
        """The cases that a function with these declarations takes."""
        return Domain(
            self.supports or (),
            self.head_dims or HEAD_DIMS,
            cache_len,
            self.dtypes or DTYPES,
            self.requires or (),
        )

    def around(self, case: DecodeCase) -> Domain:
        """The smallest domain with ``case`` and what is declared of dtypes, head dims and required
        features; the case is outside of it where one of these leaves the case out."""
        return Domain(
            features_of(case),
            self.head_dims or (case.head_dim,),
            (case.cache_len, case.cache_len),
            self.dtypes or (case.dtype,),
            self.requires or (),
        )

    def precisions(self) -> dict[str, Precision]:
        """The arithmetic for each dtype of the inputs."""
        given = self.precision or {}
        common = {name: value for name, value in given.items() if name in ROUNDED}
        return {dtype: Precision(**common | given.get(dtype, {})) for dtype in DTYPES}

    def words(self) -> Iterator[str]:
        """Words of a command line of ``check`` that declare as much."""
        if self.supports is not None:
            yield from ("--supports", ",".join(self.supports))
        if self.requires is not None:
            yield from ("--requires", ",".join(self.requires))
        if self.dtypes is not None:
            yield from ("--dtypes", ",".join(SHORT_DTYPES[dtype] for dtype in self.dtypes))
        if self.head_dims is not None:
            yield from ("--head-dims", ",".join(map(str, self.head_dims)))
        if self.precision is not None:
            pairs = [f"{k}={v}" for k, v in self.precision.items() if k in ROUNDED]
            for dtype in (name for name in self.precision if name not in ROUNDED):
                own = self.precision[dtype].items()
                pairs += [f"{SHORT_DTYPES[dtype]}.{name}={value}" for name, value in own]
            yield from ("--precision", ",".join(pairs))
        if self.reuses_output:
            yield "--reuses-output"


NAMES = tuple(field.name for field in fields(Declarations))


def _known_flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise DomainError(f"reuses_output: {given!r} is not True or False")
    return given


def _known_precision(given: Any) -> dict[str, Any]:
    """The precision with long names of dtypes, those of one dtype of the inputs last."""
    allowed = f"{' '.join(ROUNDED)}, or of one of {' '.join(DTYPES)} with a dict of them"
    if not isinstance(given, Mapping):
        raise DomainError(f"precision: {given!r} is not a dict of {allowed}")
    common, own = _rounded({k: v for k, v in given.items() if k in ROUNDED}), {}
    for name, value in given.items():
        if name in ROUNDED:
            continue
        dtype = long_dtype(name)
        if dtype not in DTYPES:
            raise DomainError(f"precision: {name!r} is not one of {allowed}")
        if not isinstance(value, Mapping):
            raise DomainError(f"precision {dtype}: {value!r} is not a dict of {' '.join(ROUNDED)}")
        for field in value:
            if field not in ROUNDED:
                names = " ".join(ROUNDED)
                raise DomainError(f"precision {dtype}: {field!r} is not one of {names}")
        own[dtype] = _rounded(value)
    return common | own


def _rounded(given: Mapping[str, Any]) -> dict[str, str]:
    if None in given.values():
        raise DomainError(f"precision: {dict(given)} has None, which is no dtype")
    try:
        precision = Precision(**given)
    except (ValueError, TypeError) as error:
        raise DomainError(str(error)) from None
    return {name: getattr(precision, name) for name in given}


def hints(function: Callable[..., Any], features: tuple[str, ...]) -> tuple[str, ...]:
    """What the function seems to have meant to declare: attributes whose names are misspelt, and
    options in its signature that belong to no feature that it declares; where its signature cannot
    be read, that."""
    # A function written in C has no attributes. Those of other objects may be for anything.
    attributes = getattr(function, "__dict__", {}) if inspect.isroutine(function) else {}
    found = [
        f"its attribute {name} is not read; did it mean {alike[0]}?"
        for name in attributes
        if name not in NAMES
        and not name.startswith("_")
        and (alike := difflib.get_close_matches(name.lower(), NAMES, 1, _ALIKE))
    ]
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        # A function written in C may have none.
        found.append("its signature cannot be read, so its options are not checked")
        parameters = set()
    tried = set(options_of(features))
    for feature in FEATURES:
        options = set(options_of((feature,)))
        if options <= parameters and options - tried:
            names = " and ".join(name for name in options_of((feature,)))
            found.append(f"it takes {names}, which only cases with the feature {feature} have")
    return tuple(found)
