"""transformers' models decode rightly with a cache, but for what FINDINGS.md says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.auditing.blame import Cause
from harness.auditing.run import audit
from harness.auditing.scenario import SCENARIOS
from harness.auditing.text import render
from harness.auditing.transformers_models import MODELS, configurations
from harness.cli import NOT_OK, main
from harness.verdict import Verdict

pytestmark = pytest.mark.models

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
AUDITED = list(itertools.product(MODELS, BY_NAME))
# Sliding windows count slots in transformers, padding among them, and it warns of padding on the
# right; mask and content are then off.
WINDOWED = ("mistral", "gemma2", "gemma3", "gpt-oss")


@pytest.fixture(autouse=True)
def eagerly() -> Iterator[None]:
    """Nothing is compiled."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.rotates(20)
@pytest.mark.parametrize("audited", AUDITED, ids="-".join)
def test_eager_and_sdpa_decode_rightly_with_each_cache(audited: tuple[str, str]) -> None:
    """Each attention call is that of the uncached forward."""
    model, name = audited
    for configuration in configurations((model,), attentions=("eager", "sdpa")):
        found = audit(configuration, BY_NAME[name])
        if name == "right-padding" and model in WINDOWED:
            assert found.verdict in (Verdict.WRONG, Verdict.UNSUPPORTED)
            continue
        assert found.verdict.passes, render([found], "")
        assert found.greedy == 0


def test_a_static_cache_with_flex_attention_is_one_ahead() -> None:
    """The finding model-static-flex-ahead, by its right name; it turns red once it is mended."""
    (configuration,) = configurations(("llama",), ("static",), ("flex_attention",))
    found = audit(configuration, BY_NAME["tokens"])
    assert found.blame is not None
    assert (found.blame.cause, found.blame.name) == (Cause.MASK, "offset-one-high")
    assert (found.at, found.blame.layer) == (1, 0)


def test_the_command_prints_a_table_and_writes_json_and_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 for a configuration that is wrong, with versions in the file; a script of the
    call, which needs torch alone, and one of the model show it too."""
    file = tmp_path / "audit.json"
    words = "audit transformers --models llama --attention flex_attention --scenarios tokens"
    assert main([*words.split(), "--json", str(file), "--scripts", str(tmp_path)]) == NOT_OK
    printed = capsys.readouterr().out
    for kind in ("call", "model"):
        script = tmp_path / f"llama-static-flex_attention-tokens-{kind}.py"
        assert f"{script}: exit code 1, so it shows it alone" in printed
        assert ("transformers import" in script.read_text(encoding="utf-8")) == (kind == "model")
    assert printed.startswith("WRONG 2 configurations in 1 scenarios")
    assert "mask wrong: offset-one-high" in printed
    read = json.loads(file.read_text(encoding="utf-8"))
    assert "transformers" in read["versions"]
    assert [entry["verdict"] for entry in read["audits"]] == ["OK", "WRONG"]
