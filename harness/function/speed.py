"""How long a case will take, from how long others took: what a function's speed allows."""

from __future__ import annotations

from harness.case import DecodeCase

# An estimate reaches so many powers of two beyond all sizes that were run.
_REACH = 4
# Growth is taken over so many powers of two, since over fewer what else the machine does rules it.
_BASE = 4


def work(case: DecodeCase) -> int:
    """The size of a case, roughly in proportion to the time that judging a fast function on it
    takes: elements of query and caches, and scores with what each costs in elements."""
    dims = case.head_dim + case.value_dim
    rows = case.heads * case.q_len
    each_slot = case.kv_heads * dims + rows * (4 + dims // 32)
    return case.batch * (case.cache_len * each_slot + rows * dims)


class Speed:
    """Estimates the seconds of a case from what others took.

    Time is learnt over ``work`` and over the number of slots, each in powers of two, and the larger
    estimate counts: a function may build a mask of slots x slots, whatever the dims are. Of each
    size the shortest time counts, since longer ones may be due to other work on the machine. Beyond
    the sizes that were run, time is taken to grow as fast as it did up to them, and at least
    linearly.
    """

    def __init__(self) -> None:
        self._of_work: dict[int, float] = {}
        self._of_slots: dict[int, float] = {}

    def learn(self, case: DecodeCase, seconds: float) -> None:
        """A case took so long."""
        for table, size in ((self._of_work, work(case)), (self._of_slots, case.cache_len)):
            power = size.bit_length()
            table[power] = max(1e-6, min(seconds, table.get(power, seconds)))

    def estimate(self, case: DecodeCase) -> float | None:
        """The seconds that a case will take, or None where it is too far beyond all that were
        run."""
        if not self._of_work:
            return None
        found = []
        for table, size in ((self._of_work, work(case)), (self._of_slots, case.cache_len)):
            if size.bit_length() - max(table) > _REACH:
                return None
            found.append(self._from(table, size.bit_length()))
        return max(found)

    def _from(self, table: dict[int, float], wanted: int) -> float:
        below = sorted(n for n in table if n <= wanted) or [min(table)]
        nearest, growth = below[-1], 2.0
        far = [n for n in below if n <= nearest - _BASE]
        if far:
            growth = max(growth, (table[nearest] / table[far[-1]]) ** (1 / (nearest - far[-1])))
        return table[nearest] * growth ** max(0, wanted - nearest)
