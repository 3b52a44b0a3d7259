"""Other projects' acceptance rules, restated: they accept what is right, and miss what they miss.

The table over all faults is measured by ``python -m tests.rivals``; here is a fast part of it.
"""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from harness.faults.mutants import Scope, scopes
from harness.support.files import UnwritableFile
from tests.rivals import RULES, __main__
from tests.rivals.flash_attention import same_dtype
from tests.rivals.measure import OUTPUT_FAULTS, Cell, all_zeros, false_alarms, measure
from tests.rivals.rule import SEEDS
from tests.rivals.serving import normalised_mean_square_error
from tests.rivals.table import SOUND, TELLING, as_json, markdown, read, write
from tests.support import ROOT

RECORDED = ROOT / "fixtures" / "rivals.json"


def cell(rule: str, fault: str, scope: Scope = Scope.ALL, recipe: int = 0) -> Cell:
    """One fault under one rule, on one of its recipes."""
    alone = dataclasses.replace(RULES[rule], recipes=RULES[rule].recipes[recipe : recipe + 1])
    if fault == "all-zeros":
        return all_zeros([alone])[0]
    cells = measure([alone], [OUTPUT_FAULTS[fault]])
    return next(c for c in cells if c.scope == scope)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_accepts_the_sound_model_on_its_own_inputs(name: str) -> None:
    """On every recipe: a rule that rejects what is right would catch everything. The other seeds
    are in the measured file."""
    rule = RULES[name]
    trials = rule.trials(seeds=(0,))
    rejected = [str(t.inputs.case) for t in trials if not rule.accepts(t.sound, t)]
    assert rejected == []
    model = [c for c in read(RECORDED)["sound"] if (c["rule"], c["fault"]) == (name, "model")]
    assert [(c["caught"], c["total"]) for c in model] == [(0, len(SEEDS) * len(rule.recipes))]


def test_default_tolerances_reject_sound_weights_in_bfloat16() -> None:
    """Elements near 0 have less than the default atol, so that the defaults raise false alarms."""
    found = false_alarms([RULES["torch-assert-close-bf16"]], seeds=(0,))
    assert next(c for c in found if c.fault == "rounded-weights").caught > 0


@pytest.mark.parametrize("name", RULES)
def test_a_rule_rejects_nan(name: str) -> None:
    """One NaN in the output."""
    rule = RULES[name]
    trial = next(rule.trials(seeds=(0,)))
    output = trial.sound.clone()
    output[0, 0, 0, 0] = math.nan
    assert not rule.accepts(output, trial)


@pytest.mark.parametrize(
    "fault",
    [
        "all-zeros",
        "offset-one-low",
        "newest-block-dropped",
        "first-split-twice",
        "scale-one-percent-off",
    ],
)
def test_pytorch_in_float32_accepts_anything_over_a_full_cache(fault: str) -> None:
    """Its float32 rule falls into atol = rtol = 0.2, above the mean of 2048 values."""
    found = cell("pytorch-flex-decoding-fp32", fault)
    assert found.applies
    assert (found.caught, found.total) == (0, 3)


def test_pytorch_in_bfloat16_misses_a_dropped_key_in_one_head() -> None:
    """A mean over all heads: the fault in all rows shows, in one head it does not."""
    rule, fault = "pytorch-flex-decoding-bf16", "offset-one-low"
    assert cell(rule, fault).caught == 3
    assert cell(rule, fault, Scope.HEAD).caught == 0


@pytest.mark.parametrize("rule", [name for name in RULES if name != "pytorch-flex-decoding-fp32"])
def test_every_other_rule_catches_an_output_of_zeros(rule: str) -> None:
    """On its first recipe, with each seed."""
    assert cell(rule, "all-zeros").caught == len(SEEDS)


def test_llama_cpp_accepts_a_scale_one_percent_off() -> None:
    """Normalised mean square error allows 2 % of the norm."""
    found = cell("llama.cpp-flash-attn-ext", "scale-one-percent-off")
    assert (found.caught, found.total) == (0, 3)


def test_flash_attention_2_catches_a_scale_one_percent_off() -> None:
    """Its limit is 3 times the rounding of the same dtype, at the worst element."""
    found = cell("flash-attention-2-kvcache", "scale-one-percent-off")
    assert (found.caught, found.total) == (3, 3)


def test_a_fault_that_the_inputs_cannot_show_does_not_apply() -> None:
    """A wrong group map where every query head has its own KV head: not caught, and said so."""
    found = cell("torch-assert-close-fp32", "group-map-modulo")
    assert not found.applies
    assert (found.caught, found.total) == (0, 3)


