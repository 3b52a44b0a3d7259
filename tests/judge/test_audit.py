"""The audit of a model names the fault, its layer and its forward."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from harness import assert_cached_decoding
from harness import audit as watched
from harness.auditing import deciding, naming
from harness.auditing.blame import Blame, Cause
from harness.auditing.remedies import remedy
from harness.auditing.run import audit
from harness.auditing.scenario import SCENARIOS, Scenario
from harness.auditing.text import changes, render, to_json
from harness.cli import USAGE, main
from harness.verdict import Verdict
from tests.support import ROOT
from tests.support.processes import Preloaded
from tests.support.tiny_decoder import WINDOWED, TinyModule, tiny_configuration

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.rotates(3)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_sound_decoding_is_ok_in_every_scenario(scenario: Scenario) -> None:
    """Every attention call is right, and every greedy token that of the uncached forward."""
    found = audit(tiny_configuration(), scenario)
    assert found.verdict is Verdict.OK, render([found], "")
    assert found.calls == 3 * sum(step > 0 for step in (1, *scenario.steps))
    assert (found.greedy, found.tokens) == (0, found.tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sound_decoding_in_low_precision_is_ok(dtype: torch.dtype) -> None:
    """Rounding in bfloat16 and float16 is neither another token nor beyond the budget."""
    found = audit(tiny_configuration(dtype=dtype), BY_NAME["drafts"])
    assert found.verdict is Verdict.OK, render([found], "")


# The fault, the scenario, and what is found: cause, name, forward and layer.
FAULTS = [
    ("no-query-offset", "drafts", Cause.MASK, "no-query-offset", 1, 0),
    ("no-query-offset", "left-padding", Cause.MASK, "no-query-offset", 1, 0),
    ("position-advanced", "drafts", Cause.MASK, "offset-one-high", 1, 0),
    ("position-advanced", "two-blocks", Cause.MASK, "offset-one-high", 1, 0),
    ("one-slot-late", "tokens", Cause.CONTENT, "one-slot-late", 1, 0),
    ("one-slot-late", "left-padding", Cause.CONTENT, "one-slot-late", 1, 0),
    ("other-layer", "tokens", Cause.CONTENT, "other-layer", 0, 1),
    ("rotary-after-rollback", "drafts", Cause.POSITION, "rotary-off-by-one", 4, 0),
    ("padding-attended", "left-padding", Cause.MASK, "padding-attended", 0, 0),
    ("padding-attended", "right-padding", Cause.MASK, "padding-attended", 1, 0),
    ("rolled-back-attended", "drafts", Cause.MASK, "rolled-back-attended", 4, 0),
    ("heads-interleaved", "tokens", Cause.CONTENT, "group-map-modulo", 1, 0),
    ("window-one-wide", "tokens", Cause.MASK, "window-one-wide", 0, WINDOWED),
    ("other-sequence", "batch", Cause.CONTENT, "other-sequence", 1, 0),
    ("kernel-hides-oldest", "tokens", Cause.KERNEL, "", 1, 0),
    ("kernel-modulo", "tokens", Cause.KERNEL, "group-map-modulo", 1, 0),
    ("residual-lost", "tokens", Cause.INPUT, "", 1, 1),
]
# Under FlexAttention the mask is what its block mask says.
PLANTED = [
    pytest.param(attention, *fault, id=f"{attention}-{fault[0]}-{fault[1]}")
    for attention in ("sdpa", "flex_attention")
    for fault in FAULTS
    if attention == "sdpa" or fault[2] is not Cause.KERNEL
]


@pytest.mark.parametrize(
    ("attention", "fault", "scenario", "cause", "name", "forward", "layer"), PLANTED
)
@pytest.mark.rotates(3)
def test_a_planted_fault_is_named_at_its_layer_and_forward(
    attention: str, fault: str, scenario: str, cause: Cause, name: str, forward: int, layer: int
) -> None:
    """Position, cache content, mask and kernel are told apart."""
    found = audit(tiny_configuration(fault, attention=attention), BY_NAME[scenario])
    assert found.verdict is Verdict.WRONG
    blame = found.blame
    assert blame is not None
    assert (blame.cause, blame.name, found.at, blame.layer) == (cause, name, forward, layer)


@pytest.mark.rotates(3)
@pytest.mark.parametrize("name", ["tokens", "drafts", "left-padding"])
def test_sound_decoding_under_flex_attention_is_ok(name: str) -> None:
    """Every call is seen."""
    found = audit(tiny_configuration(attention="flex_attention"), BY_NAME[name])
    assert found.verdict is Verdict.OK, render([found], "")
    assert found.calls == 3 * sum(step > 0 for step in (1, *BY_NAME[name].steps))


def test_every_name_and_every_cause_has_a_remedy() -> None:
    """Those of the claims, which are all names that an audit gives, among them those of shifts."""
    texts = [inspect.getsource(module) for module in (naming, deciding)]
    names = {name for text in texts for name in re.findall(r"\"([a-z]+(?:-[a-z]+)+)\"", text)}
    assert {name for _, _, _, name, _, _ in FAULTS} - {""} <= names
    blames = [Blame(Cause.MASK, name, (), 0, 0, 0, 0) for name in sorted(names)]
    blames += [Blame(cause, "", (), 0, 0, 0, 0) for cause in Cause]
    assert all(remedy(blame) for blame in blames)


def test_evidence_says_what_is_seen_and_what_should_be() -> None:
    """A fault's evidence lists tokens and slots."""
    text = render([audit(tiny_configuration("position-advanced"), BY_NAME["tokens"])], "")
    assert "token 12 should see tokens 0 to 12" in text
    assert "its mask shows slots 0 to 13" in text
    assert "the mask is 1 ahead of the query's position" in text
    assert "remedy: input_pos is the slot of the query's token" in text


