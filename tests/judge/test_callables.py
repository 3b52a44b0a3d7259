"""Whatever can be called is a target, of the command and of ``assert_decodes``."""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from harness import assert_decodes, cli
from harness.case import DecodeCase
from harness.paths.compile import Compiled
from tests.support import CALLABLES
from tests.support.callables import SOUND, Decoder, ahead, reaching
from tests.support.command import command

pytestmark = pytest.mark.usefixtures("one_thread")

CASE = "S=4,pos=1,D=16"
# A class may have methods of these names, and pybind11's functions take no attributes.
DECLARED = ("--dtypes", "fp32", "--supports", "ragged", "--no-isolation")


@pytest.mark.parametrize("name", SOUND)
def test_whatever_can_be_called_is_judged(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, which says of a signature that it cannot read just that; and by tests."""
    file = tmp_path / "a.json"
    arguments = (f"{CALLABLES}:{name}", "--case", CASE, *DECLARED, "--json", str(file))
    assert command("check", *arguments) == cli.OK, capsys.readouterr().err
    found = json.loads(file.read_text())
    assert (found["verdict"], found["examples"]) == ("OK", 1)
    unread = [hint for hint in found["hints"] if "signature cannot be read" in hint]
    try:
        inspect.signature(SOUND[name])
    except ValueError:
        assert unread
    else:
        assert not unread
    assert_decodes(SOUND[name], DecodeCase.from_text(CASE))


def test_a_partial_has_the_declarations_of_its_function(capsys: pytest.CaptureFixture[str]) -> None:
    """And is wrong where its function is."""
    arguments = (f"{CALLABLES}:ahead", "--case", "S=4,pos=1/2,D=16", "--no-isolation")
    assert command("check", *arguments) == cli.NOT_OK
    assert capsys.readouterr().out.startswith("LEAK ")
    with pytest.raises(AssertionError, match="partial is LEAK"):
        assert_decodes(ahead, DecodeCase.from_text("S=4,pos=1/2,D=16"))


def test_a_repro_names_what_can_be_imported_alone() -> None:
    """A method is that of its object, which its name does not give."""
    case = DecodeCase.from_text(CASE)
    with pytest.raises(AssertionError) as caught:
        assert_decodes(functools.partial(Decoder(1).method), case)
    assert "repro:" not in str(caught.value)
    with pytest.raises(AssertionError) as caught:
        assert_decodes(lambda q, k, v, p: reaching(1, q, k, v, p), case)
    assert "repro:" not in str(caught.value)


def test_a_compiled_implementation_is_never_taken_for_another_of_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closures of one name, and methods, which are bound anew for each call, judged by turns: each
    by its own code, compiled once."""
    compiled: list[Compiled] = []

    def eager(*arguments: Any, **options: Any) -> Compiled:
        compiled.append(Compiled(*arguments, backend="eager", **options))
        return compiled[-1]

    monkeypatch.setattr("harness.paths.path.Compiled", eager)
    monkeypatch.setattr("harness.paths.path.why_not", lambda device: None)
    case = DecodeCase.from_text(CASE + ",mode=compiled")

    def made(by: int) -> Callable[..., Tensor]:
        def decode(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
            return reaching(by, q, k, v, p)

        return decode

    right, wrong = Decoder(0), Decoder(1)
    for sound, faulty in ((made(0), made(1)), (right.method, wrong.method)):
        for _ in range(2):
            assert_decodes(sound, case)
            with pytest.raises(AssertionError, match="LEAK"):
                assert_decodes(faulty, case)
    assert_decodes(right.method, case)
    assert len(compiled) == 4
