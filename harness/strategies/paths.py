"""Hypothesis strategies for the paths: cases as plain values, biased to edges, never tensors.

``path_cases`` draws a whole case; ``decode_data`` draws what may change without a recompile.
The product of the sizes is capped, so that one example stays cheap while every size still occurs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.case import DTYPES, LAYOUTS, MASKS, SCORES, TAILS, DecodeCase
from harness.case.forms import one_position
from harness.case.kinds import Argument, Kind
from harness.case.probes import needle_slots
from harness.strategies.constants import without_constants_of_modules
from harness.verdict import Problem, judgeable

if TYPE_CHECKING:
    from harness.paths import Path

BLOCKS = ((128, 128), (16, 16), (32, 32), (64, 64), (256, 256), (128, 32), (16, 128), (64, 256))
CACHE_LENS = (1, 2, 7, 511, 512, 513, 1000, 1024, 1025, 2046, 2048, 4096)
HEAD_DIMS = (64, 16, 32, 80, 96, 128, 192, 256, 1, 3, 17, 40)
Q_LENS = (2, 3, 5, 8, 16, 17, 64, 127, 128)
GROUPS = (1, 2, 3, 4, 5, 7, 8)
KV_HEADS = (1, 2, 3, 4, 8, 32)
SCALES = (None, 0.05, 0.5, 1.0)
LOGITS = ("normal", "x5", "low", "huge", "equal")

# One example has at most so many scores (B Hq Q S) and cache elements (B Hkv S D).
_MAX_SCORES = 2**16
_MAX_CACHE = 2**18


def often(common: Any, *rare: Any) -> st.SearchStrategy[Any]:
    """The common value half of the time, else one of the rare ones."""
    return st.one_of(st.just(common), st.sampled_from(rare)) if rare else st.just(common)


def upto(limit: int, values: Iterable[int]) -> st.SearchStrategy[int]:
    """One of the values that are at most ``limit``, or the first value where none is."""
    possible = list(values)
    return st.sampled_from([v for v in possible if v <= limit] or possible[:1])


@st.composite
def cache_lens(draw: st.DrawFn, block: int) -> int:
    """Cache lengths around block edges, off them, and on both sides of 512 slots, from which
    compiled FlexAttention on CPU splits the cache."""
    edges = [n for k in (1, 2, 3) for n in (k * block - 1, k * block, k * block + 1) if n > 0]
    return draw(st.one_of(st.sampled_from(edges), st.integers(1, 64), st.sampled_from(CACHE_LENS)))


@st.composite
def positions(draw: st.DrawFn, cache_len: int, q_len: int, block: int) -> int:
    """Positions of one live sequence: the first, the second, around block edges, the last, any."""
    last = cache_len - q_len
    edges = [n for k in range(1, 4) for n in (k * block - 1, k * block, k * block + 1) if n <= last]
    edges += [n for n in (0, 1, last) if n <= last]
    return draw(st.one_of(st.sampled_from(edges), st.integers(0, last)))


@st.composite
def input_positions(
    draw: st.DrawFn, case: DecodeCase, batch: int, *, shared: bool = False
) -> tuple[int, ...]:
    """Positions of all sequences of a batch: one for all, or one each with idle sequences among
    them."""
    one = positions(case.cache_len, case.q_len, case.block_size[1])
    if shared or draw(st.booleans()):
        return (draw(one),) * batch
    idle = st.integers(0, 4).flatmap(lambda n: st.just(-1) if n == 0 else one)
    return tuple(draw(st.lists(idle, min_size=batch, max_size=batch)))


def values(argument: Argument, blocks: Iterable[int], cache_len: int) -> st.SearchStrategy[int]:
    """Values of one argument of a kind, around these block sizes."""
    likely = list(dict.fromkeys(n for block in blocks for n in argument.likely(block)))
    if argument.in_cache:
        likely = [n for n in likely if n <= cache_len]
    if argument.listed:
        return st.sampled_from(likely)
    most = cache_len if argument.most is None else argument.most
    return st.one_of(st.sampled_from(likely), st.integers(argument.low, most))


def texts(kind: Kind, blocks: Sequence[int], cache_len: int) -> st.SearchStrategy[str]:
    """A kind with drawn arguments, as text of a case id."""
    arguments = {name: values(a, blocks, cache_len) for name, a in kind.arguments.items()}
    return st.fixed_dictionaries(arguments).map(kind.text)


@st.composite
def masks(draw: st.DrawFn, cache_len: int, block: int) -> str:
    """Masks of every kind, causal ones twice as often."""
    kind = draw(st.sampled_from(["causal", *MASKS]))
    return draw(texts(MASKS[kind], [block], cache_len))


@st.composite
def scores(draw: st.DrawFn) -> str:
    """No score_mod half of the time, else any number of them, joined in their order."""
    if draw(st.booleans()):
        return "none"
    parts = [draw(texts(kind, [1], 1)) for kind in SCORES.values() if draw(st.booleans())]
    return "+".join(parts) or "none"


@st.composite
def probes(draw: st.DrawFn, case: DecodeCase) -> str:
    """No probe, a needle (at a slot of ``needle_slots`` or anywhere), equal weights or integers."""
    kind = draw(st.sampled_from(["none", "none", "needle", "needle", "uniform", "integers"]))
    if kind != "needle":
        return kind
    inside = map(st.sampled_from, needle_slots(case).values())
    return f"needle:{draw(st.one_of(*inside, st.integers(0, case.cache_len - 1)))}"


@st.composite
def decode_data(draw: st.DrawFn, geometry: DecodeCase) -> DecodeCase:
    """Cases of one geometry, with positions and values drawn; none needs a recompile after
    another."""
    batch, shared = geometry.batch, one_position(geometry)
    case = geometry.replace(
        input_pos=draw(input_positions(geometry, batch, shared=shared)),
        tail=draw(st.sampled_from(list(TAILS))),
        logits=draw(often("normal", *LOGITS[1:])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    return case.replace(probe=draw(probes(case)))


@st.composite
def path_cases(
    draw: st.DrawFn,
    *,
    min_batch: int = 0,
    min_q_len: int = 1,
    causal: bool = False,
    idle: bool = False,
) -> DecodeCase:
    """Eager cases with every field drawn.

    Args:
        min_batch: the fewest sequences, 0 or 1.
        min_q_len: the fewest query tokens per sequence, 1 or 2.
        causal: whether to leave out masks under which a query attends a later slot.
        idle: whether at least one sequence is to be idle.
    """
    block = draw(st.sampled_from(BLOCKS))
    recipes = ["fresh", "fresh", "kv-blocks", *(["row"] if min_q_len == 1 and not idle else [])]
    recipe = draw(st.sampled_from(recipes))
    cache_len = draw(cache_lens(block[1]).filter(lambda n: n >= min_q_len))
    q_len = min_q_len
    if recipe != "row" and cache_len > 1 and draw(st.booleans()):
        q_len = draw(upto(min(max(2, _MAX_SCORES // cache_len), cache_len), Q_LENS))
    head_dim = draw(upto(_MAX_CACHE // cache_len, HEAD_DIMS))
    value_dim = draw(often(head_dim, *HEAD_DIMS))
    widest = max(head_dim, value_dim)
    room = max(1, _MAX_CACHE // (cache_len * widest))
    fewest = max(min_batch, int(idle))
    batch = draw(upto(room, [n for n in (1, 2, 1, 2, 3, 4, 0) if n >= fewest]))
    heads = min(32, _MAX_SCORES // (cache_len * q_len * max(1, batch)))
    kv_heads = draw(upto(min(heads, room // max(1, batch)), KV_HEADS))
    group = draw(upto(heads // kv_heads, GROUPS))
    layouts = [name for name, kind in LAYOUTS.items() if batch or not kind.shared]
    geometry = DecodeCase(
        cache_len=cache_len,
        input_pos=(0,) * batch,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        q_len=q_len,
        dtype=draw(st.sampled_from(DTYPES)),
        block_size=block,
        mask="causal" if recipe == "row" else draw(masks(cache_len, block[1])),
        score=draw(scores()),
        scale=draw(st.sampled_from(SCALES)),
        layout=draw(often("contiguous", *layouts)),
        views=draw(st.sampled_from(["outside", "inside"])),
        recipe=recipe,
    )
    if causal and not geometry.mask_kind.causal:
        geometry = geometry.replace(mask="causal")
    case = draw(decode_data(geometry))
    if idle and max(case.input_pos) >= 0:
        spare = draw(st.integers(0, batch - 1))
        case = case.replace(
            input_pos=tuple(-1 if b == spare else p for b, p in enumerate(case.input_pos))
        )
    return case


def sampled_cases(
    count: int, run: int | str = 0, cases: st.SearchStrategy[DecodeCase] | None = None
) -> list[DecodeCase]:
    """The first ``count`` cases that Hypothesis draws with the seed ``run``, the same each time, in
    whatever process."""
    drawn: list[DecodeCase] = []

    @seed(run)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=path_cases() if cases is None else cases)
    def collect(case: DecodeCase) -> None:
        drawn.append(case)

    with without_constants_of_modules():
        collect()
    return drawn


def fitted(cases: Iterable[DecodeCase], path: Path, **fixed: Any) -> Iterator[Problem]:
    """The cases, changed so that ``path`` takes them, as problems, without those on which no
    implementation can be judged."""
    return judgeable(fit(case, path, **fixed) for case in cases)


def fit(case: DecodeCase, path: Path, **fixed: Any) -> DecodeCase:
    """``case`` with the fields ``fixed``, simplified step by step until ``path`` takes it.

    Without this, drawn examples would be wasted on paths that refuse them. No step may be enough,
    so the path may refuse the result too."""
    case = case.replace(**fixed)
    live = max(case.input_pos, default=-1)
    additive = [kind.text(case.scores[kind.name]) for kind in case.score_kinds if kind.additive]
    tail = case.tail if case.tail_kind.finite else "leftovers"
    if tail == "max" and path.precision.operand is not None:
        tail = "poison"  # The largest number may be beyond the range of the operands.
    simpler: list[dict[str, Any]] = [
        {"recipe": "fresh"},
        {"tail": tail},
        {"score": "+".join(additive) or "none"},
        {"input_pos": (max(live, 0),) * case.batch},
    ]
    for change in simpler:
        if path.refuses(case) is None:
            break
        case = case.replace(**change)
    return case