def test_a_kernel_that_skips_a_slot_is_read_off() -> None:
    """The weights that the call itself gives show which slot it leaves out."""
    found = audit(tiny_configuration("kernel-hides-oldest"), BY_NAME["tokens"])
    assert found.blame is not None
    assert "it does not attend slots 0, which its mask shows" in found.blame.evidence


def test_a_session_that_raises_is_an_error_and_one_that_refuses_unsupported() -> None:
    """The words are those of the project."""
    raising = audit(tiny_configuration("raises"), BY_NAME["tokens"])
    assert (raising.verdict, raising.refusal) == (
        Verdict.ERROR,
        "forward 1: IndexError: out of slots",
    )
    refusing = audit(tiny_configuration("refuses"), BY_NAME["drafts"])
    assert (refusing.verdict, refusing.refusal) == (Verdict.UNSUPPORTED, "no rollback here")


def test_results_are_strict_json() -> None:
    """Every result can be read back, a blame among them."""
    audits = [audit(tiny_configuration(f), BY_NAME["tokens"]) for f in ("", "one-slot-late")]
    read = json.loads(to_json(audits, {"torch": torch.__version__}))["audits"]
    assert [entry["verdict"] for entry in read] == ["OK", "WRONG"]
    assert read[1]["blame"]["name"] == "one-slot-late"
    assert read[1]["blame"]["remedy"] == "write the token at input_pos to slot input_pos"


def test_the_cost_of_an_audit_can_be_measured(preloaded: Preloaded, tmp_path: Path) -> None:
    """A row for each rate of sampling, in units of the decode without one."""
    ran = preloaded.run(ROOT / "examples" / "audit_cost.py", "2", folder=tmp_path, path=[ROOT])
    assert ran.returncode == 0, ran.stderr
    rows = re.findall(r"^\| ([^|]*) \| [\d.]+ \| ([\d.]+) \|$", ran.stdout, re.M)
    assert [name for name, _ in rows] == ["no audit", "every=1", "every=10", "every=100"]
    assert float(rows[0][1]) == 1


