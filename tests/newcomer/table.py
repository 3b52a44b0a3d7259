"""Every command that the pages quote after ``python -m harness``, and what a stranger sees.

By day it runs where nothing but torch is installed, by night with all extras. A row without either
says why.
"""

from __future__ import annotations

from dataclasses import dataclass

OK, NOT_OK, USAGE, INCOMPLETE = 0, 1, 2, 3


@dataclass(frozen=True)
class Run:
    """The exit code of a command and how its first line begins; where the code is 2, the one line
    of the error, whole. ``words`` stand in for those quoted, in a smaller size."""

    code: int
    says: str
    words: str | None = None


@dataclass(frozen=True)
class Row:
    """What a page quotes after ``python -m harness``."""

    quoted: str
    day: Run | None = None
    night: Run | None = None
    reason: str = ""


def _lacks(extra: str, packages: str, what: str = "") -> str:
    return f"{what}needs {packages}: pip install 'flexdecode-harness[{extra}]'"


_STRATEGIES = Run(USAGE, _lacks("strategies", "hypothesis, allpairspy"))
_VERDICTS = Run(USAGE, _lacks("strategies", "hypothesis, allpairspy", "verdicts: "))
_PROGRAMS = Run(
    USAGE,
    _lacks("strategies", "hypothesis, allpairspy", "drawing programs of a cache class "),
)
_FIGURES = Run(USAGE, _lacks("figures", "matplotlib, PIL"))
_TRITON = "triton, packaging, numpy"
_INTERPRETED = Run(USAGE, _lacks("triton", _TRITON, "--kernels triton: "))
_WATCHED = Run(USAGE, _lacks("triton", _TRITON, "--triton: "))
_TRANSFORMERS = Run(USAGE, _lacks("transformers", "transformers", "transformers: "))
_NO_FIXTURES = Run(USAGE, "fixtures/tolerances/cpu.json: there is no directory fixtures/tolerances")

_ROLLBACK = "check harness.serving.faults:RollbackLeavesPosition"
_SHOWN = "--case S=2,pos=0,D=16 --steps 'decode:1 rollback:1 decode:1'"
_CASE = "check mine.py:decode --case S=2,pos=1,D=16,mask=window:1"
_AUDIT = "audit transformers --models llama --caches dynamic --attention sdpa --scenarios tokens"
_HUNT = "hunt --kernels cpp,triton --seconds 20m --jobs 2"
_SCRIPT = "fixtures/repro/flexcpu-split-all-idle/script.py"
_GATE = Run(OK, "## Decoding gate: ", "gate --budget 60s --accept-incomplete")
_PATH = "a name in the text, not a command line"

