"""The report: figures made from real computations on tiny sizes, one page, files written whole."""

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness import cli
from harness.case import DecodeCase
from harness.figures import measure as measured
from harness.figures.captions import Caption, caption
from harness.figures.measure import Plan, compute
from harness.figures.plots import draw
from harness.figures.publish import publish
from harness.figures.results import Catch, Kill, Results, Shown
from harness.figures.values import (
    Attended,
    Cell,
    Errors,
    Figure,
    Graphs,
    Matrix,
    Times,
    Utilisation,
    as_plain,
    matrix,
)
from harness.ledger.entries import Ledger
from harness.support.progress import Progress
from tests.support.entries import but

TINY = Plan(
    case=DecodeCase(cache_len=160, input_pos=(9,), heads=2, head_dim=16, dtype="bfloat16"),
    error_positions=(0, 9, 150),
    cache_len=140,
    time_positions=(0, 150),
    rounds=3,
    repeats=1,
    steps=3,
)
RECORD = but(torch=torch.__version__.partition("+")[0], worst_utilisation=0.25)
RECORDED = Results(
    Ledger({RECORD.key: RECORD}),
    (
        Kill("no-offset", 1, "output", "all", "float32", "WRONG"),
        Kill("no-offset", 1, "output", "head", "float32", None),
        Kill("lse-base", 2, "auxiliary", "all", "float32", "WRONG"),
    ),
    (Catch("a rule", "no-offset", "all", 0, 3),),
    (Shown("a-finding", "2.9.0", True),),
)


