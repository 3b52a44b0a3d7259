"""The GPU whose kernels are generated, and what a process needs to run them without it.

Nothing here imports torch or Triton: Triton reads its variable when it is imported.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from harness.support import extras

# By which Triton is told, before it is imported, to interpret kernels.
VARIABLE = "TRITON_INTERPRET"
MULTIPROCESSORS = "FLEXDECODE_MULTIPROCESSORS"
# What was tried. Another version may have moved what ``kernels`` changes without any name
# changing, and a kernel that no GPU would run is worse than none.
KNOWN_TORCH = ("2.13.0",)
KNOWN_TRITON = ("3.9.0",)


@dataclass(frozen=True)
class Gpu:
    """What of a GPU decides on its kernels: ``multiprocessors`` the number of splits of the
    decode kernel, ``capability`` the tiles of the general one."""

    multiprocessors: int
    capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.capability
        return f"sm_{major}{minor} with {self.multiprocessors} multiprocessors"


H100 = Gpu(132, (9, 0))
A100 = Gpu(108, (8, 0))
# Interpreted splits take their time one after the other: an H100's, made small.
SMALL = Gpu(4, (9, 0))
GPUS = {"h100": H100, "a100": A100, "small": SMALL}


def gpu_named(text: str) -> Gpu:
    """A GPU by name, or by its number of multiprocessors and otherwise an H100.

    Raises:
        ValueError: for neither.
    """
    if text in GPUS:
        return GPUS[text]
    if text.isascii() and text.isdigit() and int(text) > 0:
        return Gpu(int(text), SMALL.capability)
    raise ValueError(f"{text!r} is not a number > 0 or one of {' '.join(GPUS)}")


def chosen() -> Gpu:
    """The GPU that this process's environment names.

    Raises:
        ValueError: where it names none.
    """
    return gpu_named(os.environ.get(MULTIPROCESSORS, "small"))


def environment(gpu: str = "small") -> Mapping[str, str]:
    """The variables of a process that interprets kernels."""
    return {VARIABLE: "1", MULTIPROCESSORS: gpu}


def too_late() -> bool:
    """Whether this process has imported Triton, or torch, without being told to interpret."""
    return os.environ.get(VARIABLE) != "1" and not {"torch", "triton"}.isdisjoint(sys.modules)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def missing() -> str | None:
    """What is not installed, with the remedy; or None."""
    if reason := extras.missing("triton"):
        return f"kernels=triton {reason}"
    for package, known in (("torch", KNOWN_TORCH), ("triton", KNOWN_TRITON)):
        found = _version(package)
        if found not in known:
            return (
                f"kernels=triton changes {package} {' '.join(known)} at places that may be others"
                f" in {package} {found or 'without a version'}: {extras.install('triton')}"
            )
    return None


@functools.cache
def why_not() -> str | None:
    """Why this process cannot interpret Triton kernels, with the remedy; or None."""
    if reason := missing():
        return reason
    if os.environ.get(VARIABLE) != "1":
        return (
            f"kernels=triton needs a process that was started for it: --kernels triton, or"
            f" {VARIABLE}=1 in the environment before torch is imported"
        )
    return None
