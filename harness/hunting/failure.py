"""Failures: what makes two of them the same, and which values of a geometry one needs."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from harness.case import DecodeCase
from harness.function.outcome import Outcome
from harness.strategies.factors import Geometry
from harness.verdict import Verdict
from harness.verdict.known_failures import split_decode

# What comes out wrong may be NaN, or differ from run to run, as it happens.
_NUMBERS = (
    Verdict.WRONG,
    Verdict.NONFINITE,
    Verdict.LEAK,
    Verdict.NONDETERMINISTIC,
    Verdict.CRASH,
)
NUMBERS = "numbers"
# What a message says differently each time: names of files and of variables, numbers.
_VARIES = re.compile(r"\(?\b[\w/.-]*(\.py|\.cpp|\.main)\b.*|\bc[a-z2-7]{40,}\w*|0x[0-9a-f]+|\d+")
_NOT_COMPILED = ("InductorError", "BackendCompilerFailed", "Unsupported: ")
# A refusal says what it wants; anything else is an error that nobody foresaw.
_LOUD = re.compile(
    r"NotImplementedError|[nN]ot supported|[uU]nsupported|must be|must have|should be|Expect |only"
    r" support|is required|not implemented"
)
# Fields whose values a kernel is specialised to, other than sizes.
_KINDS = (
    "dtype",
    "scale",
    "block_size",
    "layout",
    "value_layout",
    "query_layout",
    "views",
    "recipe",
    "tables",
    "table_size",
    "capture",
    "options",
    "dynamic",
    "kernels",
)


def sign(outcome: Outcome) -> str:
    """What a failure is told by: its verdict, and of an error its message without numbers and
    names; one word for all wrong numbers."""
    if outcome.verdict in _NUMBERS and "returned memory" not in outcome.findings[0].evidence:
        return NUMBERS
    evidence = outcome.findings[0].evidence
    evidence = evidence.split(": ", 1)[1] if evidence.startswith("a second run") else evidence
    if outcome.verdict in (Verdict.ERROR, Verdict.UNSUPPORTED):
        return f"{outcome.verdict}: {_VARIES.sub('#', evidence).strip()[:150]}"
    return str(outcome.verdict)


def told_by(case: DecodeCase, outcome: Outcome) -> str:
    """What a failure of a case is told by: its sign and, of wrong numbers, what its data have that
    would break a kernel by itself, so that one failure does not hide the other."""
    told = sign(outcome)
    if told != NUMBERS:
        return told
    idle = case.batch > 0 and max(case.input_pos) < 0
    low = case.logits == "low"
    return f"{told}{', all idle' if idle else ''}{', scores far below 0' if low else ''}"


def stopped(told: str) -> bool:
    """Whether a failure, as it is told, keeps a call from being compiled."""
    return any(name in told for name in _NOT_COMPILED)


def refused(told: str) -> bool:
    """Whether torch refuses the call, as it is told, in words that say what it wants."""
    verdicts = (Verdict.ERROR, Verdict.UNSUPPORTED)
    return told.partition(":")[0] in map(str, verdicts) and bool(_LOUD.search(told))


def kernel(case: DecodeCase, device: str) -> str:
    """Which kernel of FlexAttention a case gets, as far as its fields tell."""
    if device != "cpu" or not case.cpp:
        return "Triton"
    return "split" if split_decode(case) else "general"


def kinds(case: DecodeCase) -> dict[str, Any]:
    """What is not plain about a case, other than sizes and values."""
    found = {name: getattr(case, name) for name in _KINDS}
    found = {name: value for name, value in found.items() if value != case.default(name)}
    if not case.plainly_causal:
        found["mask"] = case.mask_kind.name
    found |= {f"score {kind.name}": True for kind in case.score_kinds}
    return found | ({"layers": True} if case.layers > 1 else {})


@dataclass(frozen=True)
class Seen:
    """A failure as a geometry showed it, on a case, and why it is not settled: neither shrunk nor
    explained by one that was found."""

    case: str
    told: str
    threads: int
    device: str
    geometry: str
    why: str = "there was no time to shrink it"

    @property
    def loud(self) -> bool:
        """Whether it is a refusal."""
        return refused(self.told)


@dataclass(frozen=True)
class Found:
    """A failure at its smallest: a ``case`` with so many ``threads``, and what it shows.

    ``first`` is the geometry that showed it first, ``after`` the seconds of the hunt until then,
    and ``wide`` says that every case of that geometry did; ``geometries`` are those that show it.
    Once it is ``finished``, sizes are small, ``beside`` are verdicts of the same call, written or
    run otherwise, by name, ``script`` is a script's text, and ``shows`` whether it showed the
    failure, None where it was not run.
    """

    case: DecodeCase
    threads: int
    outcome: Outcome
    first: str
    after: float
    wide: bool
    beside: dict[str, str] = field(default_factory=dict)
    script: str = ""
    shows: bool | None = None
    known: str = ""
    geometries: int = 1
    finished: bool = False
    device: str = "cpu"

    @property
    def key(self) -> str:
        """What tells it from all others of a hunt, at whatever size."""
        return f"{self.first} {self.sign}"

    @property
    def sign(self) -> str:
        """What it is told by."""
        return told_by(self.case, self.outcome)

    @property
    def loud(self) -> bool:
        """Whether it is a refusal."""
        return refused(self.sign)

    def explains(self, case: DecodeCase, device: str, told: str) -> bool:
        """Whether a failure of another case is this one: it is told by the same, in the same
        kernel, and has all that this needs. What a compiler complains of tells enough."""
        # What shows with any data may show with these.
        if told != self.sign and not told.startswith(f"{self.sign}, "):
            return False
        if stopped(told):
            return True
        same = kernel(case, device) == kernel(self.case, self.device)
        return same and kinds(self.case).items() <= kinds(case).items()

    def breaks(self, geometry: Geometry) -> bool:
        """Whether no call of the geometry can be right, since it has what this failure needs."""
        needed, other = kinds(self.case), kinds(geometry.case)
        same = (geometry.case.cpp, geometry.device) == (self.case.cpp, self.device)
        return self.wide and same and bool(needed) and needed.items() <= other.items()

    def also(self) -> Found:
        """The same, shown by one geometry more."""
        return dataclasses.replace(self, geometries=self.geometries + 1)

    def to_values(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        changed = {"case": str(self.case), "outcome": self.outcome.to_values()}
        return {**vars(self), **changed}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Found:
        """Read what ``to_values`` gave."""
        case = DecodeCase.from_text(values["case"])
        return cls(**{**values, "case": case, "outcome": Outcome.from_values(values["outcome"])})