def test_a_later_audit_says_what_changed() -> None:
    """Only what came out otherwise is listed, with where."""
    sound = [audit(tiny_configuration(), BY_NAME["tokens"])]
    wrong = [audit(tiny_configuration("one-slot-late"), BY_NAME["tokens"])]
    wrong = [dataclasses.replace(wrong[0], configuration=sound[0].configuration)]
    assert list(changes(to_json(sound, {}), sound)) == [
        "0 of 1 audits came out otherwise than recorded"
    ]
    assert list(changes(to_json(sound, {}), wrong))[1].strip() == (
        "tiny/sound, tokens: OK, now WRONG, one-slot-late, forward 1, layer 0"
    )
    with pytest.raises(ValueError, match="no audits"):
        list(changes("[]", sound))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": "top"}, "padding: 'top' is not one of none left right"),
        ({"prompts": (3, 4)}, "prompts: of different lengths they need padding"),
        ({"steps": (1, -2)}, "more is rolled back"),
        ({"slots": 12}, "slots: 12 are too few"),
    ],
)
def test_an_impossible_scenario_is_refused(change: dict[str, object], message: str) -> None:
    """The message names the field and what is allowed."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BY_NAME["tokens"], **change)  # type: ignore[arg-type]


def test_the_assertion_for_projects_passes_sound_decoding_and_names_a_fault() -> None:
    """``assert_cached_decoding`` raises with the layer and the cause."""
    sound, wrong = tiny_configuration(), tiny_configuration("other-layer")
    few = [BY_NAME["tokens"]]
    assert_cached_decoding(sound.begin, sound.uncached, vocabulary=sound.vocabulary, scenarios=few)
    with pytest.raises(AssertionError, match="cache content wrong: other-layer"):
        assert_cached_decoding(
            wrong.begin, wrong.uncached, vocabulary=wrong.vocabulary, scenarios=few
        )


def test_the_assertion_fails_where_nothing_was_judged() -> None:
    """A model that refuses every scenario has not been shown right."""
    refusing = tiny_configuration("refuses-all")
    with pytest.raises(AssertionError, match="UNSUPPORTED"):
        assert_cached_decoding(refusing.begin, refusing.uncached, vocabulary=refusing.vocabulary)


@pytest.mark.parametrize(
    ("fault", "cause", "name"),
    [
        ("position-advanced", Cause.MASK, "offset-one-high"),
        ("kernel-hides-oldest", Cause.KERNEL, ""),
        ("kernel-modulo", Cause.KERNEL, "group-map-modulo"),
    ],
)
def test_a_watched_model_is_judged_without_a_reference(fault: str, cause: Cause, name: str) -> None:
    """``with audit(model)`` names the first call whose kernel or mask is off."""
    with watched(TinyModule("")) as report:
        decode(TinyModule(""), 5)
    assert report.verdict is Verdict.UNSUPPORTED, "the calls of another model have no forwards"
    model = TinyModule("")
    with watched(model) as report:
        decode(model, 5)
    assert (report.verdict, report.judged, report.placed) == (Verdict.OK, 18, 18)
    model = TinyModule(fault)
    with watched(model) as report:
        decode(model, 5)
    assert report.verdict is Verdict.WRONG
    assert report.blame is not None
    assert (report.blame.cause, report.blame.name, report.forward) == (cause, name, 1)
    assert str(report).startswith("WRONG")


def test_watching_can_be_sampled() -> None:
    """With ``every=3`` two of six forwards are judged, three layers each."""
    model = TinyModule("")
    with watched(model, every=3) as report:
        decode(model, 5)
    assert (report.calls, report.judged) == (18, 6)


def decode(model: torch.nn.Module, count: int) -> None:
    """A prompt of seven tokens, then ``count`` single ones."""
    generator = torch.Generator().manual_seed(0)
    model(torch.randint(1, 500, (2, 7), generator=generator))
    for _ in range(count):
        model(torch.randint(1, 500, (2, 1), generator=generator))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gpt-fast", "--checkout: needed"),
        ("gpt-fast --checkout nowhere", "--checkout: nowhere has no model.py"),
        ("gpt-fast --models llama", "--models: is for transformers"),
        ("transformers --checkout .", "--checkout: is for gpt-fast"),
        ("gpt-fast --scenarios naps", "--scenarios: 'naps' is not one of tokens"),
        ("torchtune", "audit takes transformers or gpt-fast, or path/to/SCRIPT.py"),
    ],
)
def test_a_wrong_command_line_is_refused(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option and what is allowed; the exit code is 2."""
    assert main(["audit", *words.split()]) == USAGE
    assert message in capsys.readouterr().err
