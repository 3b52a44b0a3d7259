"""``check --plot``: a picture of what a wrong function attends, beside what is due."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from harness import cli
from harness.figures.effective import effective_picture
from tests.support import TARGETS
from tests.support.command import check, command

CASE = "S=24,pos=11,D=16"


def test_a_failure_is_drawn_with_the_weights_that_are_in_the_json(tmp_path: Path) -> None:
    """The newest slot gets nothing of what is due to it; sums are 1."""
    picture, file = tmp_path / "a.png", tmp_path / "a.json"
    options = ("--case", CASE, "--plot", str(picture), "--json", str(file))
    # In a process of its own, from which the weights come as plain values.
    assert command("check", f"{TARGETS}:off_by_one", *options) == cli.NOT_OK
    assert Image.open(picture).width == 1280
    weights = json.loads(file.read_text())["weights"]
    [got], [due] = weights["got"], weights["due"]
    assert len(got) == len(due) == 24
    assert got[11] == 0 < due[11]
    assert math.isclose(sum(got), 1, rel_tol=1e-6)
    assert math.isclose(sum(due), 1, rel_tol=1e-6)


def test_what_is_not_due_is_framed_and_what_is_no_weight_hatched() -> None:
    """The picture of weights that are right has neither."""
    right = {"row": [0, 1, 0], "first_head": 1, "got": [[0.5, 0.5, 0.0]], "due": [[0.5, 0.5, 0.0]]}
    pictures = [
        effective_picture("a", {**right, "got": [row]})
        for row in ([0.5, 0.5, 0.0], [0.5, 0.5, 0.1], [0.5, 0.5, -0.1], [0.5, 0.5, math.nan])
    ]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(set(pictures)) == 3  # negative and no number look the same


def test_where_nothing_failed_there_is_no_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said."""
    picture = tmp_path / "a.png"
    assert check("base", "--case", CASE, "--plot", str(picture)) == cli.OK
    assert "--plot: not written: nothing failed" in capsys.readouterr().err
    assert not picture.exists()


def test_a_plot_that_cannot_be_made_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same file twice, no folder, a cache class, no matplotlib."""
    picture = str(tmp_path / "a.png")
    assert check("base", "--plot", picture, "--json", picture) == cli.USAGE
    assert "--json and --plot: both name" in capsys.readouterr().err
    assert check("base", "--plot", str(tmp_path / "none" / "a.png")) == cli.USAGE
    assert "--plot" in capsys.readouterr().err
    caches = TARGETS.with_name("cache_classes.py")
    assert command("check", f"{caches}:Lockstep", "--no-isolation", "--plot", picture) == cli.USAGE
    assert "--plot" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert check("base", "--plot", picture) == cli.USAGE
    assert "flexdecode-harness[figures]" in capsys.readouterr().err