def test_a_fault_shows_only_in_trials_that_it_changes() -> None:
    """A window one slot too wide: no trial of the recipes without a window counts."""
    rule = RULES["flash-attention-2-kvcache"]
    [found] = [
        c for c in measure([rule], [OUTPUT_FAULTS["window-one-wide"]]) if c.scope == Scope.ALL
    ]
    assert found.applies
    assert 0 < found.total <= len(SEEDS)


def test_flash_attentions_reference_is_the_same_attention() -> None:
    """Rounded in every step, it still lies close to golden: not a fault of its own."""
    for trial in RULES["flash-attention-2-kvcache"].trials(seeds=(0,)):
        reference = same_dtype(trial.inputs)
        assert reference.dtype == torch.float16
        assert normalised_mean_square_error(reference, trial.golden) < 1e-5


def test_inputs_are_a_recipes_own_and_reproducible() -> None:
    """The same bits for the same seed, others for another; zeros in an empty tail."""
    recipe = RULES["vllm-v1-backends"].recipes[0]
    first, again, other = (recipe.inputs(seed, "bfloat16") for seed in (0, 0, 1))
    assert torch.equal(first.key_cache, again.key_cache)
    assert not torch.equal(first.key_cache, other.key_cache)
    assert first.key_cache[0, :, 32:].count_nonzero() == 0
    assert first.key_cache[0, :, :32].count_nonzero() > 0
    uniform = RULES["llama.cpp-flash-attn-ext"].recipes[1].inputs(0, "float16")
    assert uniform.value_cache.abs().max() <= 1


def test_the_file_has_every_rule_fault_and_scope_once() -> None:
    """The committed measurement is of the rules and faults that there are."""
    data = read(RECORDED)
    assert data["rules"] == list(RULES)
    assert set(data["sources"]) == set(RULES)
    found = [(c["rule"], c["fault"], c["scope"]) for c in data["cells"]]
    expected = [
        (rule, fault.name, scope)
        for rule in RULES
        for fault in OUTPUT_FAULTS.values()
        for scope in scopes(fault)
    ]
    assert found == expected
    for c in data["cells"]:
        assert 0 <= c["caught"] <= c["total"]
        assert c["applies"] or c["caught"] == 0


def test_the_file_holds_what_is_measured_now() -> None:
    """A few cells measured again. In one head alone a rule may be at its limit, where another
    processor's rounding decides: there only what can show at all is compared."""
    recorded = {(c["rule"], c["fault"], c["scope"]): Cell(**c) for c in read(RECORDED)["cells"]}
    faults = [OUTPUT_FAULTS[name] for name in ("offset-one-low", "scale-one-percent-off")]
    names = "flash-attention-2-kvcache", "llama.cpp-flash-attn-ext", "torch-assert-close-bf16"
    for found in measure([RULES[name] for name in names], faults):
        then = recorded[found.rule, found.fault, found.scope]
        assert (found.total, found.applies) == (then.total, then.applies)
        if found.scope == Scope.ALL:
            assert found.caught == then.caught


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """As JSON, one cell a line; another schema is refused, another directory too."""
    cells = [Cell("a", "b", Scope.ALL, 1, 3, True), Cell("a", "b", Scope.HEAD, 0, 3, False)]
    path = tmp_path / "rivals.json"
    write(path, as_json({}, cells, [], []))
    assert read(path)["cells"] == [dataclasses.asdict(c) for c in cells]
    assert path.read_text().count('"fault"') == len(
        [line for line in path.read_text().splitlines() if '"fault"' in line]
    )
    path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="schema: 0 is not 1"):
        read(path)
    with pytest.raises(UnwritableFile):
        write(tmp_path / "missing" / "rivals.json", "{}")


def test_the_table_shows_ratios_and_a_dash_where_nothing_can_show(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A row per telling fault, a column per rule."""
    data = {
        "rules": ["a", "b"],
        "sound": [],
        "all_zeros": [dataclasses.asdict(Cell("a", "all-zeros", Scope.ALL, 0, 3, True))],
        "cells": [
            dataclasses.asdict(Cell("a", "offset-one-low", Scope.ALL, 2, 3, True)),
            dataclasses.asdict(Cell("a", "offset-one-low", Scope.HEAD, 0, 3, True)),
            dataclasses.asdict(Cell("b", "offset-one-low", Scope.ALL, 0, 3, False)),
        ],
    }
    lines = markdown(data).splitlines()
    assert lines[0] == "| output | a | b |"
    assert "| an output of zeros | 0/3 |  |" in lines
    assert "| newest key dropped | 2/3, 0/3 | \N{EN DASH} |" in lines
    assert len(lines) == 2 + len(TELLING) + len(SOUND)
    assert __main__.main(["--table"]) == 0
    assert capsys.readouterr().out.startswith("| output | pytorch")
