"""The schedule of a search: which source gives the next item, so that each gets its share of the
time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.function.item import Item
from harness.function.outcome import Outcome


class Source:
    """Items of one kind, with a share of the time.

    Args:
        name: as a progress line and the result call it.
        share: of the time, in proportion to the shares of the other sources.
        items: in their order; they are made when they are asked for.
        most: after so many items the source has none left; None for no limit.
        least: so many items are run even where the time spent on the other sources earns fewer.
        after: takes turns once the first source has run so many items.
        learn: is told of each item, its outcome, and the seconds that it took.

    ``seconds`` and ``count`` are what its items have taken and how many they were.
    """

    def __init__(
        self,
        name: str,
        share: float,
        items: Iterable[Item],
        *,
        most: int | None = None,
        least: int = 0,
        after: int = 0,
        learn: Callable[[Item, Outcome, float], None] = lambda item, outcome, seconds: None,
    ) -> None:
        if share <= 0:
            raise ValueError(f"{name}: a share of {share} is not above 0")
        self.name, self.share, self.least, self.after = name, share, least, after
        self.learn = learn
        self.seconds, self.count = 0.0, 0
        self._items = itertools.islice(items, most)

    @property
    def spent(self) -> float:
        """Seconds spent for each unit of its share; the least is furthest behind."""
        return self.seconds / self.share

    def take(self) -> Item | None:
        """The next item, or None where there is none left."""
        return next(self._items, None)

    def begin(self) -> None:
        """Count one item, which is run."""
        self.count += 1

    def add(self, seconds: float) -> None:
        """Count the time that an item took."""
        self.seconds += seconds


def interleaved(sources: Sequence[Source]) -> Iterator[tuple[Source, Item]]:
    """The items of all sources, each from the source that is furthest behind its share.

    The first source is the one that bounds the search: when it has none left, each of the others
    still gets what it is behind of its share and of its ``least`` items, and no more; one that
    had to wait for more items of the first gets nothing. Whoever runs an item has to call ``begin``
    of its source before asking for the next one, and ``add`` once it has run.
    """
    first, waiting = sources[0], list(sources)
    while waiting:
        turns = [s for s in waiting if first.count >= s.after]
        if not turns:
            return
        # Of those that are equally far, the first in order.
        source = min(turns, key=lambda s: s.spent)
        served = source.count >= source.least and source.spent >= first.spent
        item = None if first not in waiting and served else source.take()
        if item is None:
            waiting.remove(source)
        else:
            yield source, item
