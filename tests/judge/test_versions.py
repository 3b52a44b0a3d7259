"""``versions``: a script run with several versions of torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness import cli
from tests.support.command import command

ENDINGS = [
    ("import sys; print('got 3'); sys.exit(1)", True, "1", cli.NOT_OK),
    ("print('fixed')", False, "0", cli.OK),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", True, "SIGSEGV", cli.NOT_OK),
    ("import torch_that_is_not_there", None, "1", cli.USAGE),
    ("import sys; sys.exit(7)", None, "7", cli.USAGE),
    ("import time; time.sleep(600)", None, "no exit code", cli.USAGE),
]


@pytest.mark.parametrize(
    ("text", "shows", "ended", "code"), ENDINGS, ids=[str(e[2]) + str(e[1]) for e in ENDINGS]
)
def test_how_a_script_ends_says_whether_it_shows(
    text: str, shows: bool | None, ended: str, code: int, tmp_path: Path
) -> None:
    """An exception that nobody caught shows nothing, nor does a run that does not end."""
    script, file = tmp_path / "script.py", tmp_path / "a.json"
    script.write_text(text)
    limit = "2" if "sleep" in text else "600"
    assert command("versions", str(script), "--json", str(file), "--timeout", limit) == code
    [row] = json.loads(file.read_text())["versions"]
    assert (row["torch"], row["shows"], row["ended"]) == ("here", shows, ended)


def test_each_version_has_an_environment_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made once: here two that are there already, whose Python is this one, or fails."""
    script, environments = tmp_path / "script.py", tmp_path / "environments"
    script.write_text("import sys; print(sys.executable); sys.exit('1.0' in sys.executable)")
    for version in ("1.0", "2.0"):
        folder = environments / f"torch-{version}"
        (folder / "bin").mkdir(parents=True)
        (folder / "installed").touch()
        (folder / "bin" / "python").symlink_to(sys.executable)
    options = ("--torch", "1.0,2.0", "--environments", str(environments))
    assert command("versions", str(script), *options) == cli.NOT_OK
    printed = capsys.readouterr().out
    assert "Shows in: torch 1.0\ndoes not show in: torch 2.0\n" in printed


def test_a_version_that_cannot_be_installed_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pip's reason; it is tried again the next time."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    script, environments = tmp_path / "script.py", tmp_path / "environments"
    script.write_text("")
    options = ("--torch", "0.0.0", "--environments", str(environments))
    assert command("versions", str(script), *options) == cli.USAGE
    assert "not known" in (printed := capsys.readouterr().out)
    assert "ERROR: " in printed
    assert not (environments / "torch-0.0.0" / "installed").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.py",), "none.py: there is no such file"),
        ((__file__, "--torch", "newest"), "'newest' is not here or a version such as 2.13.0"),
        ((__file__, "--environments", __file__), "is not a directory"),
        ((__file__, "--since", __file__), "is not what --json writes"),
    ],
)
def test_bad_usage_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with what is allowed."""
    assert command("versions", *words) == cli.USAGE
    assert message in capsys.readouterr().err


def test_only_changes_since_an_earlier_run_are_told_and_make_it_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One shows no longer, one is new, one is gone; what is as it was makes no noise."""
    old, kept, new = (tmp_path / f"{name}.py" for name in ("old", "kept", "new"))
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    gone = tmp_path / "gone.py"
    for script in (old, kept, gone):
        script.write_text("import sys; sys.exit(1)")
    shown = [str(script) for script in (old, kept, gone)]
    assert command("versions", *shown, "--json", str(before)) == cli.NOT_OK
    assert command("versions", *shown, "--since", str(before)) == cli.OK
    assert "nothing has changed" in capsys.readouterr().out
    old.write_text("")
    new.write_text("import sys; sys.exit(1)")
    now = [str(script) for script in (old, kept, new)]
    options = ("--since", str(before), "--json", str(after))
    assert command("versions", *now, *options) == cli.NOT_OK
    printed = capsys.readouterr().out
    assert "changed: old.py, torch here" in printed
    assert "does not show, before it: shows" in printed
    assert "new: new.py" in printed and "gone: gone.py" in printed
    assert "kept.py, torch" not in printed
    assert command("versions", *now, "--since", str(after)) == cli.OK
