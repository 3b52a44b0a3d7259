"""The benchmarks: by day each of them runs once, so that none breaks unseen."""

from __future__ import annotations

from tests.support import ROOT
from tests.support.processes import Preloaded


def test_each_benchmark_runs(preloaded: Preloaded) -> None:
    """All that names.txt lists, once and unmeasured, as ``tox run -e bench`` collects them."""
    quick = ("-n", "0", "--benchmark-disable", "-q", "-p", "no:cacheprovider")
    done = preloaded.run("-m", "pytest", "benchmarks", *quick, folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    names = (ROOT / "benchmarks" / "names.txt").read_text(encoding="utf-8").split()
    assert f"{len(names)} passed" in done.stdout