TABLE = (
    # README.md
    Row("repro", night=Run(OK, "gpt-fast#233")),
    Row("repro --script show.py", night=Run(OK, "gpt-fast#233")),
    Row(
        "repro 'S=300,pos=99/-1/7,H=4,Hkv=2'",
        day=Run(OK, "case S=1,pos=0,D=16", "repro S=1,pos=0,D=16"),
        night=Run(OK, "case S=300,pos=99/-1/7,H=4,Hkv=2"),
    ),
    Row("check mine.py:decode", day=Run(NOT_OK, "LEAK mine.py:decode")),
    Row(_CASE, night=Run(NOT_OK, "LEAK mine.py:decode")),
    Row(
        "repro --kernels triton 'S=300,pos=99/-1/7,H=6,Hkv=2,D=16'",
        day=_INTERPRETED,
        night=Run(OK, "case S=300"),
    ),
    Row("audit examples/sliced_cache.py", day=Run(INCOMPLETE, "off by ")),
    Row("audit transformers --models llama", day=_TRANSFORMERS, night=Run(OK, "", _AUDIT)),
    Row("gate --budget 10m", day=_STRATEGIES, night=_GATE),
    # FINDINGS.md
    Row(
        "versions SCRIPT --torch 2.11.0,2.13.0",
        night=Run(NOT_OK, "torch", f"versions {_SCRIPT} --torch here"),
    ),
    Row(
        "audit transformers --models llama --caches static --attention flex_attention --compile",
        day=_TRANSFORMERS,
    ),
    Row(
        "check harness.serving.torch_paged:TorchPaged",
        reason="a cache class: tests/paths/test_served.py runs it",
    ),
    Row("audit", reason=_PATH),
    # docs/audit.md
    Row(
        "audit transformers --models llama,mistral --attention sdpa,flex_attention",
        day=_TRANSFORMERS,
    ),
    Row(
        "audit gpt-fast --checkout path/to/gpt-fast",
        night=Run(USAGE, "--checkout: path/to/gpt-fast has no model.py"),
    ),
    Row("audit --json FILE SCRIPT.py [ARGS]", reason="a form, of which README has an example"),
    # docs/case-ids.md
    Row(
        "keep NAME CASE --source WHERE",
        day=Run(
            USAGE,
            "fixtures/cases: not here; keep a case in the project's folder",
            "keep mine S=2,pos=1 --source docs",
        ),
        night=Run(OK, "fixtures/cases/mine.json", "keep mine S=2,pos=1 --source docs"),
    ),
    # docs/check.md
    Row("check", reason=_PATH),
    Row("check path/to/mine.py:decode", reason="the same in another folder"),
    Row(
        "check mine.py:decode --max-examples 100",
        reason="a line of a workflow: tests/judge/test_workflow.py runs it",
    ),
    Row(
        "check mine.py:decode --case S=2,pos=0,D=16 --calls next",
        reason="the page shows no function for it: tests/judge/test_state.py runs one",
    ),
    Row(
        "check mine.py:decode --triton",
        day=_WATCHED,
        night=Run(NOT_OK, "LEAK mine.py:decode"),
    ),
    # docs/faults.md
    Row("faults --list", night=Run(OK, " 1 ")),
    Row(
        "faults",
        day=_STRATEGIES,
        night=Run(OK, "examples until caught (float32)", "faults offset-one-low --dtypes fp32"),
    ),
    Row(
        "faults --diagnose --jobs 2 --json FILE",
        day=_STRATEGIES,
        night=Run(OK, "", "faults offset-one-low --diagnose --dtypes fp32 --json FILE"),
    ),
    # docs/figures.md
    Row("figures", day=_FIGURES),
    Row("figures --open", day=_FIGURES, night=Run(OK, "figures/figures.html", "figures")),
    Row("versions SCRIPT ... --json", reason="as in FINDINGS.md, for the format of a file"),
    # docs/gate.md
    Row("gate --device cpu --budget 600s --seed 0", day=_STRATEGIES),
    Row("gate --budget 2m --changed $(git diff --name-only main)", reason="needs a change"),
    # docs/hunt.md
    Row(
        _HUNT,
        day=_STRATEGIES,
        night=Run(OK, "", "hunt --kernels cpp,triton --geometries 1 --seconds 5m"),
    ),
    Row(
        "hunt --scheduler tcp://scheduler:8786 --seconds 8h --seed 1",
        day=_STRATEGIES,
        reason="needs a cluster: tests/judge/test_hunt.py has one of two processes",
    ),
    # docs/kernels.md
    Row(
        "check examples/vllm_attention.py:unified --triton --dtypes bf16",
        day=_WATCHED,
        reason="needs vLLM, without its dependencies: tox run -e kernels",
    ),
    # docs/ledger.md
    Row(
        "record",
        day=_NO_FIXTURES,
        night=Run(OK, "", "record --modes eager --dtypes fp32 --ledger mine.json"),
    ),
    Row(
        "record --check",
        day=Run(USAGE, "fixtures/tolerances/cpu.json: there is no ledger to check against"),
    ),
    Row("record --accept REASON", day=_NO_FIXTURES),
    Row(
        "history fixed",
        day=Run(USAGE, "fixtures/tolerances/cpu.json: No such file or directory"),
        night=Run(OK, "worst / median share of the rounding budget, by torch version"),
    ),
    # docs/serving.md
    Row(
        "check mine.py:MyCache",
        night=Run(OK, "OK mine.py:MyCache", "check mine.py:MyCache --max-examples 5"),
    ),
    Row(
        _ROLLBACK,
        day=_PROGRAMS,
        night=Run(NOT_OK, "WRONG harness.serving.faults:RollbackLeavesPosition"),
    ),
    Row(
        f"{_ROLLBACK} --case ...",
        day=Run(
            NOT_OK,
            "WRONG harness.serving.faults:RollbackLeavesPosition",
            f"{_ROLLBACK} {_SHOWN}",
        ),
    ),
    Row(
        "faults --state",
        day=_STRATEGIES,
        night=Run(OK, "| class | fault", "faults --state rollback-leaves-position"),
    ),
    # docs/timings.md
    Row("bench steps", night=Run(OK, "| step | sliced SDPA |", "bench steps --steps 1")),
    Row("bench verdicts", day=_VERDICTS),
    # docs/triton.md
    Row("hunt --kernels triton", day=_STRATEGIES),
)
