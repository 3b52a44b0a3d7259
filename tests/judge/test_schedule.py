"""The schedule of a search: each source gets its share of the time."""

from collections.abc import Iterator

import pytest

from harness.case import DecodeCase
from harness.function.item import Item, Single
from harness.function.schedule import Source, interleaved


def items(slots: int) -> Iterator[Item]:
    """Without end; of this many slots, so that a test can tell sources apart."""
    while True:
        yield Single(DecodeCase(cache_len=slots, input_pos=(0,)))


def source(name: str, share: float, most: int | None = None, least: int = 0) -> Source:
    return Source(name, share, items(1), most=most, least=least)


def run(sources: list[Source], cost: dict[str, float]) -> list[str]:
    """The names of the sources in the order of their turns, an item of each costing this much."""
    order = []
    for chosen, _ in interleaved(sources):
        chosen.begin()
        chosen.add(cost[chosen.name])
        order.append(chosen.name)
    return order


@pytest.mark.parametrize("cost", [0.01, 1.0, 20.0])
def test_a_source_gets_its_share_of_the_time(cost: float) -> None:
    """Whatever its items cost, to within one item of each."""
    small, large = source("small", 3.0, most=400), source("large", 1.0)
    run([small, large], {"small": 1.0, "large": cost})
    assert small.count == 400
    assert abs(large.seconds - small.seconds / 3) <= max(cost, 1.0)


def test_sources_take_turns() -> None:
    """A share is had all along, not at the end."""
    order = run([source("a", 1, most=50), source("b", 1)], {"a": 1.0, "b": 1.0})
    for length in range(2, len(order)):
        assert abs(order[:length].count("a") - length / 2) <= 1


def test_what_was_taken_is_run_in_its_order() -> None:
    """Every item of the first source, each once."""
    numbers = [Single(DecodeCase(cache_len=n, input_pos=(0,))) for n in range(1, 9)]
    taken = []
    for chosen, item in interleaved([Source("a", 1, numbers), source("b", 1)]):
        chosen.begin()
        chosen.add(1.0)
        if chosen.name == "a":
            taken.append(item)
    assert taken == numbers


def test_the_least_is_run_where_the_share_earns_less() -> None:
    """After the source that bounds the search has none left; of one that is short, what it has."""
    dear, short = source("dear", 1, least=3), source("short", 1, most=1, least=5)
    order = run([source("a", 100, most=10), dear, short], {"a": 0.01, "dear": 50, "short": 50})
    assert (order.count("a"), dear.count, short.count) == (10, 3, 1)


def test_nothing_follows_a_first_source_without_items() -> None:
    """It bounds the search, so the others get no time of their own."""
    assert run([source("a", 1, most=0), source("b", 1)], {"b": 1.0}) == []


def test_a_share_is_above_0() -> None:
    """Named where it is not."""
    with pytest.raises(ValueError, match="loops: a share of 0 is not above 0"):
        source("loops", 0)
