"""What ``check`` draws for a function: every size and option, as far as the function's speed and
what it refuses allow."""

import itertools
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from harness.case import DecodeCase
from harness.case.classes import Coverage, classes_in, classes_of, pairs_in, pairs_of
from harness.case.domain import HEAD_DIMS, Domain
from harness.case.features import FEATURES, features_of
from harness.case.layouts import STRIDED
from harness.function.drawing import Drawing
from harness.function.item import Single
from harness.function.outcome import Outcome
from harness.function.production import production_cases
from harness.function.sources import DEFAULT, sources
from harness.function.speed import Speed, work
from harness.strategies.drawing import FREE, LARGE, SMALL, domain_cases, size
from harness.verdict import Finding, Verdict

EVERYTHING = Domain(tuple(FEATURES))
UNSUPPORTED = Outcome((Finding(Verdict.UNSUPPORTED, "no"),))


def drawn(domain: Domain, count: int = 1000) -> list[DecodeCase]:
    return list(itertools.islice(domain_cases(domain, 0, LARGE), count))


def runs(
    domain: Domain,
    seconds: Callable[[DecodeCase], float],
    count: int = 200,
    refuses: Callable[[DecodeCase], bool] = lambda case: False,
) -> list[DecodeCase]:
    """The cases that are run of a function that takes so long, and refuses some."""
    drawing = Drawing(domain_cases(domain, 0, LARGE), FREE.allow, 0.06, Speed())
    ran = []
    for item in itertools.islice(drawing, count):
        outcome = UNSUPPORTED if refuses(item.case) else Outcome()
        drawing.learn(item, outcome, seconds(item.case))
        ran.append(item.case)
    return ran


def fast(case: DecodeCase) -> float:
    """As measured of scaled_dot_product_attention, judged, on one core."""
    return 0.01 + 4e-8 * work(case)


SHOWN: dict[str, Callable[[DecodeCase], bool]] = {
    "more than 512 slots": lambda case: case.cache_len > 512,
    "a position beyond 1000": lambda case: max(case.input_pos) > 1000,
    "the slot 4095": lambda case: max(case.input_pos) >= 4095,
    "slots beyond 16 bits": lambda case: case.cache_len > 65536,
    "elements beyond 16 bits": lambda case: case.cache_len * case.head_dim > 65536,
    "D >= 128 with more than 512 slots": lambda c: c.head_dim >= 128 and c.cache_len > 512,
    "more than 4 sequences": lambda case: case.batch > 4,
    "more than 8 heads without groups": lambda c: c.heads == c.kv_heads > 8,
    "slots that are no multiple of 4": lambda case: case.cache_len % 4 != 0,
    "slots that are a multiple of 64": lambda case: case.cache_len % 64 == 0,
}


@pytest.mark.parametrize("what", SHOWN)
def test_a_fast_function_gets_every_size(what: str) -> None:
    """In the 200 cases of a default run, in more than one of them."""
    assert sum(map(SHOWN[what], RUN)) > 1


RUN = runs(Domain(), fast)


