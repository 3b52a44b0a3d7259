"""What a row attended, read off a cache class: the program is run again with a unit vector as the
value of each token, and queries of 0, so that every attended token counts the same.

By linearity in the values the output then holds the weight of each token. This tells a stale
position from a neighbour's cache without knowing how the class works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case.precision import Precision
from harness.case.program import Program
from harness.serving.rows import PADDING, TAKEN_BACK, Token
from harness.serving.session import Around, CacheClass, Call, Session
from harness.verdict.judgement import Finding, Problem
from harness.verdict.judging import guarded

# Each piece of a program's tokens, as many as the value has dims, is a run of its own.
_MOST_PIECES = 64
_SHOWN = 6


@dataclass(frozen=True)
class Attended:
    """Weights of one row: of ``tokens`` all that were ever given, ``weight`` as the class gave it,
    ``wanted``, and how far the two may be ``apart``, each ``[T]``. ``query`` is the row's own
    token."""

    query: Token
    tokens: list[Token]
    own: list[Token]
    weight: Tensor
    wanted: Tensor
    apart: Tensor

    @property
    def extra(self) -> list[Token]:
        """Tokens that were attended and should not be."""
        return self._where((self.weight.abs() > self.apart) & (self.wanted == 0))

    @property
    def missing(self) -> list[Token]:
        """Tokens that were not attended and should be."""
        return self._where((self.weight == 0) & (self.wanted > self.apart))

    @property
    def unknown(self) -> bool:
        """Whether weight went to slots that hold no token."""
        return bool(self.weight.sum() < 1 - self.apart.sum())

    def _where(self, mask: Tensor) -> list[Token]:
        return [self.tokens[i] for i in mask.nonzero().flatten().tolist()]


def attended(
    cache: CacheClass,
    program: Program,
    device: str,
    number: int,
    at: tuple[int, int, int],
    precision: Precision,
    around: Around = nullcontext,
) -> Attended | None:
    """What the row ``at`` (sequence, head, token of the call) of step ``number`` attends; None
    where the class raises now, or there are too many tokens."""
    program = program.replace(steps=program.steps[:number])
    # Zeros in free slots leave all weight that a token does not get unaccounted for.
    cache = dataclasses.replace(cache, junk=0.0)
    first, weights, wanted, apart = 0, [], [], []
    while True:
        session = Session(cache, program, device, _units(first), around)
        last = guarded(lambda: _run(session), torch.device(device))  # noqa: B023
        if isinstance(last, Finding) or last is None:
            return None
        call, output = last
        total = len(session.rows.tokens)
        b, h, i = at
        query = call.tensors["query"][b, :, : call.counts[b]].cpu()
        problem = Problem.given(session.rows.inputs(program.case, b, call.slots, query))
        bound = problem.bound(precision, tensor_cores=call.tensors["query"].is_cuda)
        weights.append(output[b, h, i].cpu().double())
        wanted.append(problem.golden.output[0, h, i])
        apart.append(bound.output[0, h, i])
        first += program.case.value_dim
        if first >= total:
            break
        if total > _MOST_PIECES * program.case.value_dim:
            return None
    held = session.rows.held[b]
    row = held[len(held) - call.counts[b] + i]
    joined = (torch.cat(parts)[:total] for parts in (weights, wanted, apart))
    return Attended(row, session.rows.tokens, held, *joined)


def _run(session: Session) -> tuple[Call, Tensor] | None:
    last = None
    for call in session.calls():
        output = call.run()
        assert isinstance(output, Tensor)
        last = call, output
    return last


def _units(first: int) -> Callable[..., None]:
    """Queries of 0, and the unit vector e_(n - first) as the value of token n, 0 for others."""

    def change(tokens: Tensor, padding: Tensor, query: Tensor, key: Tensor, value: Tensor) -> None:
        query.zero_()
        dims = torch.arange(first, first + value.size(-1))
        value.copy_((tokens[:, None, :, None] == dims).expand_as(value))

    return change


def explained(seen: Attended) -> Iterator[tuple[str, str]]:
    """Names of what is wrong with what a row attended, each with a sentence for it."""
    who = f"token {seen.query.position} of sequence {seen.query.sequence}"
    for name, tokens in _sorted(seen, seen.extra):
        yield name, f"{who} attends {_list(tokens)}"
    newest = [t for t in seen.missing if t.step == seen.query.step]
    older = [t for t in seen.missing if t.step != seen.query.step]
    if newest:
        yield "new-tokens-missing", f"{who} does not attend {_list(newest)}, which came with it"
    if older:
        yield "tokens-missing", f"{who} does not attend {_list(older)}"
    if seen.unknown:
        yield "slots-without-token", f"{who} gives weight to slots that hold no token"


def _sorted(seen: Attended, extra: list[Token]) -> Iterator[tuple[str, list[Token]]]:
    mine = {id(token) for token in seen.own}
    kinds: dict[str, list[Token]] = {}
    for token in extra:
        if id(token) in mine:
            later = token.position > seen.query.position
            name = "future-attended" if later else "window-exceeded"
        elif token.fate.startswith(PADDING):
            name = "padding-attended"
        elif not token.fate:
            name = "another-sequence"
        elif token.fate.endswith(TAKEN_BACK):
            name = "taken-back-attended"
        else:
            name = "earlier-sequence-attended"
        kinds.setdefault(name, []).append(token)
    yield from kinds.items()


def _list(tokens: Iterable[Token]) -> str:
    """The tokens in words: those of one sequence and fate together."""
    groups: dict[tuple[int, str], list[int]] = {}
    for token in tokens:
        groups.setdefault((token.sequence, token.fate), []).append(token.position)
    said = []
    for (sequence, fate), positions in groups.items():
        if fate.startswith(PADDING):
            said.append(fate)
            continue
        shown = ", ".join(map(str, positions[:_SHOWN])) + (", .." if positions[_SHOWN:] else "")
        tokens_ = "tokens" if positions[1:] else "token"
        said.append(f"{tokens_} {shown}{fate or f' of sequence {sequence}'}")
    return " and ".join(said)
