"""For the tests of projects that have a model: an assertion that its cached decoding is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.auditing.model import Configuration, Session
from harness.auditing.reference import Uncached
from harness.auditing.run import audit
from harness.auditing.scenario import SCENARIOS, Scenario
from harness.auditing.text import render
from harness.case.precision import Precision
from harness.support.deadline import without_default_deadline


def assert_cached_decoding(
    begin: Callable[[int, int], Session],
    uncached: Uncached,
    *,
    vocabulary: int,
    scenarios: Iterable[Scenario | str] = SCENARIOS,
    precision: Precision | None = None,
    seed: int = 0,
) -> None:
    """Decode in each scenario and compare every attention call with an uncached forward.

    Args:
        begin: ``begin(batch, slots)`` starts a ``Session`` on an empty cache. A session that raises
            ``Refused`` does not take the scenario, which is left out.
        uncached: the same weights in float64, tokens int64 ``[T]`` to logits ``[T, vocabulary]``.
        vocabulary: the number of tokens; each is drawn once, so that it must be large enough.
        scenarios: which to run, or the names of some of ``SCENARIOS``.

    Raises:
        AssertionError: with what is wrong: the first layer, forward and token that is off, and
            whether position, cache content, mask or kernel is at fault; or where every scenario was
            refused, so that nothing was judged.
        ValueError: for an unknown name of a scenario, or too small a vocabulary.
    """
    __tracebackhide__ = True
    without_default_deadline()
    given = [scenarios] if isinstance(scenarios, str) else scenarios
    wanted = [_named(scenario) for scenario in given]
    configuration = Configuration("model", vocabulary, begin, uncached, precision)
    audits = [audit(configuration, scenario, seed) for scenario in wanted]
    if not any(a.calls for a in audits) or not all(a.verdict.passes for a in audits):
        raise AssertionError(render(audits, "cached decoding against an uncached forward"))


def _named(scenario: Scenario | str) -> Scenario:
    known = {one.name: one for one in SCENARIOS}
    if isinstance(scenario, Scenario):
        return scenario
    if scenario not in known:
        raise ValueError(f"scenarios: {scenario!r} is not one of {' '.join(known)}")
    return known[scenario]