def test_a_fast_function_gets_every_group() -> None:
    """Also those that are no power of two, and those above 8."""
    groups = {case.heads // case.kv_heads for case in runs(Domain(("gqa",)), fast)}
    assert {1, 2, 3, 4, 5, 6, 7, 8, 12, 16} <= groups


def test_a_function_that_takes_strides_gets_every_layout() -> None:
    """Of keys, of values alone, and of the query; none is drawn where no stride is declared."""
    cases = runs(Domain(("strided",)), fast)
    assert {case.layout for case in cases} == {"contiguous", *STRIDED}
    assert any(case.value_layout != "same" for case in cases)
    projected = [c for c in cases if c.query_layout == "projected" and c.batch > 1]
    assert any(c.layout == "contiguous" for c in projected)
    plain = runs(Domain(), fast)
    assert {(c.layout, c.value_layout, c.query_layout) for c in plain} == {
        ("contiguous", "same", "contiguous")
    }


def test_head_dims_are_those_of_the_domain() -> None:
    """Powers of two where nothing is said; each that is named, be it none."""
    assert {case.head_dim for case in drawn(Domain())} == set(HEAD_DIMS)
    assert {case.head_dim for case in drawn(Domain(head_dims=(40, 96)))} == {40, 96}


def test_sizes_are_drawn_evenly_over_powers_of_two() -> None:
    """No power of two more than twice as often as it should be, or half as often."""
    numbers = Random(0)
    drawn = [size(numbers, 1, 2**17 - 1).bit_length() for _ in range(17000)]
    counts = [drawn.count(power) for power in range(2, 17)]
    assert min(counts) > 500
    assert max(counts) < 2000


@pytest.mark.parametrize("domain", [Domain(), EVERYTHING, Domain(cache_len=(300, 400))])
def test_drawn_cases_are_in_the_domain_and_its_limits(domain: Domain) -> None:
    """Every one; of the small ones hardly any is dear: with two heads and another Dv."""
    assert [case for case in drawn(domain) if domain.refuses(case)] == []
    small = list(itertools.islice(domain_cases(domain, 1, SMALL), 1000))
    assert sum(not FREE.allow(case) for case in small) < 50
    assert max(map(work, small)) < 2**22


def test_large_cases_take_as_much_time_as_small_ones_or_the_pace() -> None:
    """Of a fast function and of a slow one."""
    for slower in (1.0, 30.0):
        cases = runs(Domain(), lambda case, slower=slower: slower * fast(case))
        small = [case for case in cases if FREE.allow(case)]
        paid = sum(max(0.06, slower * fast(case)) for case in small)
        spent = sum(slower * fast(case) for case in cases if not FREE.allow(case))
        assert len(cases) == 200
        assert 0.5 * paid < spent < 1.5 * paid


@pytest.mark.parametrize("factor", [1e-8, 1e-6])
def test_a_function_whose_time_grows_with_the_square_gets_no_hour_long_case(factor: float) -> None:
    """Its time with as many slots is what counts, however narrow the case: with the width alone,
    a case of 28 or 67 seconds was run."""
    cases = runs(Domain(), lambda case: 0.005 + factor * case.cache_len**2)
    longest = max(case.cache_len for case in cases)
    assert longest > 1024
    assert factor * longest**2 < 15


def test_what_is_always_refused_is_seldom_tried() -> None:
    """A dtype, or a size: after a few refusals most cases are ones that the function takes; what
    it refuses now and then is drawn on."""
    for refuses in (lambda c: c.dtype == "float16", lambda c: c.cache_len > 1024):
        late = runs(Domain(), fast, refuses=refuses)[60:]
        assert sum(map(refuses, drawn(Domain(), 50))) > 0
        assert sum(map(refuses, late)) < 0.12 * len(late)
    both = runs(EVERYTHING, fast, refuses=lambda c: c.dtype == "float16" and c.q_len > 1)
    assert {"float16"} <= {case.dtype for case in both[100:]}


def test_a_function_that_refuses_everything_is_asked_on() -> None:
    """So that the reasons are counted."""
    assert len(runs(Domain(), fast, 50, refuses=lambda case: True)) == 50


def test_more_pairs_of_classes_are_run_than_by_drawing_alone() -> None:
    """Of the same number of cases."""

    def pairs(cases: list[DecodeCase]) -> int:
        coverage = Coverage()
        for case in cases:
            coverage.add(case)
        return len(coverage.pairs)

    short = Domain(tuple(FEATURES), cache_len=(1, 512))
    plain = list(itertools.islice(domain_cases(short, 0, SMALL), 40))
    assert pairs(runs(short, fast, 40)) > 1.1 * pairs(plain)


@pytest.mark.parametrize("domain", [Domain(), EVERYTHING, Domain(("gqa", "chunk"), (40,), (7, 90))])
def test_a_domain_has_the_classes_and_pairs_of_its_cases(domain: Domain) -> None:
    """All of them, so that no run covers more than there is; and hardly any that never occur."""
    classes, pairs = Coverage(), Coverage()
    for case in drawn(domain, 3000):
        classes.add(case)
        pairs.add(case)
    assert set(classes.classes) == set(classes_in(domain))
    assert set(pairs.pairs) <= set(pairs_in(domain))
    assert len(pairs.pairs) > 0.9 * len(list(pairs_in(domain)))


def test_a_class_says_what_it_holds() -> None:
    """One on each axis; several positions and options; the power of two at which a position is."""
    case = DecodeCase.from_text("S=5000,pos=4096/3,H=12,Hkv=2,D=40,Q=2,dtype=bf16,mask=window:9")
    names = {str(name) for name in classes_of(case)}
    assert names == {
        *("slots 4097-16384", "position 1025-4096", "position 1-16", "group 6", "heads 9+"),
        *("batch 2-4", "Q 2-16", "D 40", "dtype bf16", "option ragged", "option window"),
        "edge 1025-4096",
    }
    axes = [{one.axis, other.axis} for one, other in pairs_of(classes_of(case))]
    assert all(len(pair) == 2 for pair in axes)
    assert {"edge", "position"} not in axes


@pytest.mark.parametrize("features", [(), ("gqa", "ragged"), tuple(FEATURES)])
def test_production_shapes_are_those_that_are_served(features: tuple[str, ...]) -> None:
    """32 heads of 128 dims over thousands of slots, nearly full, in a narrow dtype; in the domain,
    and no larger than the largest; each option of the function in turn."""
    domain = Domain(features)
    cases = list(itertools.islice(production_cases(domain, 0), 40))
    assert [case for case in cases if domain.refuses(case)] == []
    first = cases[0]
    assert (first.cache_len, first.heads, first.head_dim) == (4096, 32, 128)
    assert first.kv_heads == (8 if "gqa" in features else 32)
    assert all(max(case.input_pos) >= 0.9 * case.cache_len for case in cases)
    assert {case.cache_len for case in cases} == {4096, 8192, 16384, 32768}
    assert {case.dtype for case in cases} == {"bfloat16", "float16"}
    assert max(case.batch * case.cache_len * case.kv_heads for case in cases) <= 32768 * 8
    assert any(len(set(case.input_pos)) > 1 for case in cases) is ("ragged" in features)
    if len(features) == len(FEATURES):
        assert {"window", "softcap", "alibi", "sink"} <= {n for c in cases for n in features_of(c)}


def test_no_production_shape_beyond_the_domain() -> None:
    """None where caches are shorter, none that lacks what is required."""
    assert list(production_cases(Domain(cache_len=(1, 4000)), 0)) == []
    required = itertools.islice(production_cases(Domain(requires=("window", "ragged")), 0), 9)
    assert all({"window", "ragged"} <= set(features_of(case)) for case in required)
    assert list(production_cases(Domain(requires=("idle",)), 0)) == []


@pytest.mark.parametrize(("slower", "least", "most"), [(1.0, 2, 60), (1000.0, 0, 0)])
def test_production_shapes_get_their_share_unless_they_take_too_long(
    slower: float, least: int, most: int
) -> None:
    """At least two of a fast function; none of one that would take minutes for each."""
    named = {source.name: source for source in sources(Domain(), 0, DEFAULT)}
    drawn, production = named["drawn"], named["production"]
    large = 0
    for source in [drawn] * 60 + [production] * most:
        item = source.take()
        if item is not None:
            seconds = slower * fast(item.case)
            source.begin()
            source.add(seconds)
            source.learn(item, Outcome(), seconds)
            large += source is production and item.case.cache_len >= 4096
    assert least <= large <= most
    assert isinstance(item, Single) or slower > 1


def test_a_search_has_every_source() -> None:
    """Loops and rows for the precision too, but where each would be compiled or interpreted."""

    def names(**options: Any) -> list[str]:
        return [source.name for source in sources(Domain(), 0, DEFAULT, **options)]

    assert names() == ["drawn", "loops", "production", "precision"]
    assert names(interpreted=True) == ["drawn", "loops", "production"]
    assert names(compiled_geometries=2) == ["drawn", "production"]
    assert all(source.take() is not None for source in sources(Domain(), 0, DEFAULT)[:2])


def test_every_feature_of_a_domain_is_drawn() -> None:
    """Among the cases of one search."""
    seen = {
        feature for case in drawn(EVERYTHING, DEFAULT.examples) for feature in features_of(case)
    }
    assert seen == set(FEATURES)
