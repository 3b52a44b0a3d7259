"""From a failing case to one that a person can hold in the head.

A walk over fields, not Hypothesis's shrinker: it also holds where the failure comes and goes,
ends the process, or takes a time limit to see, and its spec is that of a reader: batch, query
tokens, cache, heads, positions, options, values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.case import MASKS, TAILS, CaseError, DecodeCase
from harness.case.fields import Spec
from harness.case.kinds import Kind

Reduction = Callable[[DecodeCase], Iterator[dict[str, Any]]]


def _below(value: int, least: int) -> Iterator[int]:
    """Least, halves, one less: few steps wherever the smallest failing value lies."""
    step = value - least
    while step > 0:
        yield value - step
        step //= 2


def _batch(case: DecodeCase) -> Iterator[dict[str, Any]]:
    positions = case.input_pos
    for size in range(1, case.batch):
        for start in range(case.batch - size + 1):
            yield {"input_pos": positions[start : start + size]}


def _q_len(case: DecodeCase) -> Iterator[dict[str, Any]]:
    for q_len in _below(case.q_len, 1):
        yield {"q_len": q_len}
        # The last query tokens, where the first ones do not show it.
        skipped = case.q_len - q_len
        yield {
            "q_len": q_len,
            "input_pos": tuple(p + skipped if p >= 0 else p for p in case.input_pos),
        }


def _heads(case: DecodeCase) -> Iterator[dict[str, Any]]:
    group = case.heads // case.kv_heads
    for kv_heads in _below(case.kv_heads, 1):
        yield {"heads": kv_heads * group, "kv_heads": kv_heads}
    for smaller in _below(group, 1):
        yield {"heads": case.kv_heads * smaller, "kv_heads": case.kv_heads}


def _cache_len(case: DecodeCase) -> Iterator[dict[str, Any]]:
    filled = max(case.input_pos) + case.q_len
    for cache_len in _below(case.cache_len, max(filled, case.q_len)):
        yield {"cache_len": cache_len}


def _positions(case: DecodeCase) -> Iterator[dict[str, Any]]:
    """All sequences at once, then each; the cache ends as far behind them as it did."""
    highest = max(case.input_pos)
    for lower in _below(highest, 0):
        moved = tuple(p if p < 0 else max(0, p - highest + lower) for p in case.input_pos)
        yield {"input_pos": moved, "cache_len": case.cache_len - highest + lower}
        yield {"input_pos": moved}
    for index, position in enumerate(case.input_pos):
        for lower in _below(position, 0):
            before, after = case.input_pos[:index], case.input_pos[index + 1 :]
            yield {"input_pos": (*before, lower, *after)}


def _lowered(kind: Kind, arguments: Mapping[str, int]) -> Iterator[str]:
    """The kind with one argument lowered, and the others as they are."""
    for name, argument in kind.arguments.items():
        if argument.lowers:
            for lower in _below(arguments[name], argument.low):
                yield kind.text({**arguments, name: lower})


def _mask(case: DecodeCase) -> Iterator[dict[str, Any]]:
    kind, arguments = case.mask_kind, case.mask_arguments
    # Kinds that do with fewer of the arguments, causal first.
    for simpler in sorted(MASKS.values(), key=lambda other: len(other.arguments)):
        if simpler.arguments.keys() < kind.arguments.keys():
            yield {"mask": simpler.text(arguments)}
    for text in _lowered(kind, arguments):
        yield {"mask": text}


def _score(case: DecodeCase) -> Iterator[dict[str, Any]]:
    present = {kind.name: kind.text(case.scores[kind.name]) for kind in case.score_kinds}
    for kind in case.score_kinds:
        fewer = [text for name, text in present.items() if name != kind.name]
        yield {"score": "+".join(fewer) or "none"}
    for kind in case.score_kinds:
        for text in _lowered(kind, case.scores[kind.name]):
            yield {"score": "+".join((present | {kind.name: text}).values())}


def _to(name: str, *simpler: Any) -> Reduction:
    """One of these values, the simplest first, of which the present one may be the last."""

    def reduction(case: DecodeCase) -> Iterator[dict[str, Any]]:
        present = getattr(case, name)
        for value in simpler[: simpler.index(present)] if present in simpler else simpler:
            yield {name: value}

    return reduction


def _dims(case: DecodeCase) -> Iterator[dict[str, Any]]:
    if case.value_dim != case.head_dim:
        yield {"value_dim": case.head_dim}
        for value_dim in (n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < case.value_dim):
            yield {"value_dim": value_dim}
    for head_dim in (n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < case.head_dim):
        yield {"head_dim": head_dim}


def _probe(case: DecodeCase) -> Iterator[dict[str, Any]]:
    name, numbers = Spec.parse_one(case.probe)
    if name != "none":
        yield {"probe": "none"}
    if name == "needle":
        for slot in _below(numbers[0], 0):
            yield {"probe": f"needle:{slot}"}


def _seed(case: DecodeCase) -> Iterator[dict[str, Any]]:
    for seed in range(min(case.seed, 3)):
        yield {"seed": seed}


REDUCTIONS: tuple[Reduction, ...] = (
    _batch,
    _q_len,
    _heads,
    _positions,
    _cache_len,
    _mask,
    _score,
    _to("scale", None),
    _to("layout", "contiguous"),
    _to("tail", *TAILS),
    _to("logits", "normal"),
    _probe,
    _to("dtype", "float32"),
    _dims,
    _seed,
)


def _changed(case: DecodeCase, changes: dict[str, Any]) -> Iterator[DecodeCase]:
    """The case with changes; a needle stays where it is, or moves along with the positions."""
    name, numbers = Spec.parse_one(case.probe)
    variants = [changes]
    if name == "needle" and "probe" not in changes:
        positions = changes.get("input_pos", case.input_pos)
        slots = {
            numbers[0] - max(case.input_pos) + max(positions),
            min(numbers[0], changes.get("cache_len", case.cache_len) - 1),
        }
        variants = [{**changes, "probe": f"needle:{n}"} for n in sorted(slots) if n >= 0]
    for variant in variants:
        try:
            smaller = case.replace(**variant)
        except CaseError:
            continue
        if smaller != case:
            yield smaller


def shrink(case: DecodeCase, still: Callable[[DecodeCase], bool | None]) -> DecodeCase:
    """The smallest case found of which ``still`` holds, starting from one of which it does.

    ``still`` returns None to end the search.
    """
    tried = {case}
    before = None
    while before != case:
        before = case
        for reduction in REDUCTIONS:
            smaller: DecodeCase | None = case
            while smaller is not None:
                case, smaller = smaller, None
                for candidate in (c for change in reduction(case) for c in _changed(case, change)):
                    if candidate in tried:
                        continue
                    tried.add(candidate)
                    held = still(candidate)
                    if held is None:
                        return case
                    if held:
                        smaller = candidate
                        break
    return case