def quiet(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def figures() -> tuple[Figure, ...]:
    """Everything, computed once; eager, so that no compiler is needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "why_not", lambda device: "no compiler in this test")
        return compute(TINY, RECORDED, "cpu", quiet)


@pytest.fixture(scope="module")
def files(figures: tuple[Figure, ...]) -> dict[str, str | bytes]:
    """All figures, drawn once, and their page."""
    return publish(figures, "cpu", ["python -m harness figures <x>"], quiet)


@pytest.fixture(scope="module")
def html(files: dict[str, str | bytes]) -> str:
    """The page of all figures."""
    return str(files["figures.html"])


def of(figures: tuple[Figure, ...], kind: type) -> Any:
    return next(f for f in figures if isinstance(f, kind))


def test_the_finding_is_read_off_the_paths(figures: tuple[Figure, ...]) -> None:
    """The report's slice puts all weight on slot 0; the full cache, on every slot so far."""
    finding = of(figures, Attended)
    for row in finding.reported.weights:
        assert row[0] == 1 and not any(row[1:])
    for row in finding.full.weights:
        assert all(row[:10]) and not any(row[10:])
    words = caption(finding)
    assert words.rows[0][:3] == ("sliced-as-reported", "0", "1")
    assert words.rows[1][:3] == ("full-cache", "9", "10")


def test_errors_show_who_is_within_the_budget(figures: tuple[Figure, ...]) -> None:
    """All paths but the known-wrong paths, at each position; the band is positive."""
    errors = of(figures, Errors)
    assert errors.positions == TINY.error_positions and all(b > 0 for b in errors.budget)
    for curve in errors.curves:
        assert len(curve.largest) == 3
        assert all(curve.within) is not curve.known_wrong, curve.path
    reported = next(c for c in errors.curves if c.path == "sliced-as-reported")
    assert reported.within == (True, False, False) and reported.largest[0] == 0
    assert "sliced-as-reported exceeds it at 2 of 3 positions" in caption(errors).seen


def test_utilisation_stands_beside_the_ledger(figures: tuple[Figure, ...]) -> None:
    """The record where there is one, "no record" elsewhere."""
    shares = {(s.path, s.dtype): s for s in of(figures, Utilisation).shares}
    assert shares["fixed", "float32"].record == 0.25
    assert shares["fixed", "float16"].record is None
    assert all(s.here is not None and 0 < s.here <= 1 for s in shares.values())
    rows = {row[:2]: row for row in caption(of(figures, Utilisation)).rows}
    assert rows["fixed", "float32"][3] == "0.25"
    assert rows["fixed", "float16"][3] == "no record"


def test_no_ledger_is_said(figures: tuple[Figure, ...]) -> None:
    """In the words and on the picture, which still shows what was measured."""
    bare = measured.utilisation(TINY, Results(), "cpu", quiet)
    assert "No record: there is no ledger" in caption(bare).seen
    assert draw(bare) != draw(of(figures, Utilisation))


def test_the_matrix_counts_scopes(figures: tuple[Figure, ...]) -> None:
    """By fault and dtype; by fault and rule beside it; None where nothing was run."""
    kills = of(figures, Matrix)
    assert kills.rows == (("no-offset", "output"), ("lse-base", "auxiliary"))
    assert kills.columns == (("this harness", "float32"), ("other projects' rules", "a rule"))
    assert kills.cells == ((Cell(1, 2), Cell(0, 3)), (Cell(1, 1), None))
    assert caption(kills).rows[1] == ("lse-base", "auxiliary", "1/1", "-")


def test_what_was_not_recorded_is_named_in_its_place() -> None:
    """No picture of nothing."""
    nothing = matrix(Results())
    words = caption(nothing)
    assert "python -m harness faults --json" in words.empty
    files = publish([nothing], "cpu", ["a command"], quiet)
    assert sorted(files) == ["figures.html", "figures.json"]
    assert "kill matrix not recorded" in str(files["figures.html"])
    half = matrix(Results(kills=RECORDED.kills))
    assert caption(half).empty == "" and "rules not recorded" in caption(half).seen


def test_step_times_are_of_every_path_and_position(figures: tuple[Figure, ...]) -> None:
    """How each path ran is said; without a compiler, why."""
    times = of(figures, Times)
    assert [(c.path, c.how) for c in times.curves] == [
        ("fixed", "eager"),
        ("sdpa-sliced", "library kernel"),
        ("sdpa-full", "library kernel"),
    ]
    for curve in times.curves:
        columns = (curve.lower, curve.milliseconds, curve.upper)
        rows = list(zip(*columns, strict=True))
        assert len(rows) == 2 and all(0 < row[0] <= row[1] <= row[2] for row in rows)
        # Three rounds of which no two take the same time.
        assert any(row[0] < row[2] for row in rows)
    assert re.fullmatch(r"[\d.e-]+ \([\d.e-]+ to [\d.e-]+\)", caption(times).rows[0][1])
    assert "3 rounds over all points" in caption(times).how
    assert "Not compiled here: no compiler in this test." in caption(times).seen


def test_ints_and_static_slices_recompile_and_tensors_do_not(
    figures: tuple[Figure, ...],
) -> None:
    """A graph a step, or one for all."""
    graphs = of(figures, Graphs)
    last = {c.name: c.graphs[-1] for c in graphs.curves}
    assert last["position a Python int"] == last["sliced cache (static)"] == TINY.steps
    assert last["position in a tensor"] == last["fixed path"] == 1
    assert graphs.limit == 8


def test_the_data_are_plain(figures: tuple[Figure, ...]) -> None:
    """JSON knows them, by the names of the pictures."""
    read = json.loads(json.dumps(as_plain(figures)))
    names = ["attended", "errors", "utilisation", "matrix", "times", "graphs", "history"]
    assert list(read) == names


def test_every_figure_is_drawn(figures: tuple[Figure, ...], files: dict[str, str | bytes]) -> None:
    """A PNG of the promised width, small, not blank, and no taller than a page."""
    pngs = {name: content for name, content in files.items() if name.endswith(".png")}
    assert len(pngs) == 2 * len(figures)
    for name, png in pngs.items():
        assert isinstance(png, bytes)
        narrow = name.endswith("-narrow.png")
        picture = Image.open(io.BytesIO(png))
        inches = picture.height / (200 if narrow else 160)
        assert picture.width == (820 if narrow else 1280) and inches <= 11
        assert len(picture.convert("L").getcolors() or []) > 10
        assert len(png) < 100_000


class Reader(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_loads_nothing(html: str) -> None:
    """Pictures are data, links lead within the page, nothing runs, no address anywhere."""
    tags = Reader(html).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?://|url\(|@import", html)


def test_every_picture_has_words_for_it(figures: tuple[Figure, ...], html: str) -> None:
    """Alt text, a caption, and its numbers as a table."""
    tags = Reader(html).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == len(figures)
    assert all(len(p["alt"] or "") > 60 for p in pictures)
    names = [tag for tag, _ in tags]
    assert names.count("table") == len(figures) + 1
    assert names.count("figcaption") == len(figures)


def test_the_page_says_how_it_was_made(html: str) -> None:
    """Environment, date and commands."""
    assert "python -m harness figures &lt;x&gt;" in html
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", html)
    assert "float32_matmul_precision" in html


def test_every_table_is_rectangular(figures: tuple[Figure, ...]) -> None:
    """A row for each header's columns."""
    for figure in figures:
        words: Caption = caption(figure)
        assert words.rows and all(len(row) == len(words.header) for row in words.rows)


def run(*arguments: str) -> int:
    return cli.main(["figures", *arguments])


def test_the_command_writes_the_page_and_its_pictures(
    figures: tuple[Figure, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Into a folder that it makes; the page's path on stdout, progress on stderr."""

    def computed(
        plan: Plan, results: Results, device: str, progress: Progress
    ) -> tuple[Figure, ...]:
        progress("errors at position 0")
        return figures[:1]

    monkeypatch.setattr(measured, "compute", computed)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or False)
    out = tmp_path / "new" / "folder"
    assert run("--out", str(out), "--open") == cli.OK
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'figures.html'}\n"
    assert "errors at position 0" in captured.err and "open it yourself" not in captured.out
    assert opened == [(out / "figures.html").resolve().as_uri()]
    assert "no browser could be opened" in captured.err
    assert {"figures.html", "figures.json", "attended.png"} < {p.name for p in out.iterdir()}


def test_an_interrupt_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 130, and no folder."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measured, "compute", interrupted)
    assert run("--out", str(tmp_path / "out")) == cli.INTERRUPTED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{}/file"], "file is not a directory"),
        (["--out", "{}/file/below"], "file is not a directory"),
        (["--device", "tpu"], "--device: 'tpu' is not one of cpu cuda cuda:N"),
        (["--from", "{}/file"], "file: not JSON"),
        (["--from", "{}/none.json"], "none.json: No such file"),
    ],
)
def test_bad_input_is_one_clear_line_before_any_work(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2; nothing is computed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured, "compute", lambda *_: pytest.fail("computed"))
    (tmp_path / "file").write_text("no JSON")
    assert run(*(a.format(tmp_path) for a in arguments)) == cli.USAGE
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command to install it, and exit 2."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run() == cli.USAGE
    assert "pip install 'flexdecode-harness[figures]'" in capsys.readouterr().err
