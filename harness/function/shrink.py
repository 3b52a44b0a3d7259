"""Shrinking: from a failing case to a small one that a person can understand.

It lowers one field after the other, in an order that suits a reader: batch, query tokens, heads,
positions, cache length, mask, score_mods, values. Hypothesis's shrinker is not used, since it
expects failures that are deterministic and quick, and these may come and go, end the process, or
show only in a time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.case import MASKS, TAILS, CaseError, DecodeCase
from harness.case.fields import Spec
from harness.case.kinds import Kind

Reduction = Callable[[DecodeCase], Iterator[dict[str, Any]]]


def lowered(value: int, least: int) -> Iterator[int]:
    """Smaller values: the least one, then ever closer to ``value`` by halving the distance, so that
    few steps find the smallest failing value wherever it lies."""
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
    for q_len in lowered(case.q_len, 1):
        yield {"q_len": q_len}
        # Keep the last query tokens instead, since the first ones may not show the failure.
        skipped = case.q_len - q_len
        yield {
            "q_len": q_len,
            "input_pos": tuple(p + skipped if p >= 0 else p for p in case.input_pos),
        }


def _heads(case: DecodeCase) -> Iterator[dict[str, Any]]:
    group = case.heads // case.kv_heads
    for kv_heads in lowered(case.kv_heads, 1):
        yield {"heads": kv_heads * group, "kv_heads": kv_heads}
    for smaller in lowered(group, 1):
        yield {"heads": case.kv_heads * smaller, "kv_heads": case.kv_heads}


def _cache_len(case: DecodeCase) -> Iterator[dict[str, Any]]:
    filled = max(case.input_pos, default=0) + case.q_len
    for cache_len in lowered(case.cache_len, max(filled, case.q_len)):
        yield {"cache_len": cache_len}


def _positions(case: DecodeCase) -> Iterator[dict[str, Any]]:
    """Lower the positions of all sequences at once, with the free slots behind them kept or not,
    then those of each."""
    highest = max(case.input_pos, default=0)
    for lower in lowered(highest, 0):
        moved = tuple(p if p < 0 else max(0, p - highest + lower) for p in case.input_pos)
        yield {"input_pos": moved, "cache_len": case.cache_len - highest + lower}
        yield {"input_pos": moved}
    for index, position in enumerate(case.input_pos):
        for lower in lowered(position, 0):
            before, after = case.input_pos[:index], case.input_pos[index + 1 :]
            yield {"input_pos": (*before, lower, *after)}


def _lowered(kind: Kind, arguments: Mapping[str, int]) -> Iterator[str]:
    """The kind with one of its arguments lowered, as text of a case id."""
    for name, argument in kind.arguments.items():
        if argument.lowers:
            for lower in lowered(arguments[name], argument.low):
                yield kind.text({**arguments, name: lower})


def _mask(case: DecodeCase) -> Iterator[dict[str, Any]]:
    kind, arguments = case.mask_kind, case.mask_arguments
    # Kinds that need only some of the arguments are simpler; causal, which needs none, is first.
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
    """A reduction that tries these values of a field, the simplest first, up to the present one."""

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
        for slot in lowered(numbers[0], 0):
            yield {"probe": f"needle:{slot}"}


def _earlier(case: DecodeCase) -> Iterator[dict[str, Any]]:
    """Fewer calls before it, each left out in turn."""
    for index in range(len(case.earlier)):
        yield {"earlier": case.earlier[:index] + case.earlier[index + 1 :]}


def _seed(case: DecodeCase) -> Iterator[dict[str, Any]]:
    for seed in range(min(case.seed, 3)):
        yield {"seed": seed}


# What changes without a kernel being compiled anew.
VALUES: tuple[Reduction, ...] = (_to("tail", *TAILS), _to("logits", "normal"), _probe, _seed)
# How the call is written, where a path follows it.
FORMS: tuple[Reduction, ...] = (
    _earlier,
    _to("layers", 1),
    _to("options", "none"),
    _to("capture", "positions"),
    _to("table_size", "batch"),
    _to("tables", "made", "listed"),
    _to("recipe", "fresh"),
    _to("views", "outside"),
    _to("dynamic", False),
)

REDUCTIONS: tuple[Reduction, ...] = (
    _batch,
    _q_len,
    _heads,
    _positions,
    _cache_len,
    _mask,
    _score,
    _to("scale", None),
    *FORMS,
    _to("query_layout", "contiguous"),
    _to("value_layout", "same"),
    _to("layout", "contiguous"),
    _to("tail", *TAILS),
    _to("logits", "normal"),
    _probe,
    _to("dtype", "float32"),
    _dims,
    _seed,
)


# What makes a large case cheap to run again.
SIZES: tuple[Reduction, ...] = (_batch, _heads, _q_len, _positions, _cache_len, _dims)


def _changed(case: DecodeCase, changes: dict[str, Any]) -> Iterator[DecodeCase]:
    """The case with changes, where a needle stays at its slot or moves along with the positions."""
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


def shrink(
    case: DecodeCase,
    still: Callable[[DecodeCase], bool | None],
    reductions: Sequence[Reduction] = REDUCTIONS,
) -> DecodeCase:
    """The smallest case found that still fails, starting from ``case``, which fails.

    ``still(smaller)`` says whether a smaller case still fails, or returns None to end the search.
    """
    tried = {case}
    before = None
    while before != case:
        before = case
        for reduction in reductions:
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
