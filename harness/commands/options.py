"""What the subcommands share: exit codes, usage errors, and options that several of them have.

A function that reads an option's text raises ArgumentTypeError, saying what is allowed, for text
that it does not take; argparse adds the option's name.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness.case import DTYPES, long_dtype
from harness.interpreter.gpu import GPUS, environment, gpu_named, too_late
from harness.support.files import UnwritableFile, check_folder, check_writable
from harness.support.text import not_one_of

OK, NOT_OK, USAGE, INCOMPLETE, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class UsageError(ValueError):
    """A wrong command line; the message names the option and what is allowed."""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving the process, and takes no abbreviation of an option,
    whose meaning would change with each new option.

    Raises:
        UsageError: for a wrong command line.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    def parse_args(  # type: ignore[override]
        self, words: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        arguments, rest = self.parse_known_args(words, namespace)
        if rest:
            parser = self._subcommands.get(getattr(arguments, "command", ""), self)
            raise UsageError(not_one_of(rest[0], parser._option_string_actions))
        return arguments

    def commands(self) -> str:
        """What it can do, a line for each subcommand."""
        (group,) = self._groups()
        helps = [(one.dest, one.help or "") for one in group._choices_actions]
        width = max(len(name) for name, _ in helps)
        lines = [f"  {name.split()[0]:{width}}  {text}" for name, text in helps]
        usage = f"usage: {self.prog} COMMAND ...; {self.prog} COMMAND --help has its options"
        return "\n".join([usage, "", *lines, ""])

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        # A list among the choices is the default of an argument that may be given several times.
        words = [str(choice) for choice in action.choices if not isinstance(choice, list)]
        raise argparse.ArgumentError(action, not_one_of(value, words))

    @property
    def _subcommands(self) -> dict[str, Parser]:
        return {name: parser for group in self._groups() for name, parser in group.choices.items()}

    def _groups(self) -> list[Any]:
        return [one for one in self._actions if isinstance(one, argparse._SubParsersAction)]


def device(text: str) -> str:
    """Read the name of a device that torch can use here."""
    if text == "cpu":
        return text
    import torch

    try:
        found = torch.device(text)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ArgumentTypeError(f"{text!r} is not one of cpu cuda cuda:N")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentTypeError(f"{text!r} asked for, but torch sees no CUDA device; use cpu")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ArgumentTypeError(f"torch sees {torch.cuda.device_count()} CUDA devices")
    return text


def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def some_of(
    *allowed: str, long: Callable[[str], str] = lambda name: name
) -> Callable[[str], tuple[str, ...]]:
    """A reader of one or more of these names, separated by commas; ``long`` expands short forms."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(map(long, names(text))))
        for name in found or (text,):
            if name not in allowed:
                raise ArgumentTypeError(not_one_of(name, allowed))
        return found

    return read


dtypes = some_of(*DTYPES, long=long_dtype)


def whole(least: int = 0) -> Callable[[str], int]:
    """A reader of a whole number that is at least ``least``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number >= {least}")
        return int(text)

    return read


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas."""
    try:
        return tuple(map(whole(), text.split(",")))
    except ArgumentTypeError:
        raise ArgumentTypeError(f"{text!r} is not whole numbers joined by commas") from None


def slots(text: str) -> tuple[int, int]:
    """Read a range of slots, ``MIN:MAX``."""
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not MIN:MAX")
    return int(match[1]), int(match[2])


def seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds > 0")
    return value


def duration(text: str) -> float:
    """Read a time with its unit, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    if match is None or float(match[1]) == 0:
        raise ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def output_file(text: str) -> Path:
    """Read the name of a file that can be written, which is checked before the work, not after."""
    return _output(text, check_writable)


def output_folder(text: str) -> Path:
    """Read the name of a folder that is there or can be made."""
    return _output(text, check_folder)


def _output(text: str, check: Callable[[Path], None]) -> Path:
    try:
        check(Path(text))
    except UnwritableFile as error:
        raise ArgumentTypeError(str(error)) from None
    return Path(text)


def input_file(text: str) -> Path:
    """Read the name of a file that exists."""
    if not Path(text).is_file():
        raise ArgumentTypeError(f"{text}: there is no such file")
    return Path(text)


def multiprocessors(text: str) -> str:
    """A GPU by name, or a number of multiprocessors."""
    try:
        gpu_named(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def interprets(arguments: argparse.Namespace) -> bool:
    """Whether a command interprets Triton kernels, by its option or by its case id."""
    text = str(getattr(arguments, "case", ""))
    return getattr(arguments, "kernels", "cpp") == "triton" or "kernels=triton" in text


def in_another_process(arguments: argparse.Namespace, words: Sequence[str]) -> int | None:
    """The exit code of the same command in a process that interprets Triton kernels; None where
    it runs in this one. Triton decides when it is imported, and torch imports it."""
    if not interprets(arguments):
        return None
    wanted = environment(getattr(arguments, "multiprocessors", "small"))
    if not too_late():
        os.environ.update(wanted)
        return None
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, env=os.environ | wanted, check=False).returncode


_SHARED: dict[str, dict[str, Any]] = {
    "--device": dict(type=device, default="cpu", help="cpu (default), cuda or cuda:N"),
    "--dtypes": dict(
        type=dtypes, default=DTYPES, metavar="NAMES", help="separated by commas (default all)"
    ),
    "--json": dict(type=output_file, metavar="FILE", help="write the result as JSON"),
    "--script": dict(
        type=output_file, metavar="FILE", help="write a script that needs torch alone"
    ),
    "--kernels": dict(
        choices=("cpp", "triton"),
        default="cpp",
        help="what compiled paths run on a CPU: torch's C++ kernels (default), or the Triton"
        " kernels of a GPU in Triton's interpreter (docs/triton.md)",
    ),
    "--multiprocessors": dict(
        type=multiprocessors,
        default="small",
        metavar="N",
        help="of the GPU whose Triton kernels are interpreted, on which the number of splits"
        f" depends: {', '.join(f'{name} ({gpu.multiprocessors})' for name, gpu in GPUS.items())}"
        " or a number (default small)",
    ),
    "--seed": dict(type=whole(), default=0, metavar="N", help="of the drawing (default 0)"),
    "--no-isolation": dict(action="store_true", help="run in this process"),
}


def sharing(*options: str) -> list[argparse.ArgumentParser]:
    """The parent parsers, for argparse, of a subcommand that has these shared options."""
    parent = Parser(add_help=False)
    for option in options:
        parent.add_argument(option, **_SHARED[option])
    return [parent]


def draws_nothing(arguments: argparse.Namespace, flag: str) -> None:
    """Refuse options that say what to draw beside ``flag``, with which nothing is drawn.

    Raises:
        UsageError: the first such option.
    """
    for name in ("max_examples", "thorough", "seconds", "seed"):
        if getattr(arguments, name) not in (None, False):
            given = "--" + name.replace("_", "-")
            raise UsageError(f"{given}: says what to draw, but {flag} draws nothing")
