"""State: a failure that shows only after other calls is told from one that shows by itself, shrunk,
named, and printed so that it shows again."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator

import pytest

from harness.case import DecodeCase
from harness.case.loop import STEPS, Loop, loops_from_text
from harness.function.calls import LONG, Calls, Pace
from harness.function.confirm import Confirmer
from harness.function.declarations import Declarations
from harness.function.item import Single
from harness.function.run import LocalRunner
from harness.function.schedule import Source
from harness.function.search import SearchResult, check, repro_command
from harness.function.spec import TargetSpec
from harness.function.worker import Worker
from harness.strategies.loops import domain_loops
from harness.verdict import Verdict
from tests.support import ROOT, stateful
from tests.support.command import command
from tests.support.processes import PATIENCE
from tests.support.stateful import Function

FILE = "tests/support/stateful.py"
SHORT = "S=16,pos=3,D=16"
pytestmark = pytest.mark.usefixtures("unhurried")

EVERY = "next next jump:2 query replace free back:1 next move next other:2:24 next swap run:300"


class Reloading(LocalRunner):
    """Loads the target's module again in place of a fresh process, and looks for no races."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.repeats.seconds = 0.0

    def fresh(self) -> bool:
        """A new module has kept nothing."""
        self.__post_init__()
        self.history.clear()
        return True


def found(function: Function, *items: str) -> SearchResult:
    """What a search over these loops finds."""
    spec = TargetSpec(f"{FILE}:{function.__name__}")
    sources = [Source("loops", 1, (Calls(Loop.from_text(text)) for text in items))]
    return check(spec, Reloading(spec), sources, lambda text: None)


def again(result: SearchResult) -> Verdict:
    """The verdict when what the printed command says is run in a fresh process."""
    assert result.repro is not None
    words = shlex.split(result.repro)
    options = dict(zip(words[5::2], words[6::2], strict=True))
    case = DecodeCase.from_text(options["--case"])
    loop = Loop.from_text(f"{case} {options.get('--calls', '')}")
    before = loops_from_text(options["--after"]) if "--after" in options else ()
    spec = result.spec
    sources = [Source("named", 1, [Calls(loop, before)])]
    replay = check(spec, Reloading(spec), sources, lambda text: None, shrinks=False)
    return replay.verdict


@pytest.mark.rotates(4)
@pytest.mark.parametrize("function", stateful.STALE, ids=lambda f: f.__name__)
def test_a_stale_call_is_named_shrunk_and_shown_again(function: Function) -> None:
    """Few calls are left, and the printed command has the same verdict."""
    result = found(function, f"{SHORT} {EVERY}")
    # A plan for fewer slots makes some calls raise.
    assert result.verdict in (Verdict.STALE, Verdict.ERROR), result.outcome
    assert "by itself, in a fresh process, the call is right" in result.outcome.shows
    assert isinstance(result.item, Calls)
    counts = function is stateful.counter_overflows
    assert len(result.item.loop.steps) <= 4, result.item.loop
    assert result.item.loop.calls <= (300 if counts else 6), result.item.loop
    assert again(result) is result.verdict


@pytest.mark.parametrize("function", stateful.REUSES, ids=lambda f: f.__name__)
def test_an_output_that_is_overwritten_is_shown_again(function: Function) -> None:
    """MUTATED, which no case by itself can show; not so where the function declares it."""
    result = found(function, f"{SHORT} next next next")
    assert result.verdict is Verdict.MUTATED and again(result) is Verdict.MUTATED
    assert result.item is not None
    declared = Declarations(reuses_output=True)
    spec = TargetSpec(result.spec.target, declared=declared)
    runner = Reloading(spec)
    assert result.item.run(runner).findings == ()
    assert repro_command(spec, result.item).endswith("--reuses-output")


def test_a_state_fault_in_drawn_cases_is_replayed_by_the_cases_before() -> None:
    """Those that it needs, of all that ran in the process."""
    spec = TargetSpec(f"{FILE}:first_plan")
    cases = [DecodeCase.from_text(f"S={n},pos={n - 1},D=16") for n in (9, 4, 5, 3, 8, 12)]
    sources = [Source("drawn", 1, map(Single, cases))]
    result = check(spec, Reloading(spec), sources, lambda text: None)
    assert result.verdict in (Verdict.STALE, Verdict.ERROR)
    assert isinstance(result.item, Calls) and len(result.item.before) == 1
    assert result.item.case.cache_len == result.item.before[0].case.cache_len + 1
    assert "only after 1 call; by itself" in result.outcome.shows
    assert again(result) is result.verdict


def test_what_a_case_shows_by_itself_is_shown_by_the_case() -> None:
    """An ordinary fault that is seen in a loop first has its ordinary verdict, and no calls."""
    spec = TargetSpec("tests/support/targets.py:off_by_one")
    sources = [Source("loops", 1, [Calls(Loop.from_text("S=16,pos=0,D=16 next next next"))])]
    result = check(spec, Reloading(spec), sources, lambda text: None)
    assert result.verdict in (Verdict.WRONG, Verdict.LEAK)
    assert isinstance(result.item, Single) and result.outcome.shows == ""


def test_a_result_that_comes_and_goes_is_not_called_stale() -> None:
    """At random it is right alone and wrong after others now and then."""
    spec = TargetSpec(f"{FILE}:at_random")
    runner = Reloading(spec)
    item = Calls(Loop.from_text(f"{SHORT} next next next next"))
    for _ in range(12):
        runner.fresh()
        outcome = item.run(runner)
        if outcome.verdict.passes:
            continue
        confirmed = Confirmer(runner, seconds=math.inf).confirmed(item, outcome, ())
        assert confirmed.outcome.verdict is not Verdict.STALE, confirmed


