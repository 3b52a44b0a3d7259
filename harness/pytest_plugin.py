"""The pytest plugin: it keeps failing cases and runs them first, and skips tests without a GPU.

It imports neither torch nor Hypothesis, since most sessions that load it have no test that calls
``assert_decodes``. What it knows of a test it reads from ``harness.function.testing``, if a test
has imported that.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.support.files import UnwritableFile, check_folder
from harness.support.frames import internal

if TYPE_CHECKING:
    from harness.case.kept import KeptCase

_EXPLANATION = re.compile(r"^Explanation:\n(?:[ ]+.*\n?)+", re.MULTILINE)
FOLDER = Path("fixtures") / "decode-cases"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, all of which begin with ``--decode-``."""
    group = parser.getgroup("decode", "decode paths (flexdecode-harness)")
    group.addoption(
        "--decode-cases",
        metavar="DIR",
        help=f"where failing cases are kept and found again (default {FOLDER} under the rootdir)",
    )
    group.addoption(
        "--decode-require-gpu",
        action="store_true",
        help="fail at once where torch sees no CUDA device",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse to run without the GPU that was asked for."""
    config.addinivalue_line(
        "markers", "decode_gpu: needs a CUDA device; without one it is skipped as not run"
    )
    if config.getoption("decode_require_gpu") and not _cuda():
        raise pytest.UsageError("--decode-require-gpu: torch sees no CUDA device")
    given = config.getoption("decode_cases")
    if given is not None and (reason := _no_folder(given, _folder(config))):
        raise pytest.UsageError(f"--decode-cases: {reason}")
    # Here, since a worker of xdist that finds a bad file can only die of it.
    if not hasattr(config, "workerinput"):
        for file in _kept_cases(config):
            _load(file)


def _no_folder(given: str, folder: Path) -> str | None:
    """Why no folder can have this name; None where one is there or could be made."""
    if not given.strip():
        return "is empty; allowed is a folder"
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    return None if nearest.is_dir() else f"{given!r}: {nearest} is not a folder"


def _cuda() -> bool:
    import torch  # noqa: PLC0415  # Only sessions that need a GPU pay for this.

    return torch.cuda.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none, and give each test its kept cases."""
    on_gpu = [item for item in items if item.get_closest_marker("decode_gpu")]
    if on_gpu and not _cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="not run: no CUDA device"))
    done: set[Any] = set()
    for item in items:
        test = getattr(item, "function", None)
        if test is not None and test not in done:
            done.add(test)
            _prepare(config, item, test)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Print what results depend on, where a test that calls ``assert_decodes`` was collected."""
    if "harness.function.testing" not in sys.modules:
        return []
    import torch  # noqa: PLC0415  # harness.function.testing has imported it already.

    from harness.paths.compile import why_not  # noqa: PLC0415

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    compiler = why_not("cpu") or "compiles on the CPU"
    return [f"decode: torch {torch.__version__}, {gpu}, {compiler}"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Empty the record of the previous test."""
    if testing := sys.modules.get("harness.function.testing"):
        testing.RECORD.clear()


# Not wrapper=True, which a pytest before 7.4 does not know.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Add the largest utilisation to the test's report, and so to JUnit; keep a case that fails."""
    if call.excinfo is not None:
        _hide(call.excinfo.value)
    testing = sys.modules.get("harness.function.testing")
    if testing is None or call.when != "call":
        yield
        return
    record = testing.RECORD
    if record.utilisation is not None:
        item.user_properties.append(("decode_max_utilisation", f"{record.utilisation:.3g}"))
    # Hypothesis ends with the smallest failing example, so the latest one is explained and kept.
    if call.excinfo is not None and record.failed is not None:
        _explain(call.excinfo.value, record.explain() if record.explain is not None else [])
    report = (yield).get_result()
    if report.failed and record.failed is not None and _drawn_argument(item) is not None:
        report.sections.append(("decode", _kept(item, record.failed)))


def _hide(error: BaseException) -> None:
    """Hide the frames of the harness in the traceback, unless its own fault is to be found there;
    ``--full-trace`` shows them all."""
    if not internal(error):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if str(frame.f_globals.get("__name__")).startswith("harness."):
                frame.f_globals.setdefault("__tracebackhide__", _hidden)


def _hidden(info: pytest.ExceptionInfo[BaseException] | None) -> bool:
    return info is not None and not internal(info.value)


def _explain(error: BaseException, lines: list[str]) -> None:
    """Add the diagnosis to the error, and take out the lines of the harness that Hypothesis lists
    as its explanation."""
    # Each line is a note of its own.
    if notes := getattr(error, "__notes__", []):
        error.__notes__ = [_EXPLANATION.sub("", "\n".join(notes))]
    if lines:
        error.add_note("\n".join(["diagnosis:", *(f"  {line}" for line in lines)]))


def _folder(config: pytest.Config) -> Path:
    given = config.getoption("decode_cases")
    return Path(config.invocation_params.dir, given) if given else config.rootpath / FOLDER


def _slug(item: pytest.Item) -> str:
    """A file name for the test, without its parameters, since one function has one list of kept
    cases."""
    path, _, rest = item.nodeid.partition("::")
    name = f"{Path(path).stem}-{rest.partition('[')[0]}"
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _drawn_argument(item: pytest.Item) -> str | None:
    """The name of the only argument that Hypothesis draws for a test that calls ``assert_decodes``,
    or None."""
    test: Any = getattr(item, "function", None)
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", None)
    if inner is None or "assert_decodes" not in inner.__code__.co_names:
        return None
    fixtures = inspect.signature(test).parameters
    drawn = [name for name in inspect.signature(inner).parameters if name not in fixtures]
    return drawn[0] if len(drawn) == 1 else None


def _prepare(config: pytest.Config, item: pytest.Item, test: Any) -> None:
    """Give a test its kept cases."""
    argument = _drawn_argument(item)
    if argument is None:
        return
    from hypothesis import example  # noqa: PLC0415  # The test has imported it.

    for file in _kept_cases(config, _slug(item)):
        example(**{argument: _load(file).case})(test)


def _kept_cases(config: pytest.Config, test: str = "*") -> list[Path]:
    """The files of a test's cases. The pattern has the hash of the case that ends each name, so
    that a test whose name begins another test's name does not get that test's cases."""
    return sorted(_folder(config).glob(f"{test}-{'[0-9a-f]' * 8}.json"))


def _load(file: Path) -> KeptCase:
    from harness.case import CaseError  # noqa: PLC0415
    from harness.case.kept import load  # noqa: PLC0415

    try:
        return load(file)
    except CaseError as error:
        raise pytest.UsageError(str(error)) from None


def _kept(item: pytest.Item, case: Any) -> str:
    """Keep the case, and say where, or why not: the test's failure is shown in any case."""
    try:
        return f"kept as {_keep(item, case)}, to be run first from now on"
    except UnwritableFile as error:
        reason = f"the failing case was not kept: {error}"
        # A project may make errors of warnings, and this one must not hide the test's failure.
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            item.warn(pytest.PytestWarning(reason))
        return reason


def _keep(item: pytest.Item, case: Any) -> Path:
    """Write the case to a file named after test and case, so that parallel workers that find the
    same case write the same file."""
    from harness.case.kept import KeptCase, keep  # noqa: PLC0415

    folder = _folder(item.config)
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableFile(f"{folder}: {error.strerror}") from None
    digest = hashlib.sha256(case.to_json().encode()).hexdigest()[:8]
    return keep(KeptCase(f"{_slug(item)}-{digest}", case, f"failed in {item.nodeid}"), folder)
