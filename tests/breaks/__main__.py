"""``python -m tests.breaks [NAME ...]``: plant each break, or these, in a copy of the checkout, and
say whether the tests of a day catch it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from harness.support.interrupts import interrupts
from tests.breaks.plant import Unplantable, judged
from tests.breaks.table import BREAKS


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where a break is not caught; 2 for a break that cannot be planted, for tests that are
    red without one, and for bad usage; 130 where it is interrupted."""
    names = [one.name for one in BREAKS]
    parser = argparse.ArgumentParser(prog="python -m tests.breaks", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {' '.join(names)}")
    wanted = parser.parse_args(argv).names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"NAME: {unknown[0]!r} is not one of {' '.join(names)}")
    start, caught, missed = time.monotonic(), 0, 0
    try:
        with interrupts():
            for one, test, seconds in judged(
                one for one in BREAKS if not wanted or one.name in wanted
            ):
                caught, missed = caught + bool(test), missed + (not test)
                word, by = ("caught", f"by {test}") if test else ("NOT CAUGHT", one.what)
                print(f"{word:10} {one.name:24} {seconds:5.1f} s  {by}", flush=True)
    except Unplantable as error:
        print(f"tests.breaks: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    print(f"{caught} of {caught + missed} caught in {time.monotonic() - start:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