def test_a_failure_that_does_not_come_back_says_so() -> None:
    """With its verdict, and that neither the case nor the calls before showed it again."""
    spec = TargetSpec("tests/support/targets.py:base")
    runner = Reloading(spec)
    wrong = found(stateful.plan_by_shape, f"{SHORT} next").outcome
    item = Single(DecodeCase.from_text(SHORT))
    confirmed = Confirmer(runner, seconds=math.inf).confirmed(item, wrong, (Loop(item.case),) * 3)
    assert confirmed.item is item and confirmed.settled
    assert confirmed.outcome.shows.startswith("it did not show again")


def test_without_a_process_of_its_own_nothing_is_run_again() -> None:
    """And the result says so."""
    spec = TargetSpec(f"{FILE}:plan_by_shape")
    sources = [Source("loops", 1, [Calls(Loop.from_text(f"{SHORT} next next"))])]
    result = check(spec, LocalRunner(spec), sources, lambda text: None)
    assert result.verdict is Verdict.WRONG
    assert "--no-isolation" in result.outcome.shows


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A process with what shows in a process alone, one function for each head dim."""
    dims = tuple(range(1, len(stateful.PROCESS) + 1))
    spec = TargetSpec(f"{FILE}:by_head_dim", declared=Declarations(head_dims=dims))
    with Worker(spec, timeout=PATIENCE) as worker:
        yield worker


def _case(function: Function) -> str:
    return f"S=8,pos=3,D={stateful.PROCESS.index(function) + 1}"


@pytest.mark.parametrize("function", stateful.RETAINS, ids=lambda f: f.__name__)
def test_what_is_kept_of_every_call_is_retained(function: Function, worker: Worker) -> None:
    """Memory of any size, threads and files, in a long run of calls."""
    worker.fresh()
    outcome = worker.run(Loop.from_text(f"{_case(function)} run:1000"))
    assert outcome.verdict is Verdict.RETAINED, outcome
    what = {stateful.leaks_threads: "threads", stateful.leaks_files: "open files"}
    assert what.get(function, "bytes of memory") in outcome.findings[0].evidence


@pytest.mark.parametrize("function", [stateful.pool, stateful.few_outputs])
def test_what_is_bounded_is_not_retained(function: Function, worker: Worker) -> None:
    """A pool of threads, and the latest outputs; in a short run, too."""
    for calls in LONG:
        worker.fresh()
        outcome = worker.run(Loop.from_text(f"{_case(function)} run:{calls} fresh:{calls}"))
        assert outcome.findings == ()


@pytest.mark.parametrize(
    ("function", "verdict", "text"),
    [
        (stateful.dies, Verdict.CRASH, "call 3 of 13: died of SIGSEGV"),
        (stateful.hangs, Verdict.TIMEOUT, "call 3 of 13: did not return within 5 s"),
        (stateful.fills_up, Verdict.ERROR, "call 3 of 13: IndexError: the table is full"),
    ],
)
def test_what_ends_a_loop_says_at_which_call(
    function: Function, verdict: Verdict, text: str, worker: Worker
) -> None:
    """A crash, a hang, an error; the worker goes on."""
    worker.fresh()
    loop = Loop.from_text(f"{_case(function)} next next run:10")
    outcome = worker.run(loop, timeout=5.0 if verdict is Verdict.TIMEOUT else None)
    assert outcome.verdict is verdict and outcome.number == 3
    assert outcome.findings[0].evidence.startswith(text)
    assert worker.run(Loop.from_text(f"{_case(stateful.pool)} next")).findings == ()


def test_a_loop_may_take_longer_than_one_call(worker: Worker) -> None:
    """The limit is that of a call; here all of them sleep for 6 s."""
    loop = Loop.from_text(f"{_case(stateful.pool)} {'again ' * 5}")
    assert worker.run(loop, timeout=1e-9).verdict in (Verdict.TIMEOUT, Verdict.OK)
    slow = Loop.from_text(f"{_case(stateful.slow)} run:120")
    assert worker.run(slow, timeout=5.0).findings == ()


def test_drawn_loops_are_of_the_domain_and_have_every_step() -> None:
    """The same for the same seed; long runs where calls are fast enough."""
    domain = Declarations(supports=("gqa", "ragged", "chunk", "idle", "window", "strided")).domain()

    def drawn(long_run: int) -> list[Loop]:
        loops = domain_loops(domain, 1, lambda: long_run)
        return list(itertools.islice(loops, 40))

    loops = drawn(1000)
    assert [str(loop) for loop in loops] == [str(loop) for loop in drawn(1000)]
    words = {step.word for loop in loops for step in loop.steps}
    assert words == set(STEPS)
    assert all(domain.refuses(loop.case) is None for loop in loops)
    assert all(Loop.from_text(str(loop)) == loop for loop in loops)
    assert not {"run", "fresh"} & {step.word for loop in drawn(0) for step in loop.steps}
    assert Pace().long_run() == 0
    assert [Pace(seconds).long_run() for seconds in (1e-3, 1e-2, 2e-2, 1.0)] == [*LONG, 0]


@pytest.mark.rotates(11)
@pytest.mark.parametrize("function", stateful.STALE, ids=lambda f: f.__name__)
def test_a_printed_repro_fails_again(
    function: Function, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line, search and replay, each with processes of its own."""
    monkeypatch.chdir(ROOT)
    assert command("check", f"{FILE}:{function.__name__}", "--max-examples", "20") == 1
    first = capsys.readouterr().out
    line = next(line for line in first.splitlines() if line.startswith("repro"))
    assert command(*shlex.split(line)[4:]) == 1
    assert capsys.readouterr().out.split()[0] == first.split()[0]
