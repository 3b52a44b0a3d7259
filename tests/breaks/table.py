"""The breaks, in the order of the map in ``harness/__init__.py``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Break:
    """A mistake: ``old`` stands exactly once in ``file`` and becomes ``new``.

    ``tests`` are node ids of a day, as few as see it, cheap, without a compiler; one of them at
    least must fail."""

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BREAKS = (
    Break(
        "nan-as-zero",
        "JSON has 0 where a number is NaN",
        "harness/support/strict_json.py",
        'return "NaN" if math.isnan(value)',
        "return 0.0 if math.isnan(value)",
        (
            "tests/judge/test_audit_report.py::"
            "test_numbers_that_are_not_finite_have_one_spelling_that_is_read_back",
        ),
    ),
    Break(
        "piece-lost",
        "work of a worker that died is not done again",
        "harness/isolation/campaign.py",
        "if tries < _TRIES:",
        "if tries < 1:",
        ("tests/judge/test_campaign.py::test_work_of_a_worker_that_dies_is_done_again",),
    ),
    Break(
        "field-not-written",
        "a case id leaves out the dtype",
        "harness/case/written.py",
        "if f.default is dataclasses.MISSING or value != default:",
        'if f.default is dataclasses.MISSING or (value != default and f.name != "dtype"):',
        ("tests/judge/test_case.py::test_a_case_survives_its_text_and_its_json",),
    ),
    Break(
        "window-one-wide",
        "the oracle's window holds one slot too many",
        "harness/case/visible.py",
        '"window": lambda t, j, window: (j <= t) & (j > t - window),',
        '"window": lambda t, j, window: (j <= t) & (j >= t - window),',
        ("tests/judge/test_inputs.py::test_mask_mods_and_the_position_arithmetic_agree",),
    ),
    Break(
        "stride-swapped",
        "the strides of heads and slots are swapped in a [B, S, H, D] storage",
        "harness/case/layouts.py",
        "allocate=lambda c: _nan(c, c.size(0), c.size(2), c.size(1), c.size(3)),",
        "allocate=lambda c: _nan(c, *c.shape).transpose(1, 2),",
        ("tests/judge/test_inputs.py::test_every_layout_has_its_strides",),
    ),
    Break(
        "dims-strided",
        "the plain cache has the strides of slots and dims swapped, with the right numbers",
        "harness/case/layouts.py",
        "allocate=lambda c: c.new_empty(c.shape),",
        "allocate=lambda c: c.new_empty(c.mT.shape).mT,",
        ("tests/judge/test_inputs.py::test_every_layout_has_its_strides",),
    ),
    Break(
        "token-dropped",
        "the cache of the fixed path writes over its first slot where tokens run past the last",
        "harness/decoding/kv_cache.py",
        "kept = (self.input_pos >= 0)[:, None] & (slot < self.cache_len)",
        "kept = (self.input_pos >= 0)[:, None] & (slot <= self.cache_len)",
        (
            "tests/paths/test_kv_cache.py::"
            "test_tokens_past_the_last_slot_are_dropped_and_the_others_kept",
        ),
    ),
    Break(
        "block-not-listed",
        "the fixed path's block table lacks the block that the newest token begins",
        "harness/decoding/block_mask.py",
        "end = (last // kv_block + 1).clamp(max=-(-cache_len // kv_block))",
        "end = _ceil_div(last, kv_block).clamp(max=-(-cache_len // kv_block))",
        (
            "tests/paths/test_block_mask.py::"
            "test_block_table_lists_exactly_the_blocks_with_a_visible_slot",
        ),
    ),
    Break(
        "sum-not-rescaled",
        "golden's sum of weights is not rescaled where a chunk has a larger maximum",
        "harness/oracle/golden.py",
        "weight = weight * rescale + p.sum(dim=-1)",
        "weight = weight + p.sum(dim=-1)",
        ("tests/judge/test_oracle.py::test_streaming_does_not_change_golden",),
    ),
    Break(
        "term-left-out",
        "the bound lacks the rounding of scores that is declared",
        "harness/oracle/budget.py",
        "ds = ds + u_score * size + (2 * u_operand + u_scaled) * chunk.product",
        "ds = ds + (2 * u_operand + u_scaled) * chunk.product",
        ("tests/judge/test_budget.py::test_rounded_scores_need_to_be_declared",),
    ),
    Break(
        "score-rounding-for-all",
        "the bound admits rounded scores that nobody declared",
        "harness/oracle/budget.py",
        "u_score = u_score if u_score > u_accumulator else 0.0",
        "u_score = UNIT_ROUNDOFF[case.dtype] + UNIT_ROUNDOFF['bfloat16']",
        ("tests/judge/test_budget.py::test_rounded_scores_need_to_be_declared",),
    ),
    Break(
        "verdict-dropped",
        "the judge looks for no number that is not finite",
        "harness/verdict/judging.py",
        "    findings += nonfinite(result)\n",
        "",
        ("tests/judge/test_verdict.py::test_every_verdict_can_occur",),
    ),
    Break(
        "order-of-checks",
        "the judge compares with the bound before it changes the tail",
        "harness/verdict/judging.py",
        "    findings += leaks(path, problem, result, device)\n"
        "    errors = errors_of(path, problem, result)\n"
        "    findings += beyond_budget(errors) + inexact(path, problem, result) + shared\n",
        "    errors = errors_of(path, problem, result)\n"
        "    findings += beyond_budget(errors) + inexact(path, problem, result) + shared\n"
        "    findings += leaks(path, problem, result, device)\n",
        (
            "tests/judge/test_verdict.py::"
            "test_what_leaks_is_called_a_leak_though_it_is_beyond_the_bound_too",
        ),
    ),
    Break(
        "setting-not-named",
        "a setting of the process that a call changed is put back, and not named",
        "harness/verdict/process_state.py",
        "if name not in _BY_IMPORTS or len(sys.modules) == imported:",
        "if False:",
        ("tests/judge/test_verdict.py::test_a_changed_setting_is_put_back_and_named",),
    ),
    Break(
        "known-everywhere",
        "each known failure of compiled flex_attention covers each compiled call",
        "harness/verdict/known_failures.py",
        "_compiled_flex_on_cpu(path, problem.case, device) and shows(problem)",
        "_compiled_flex_on_cpu(path, problem.case, device)",
        ("tests/judge/test_known_failures.py",),
    ),
    Break(
        "contents-not-compared",
        "what a cache says that it holds is not compared",
        "harness/serving/judging.py",
        "return found + self._numbers(call, output.cpu()) + self._contents()",
        "return found + self._numbers(call, output.cpu())",
        ("tests/judge/test_serving.py::test_contents_are_compared_where_no_row_shows_them",),
    ),
    Break(
        "corner-not-drawn",
        "no case is drawn with an idle sequence",
        "harness/strategies/drawing.py",
        'if "idle" in domain.features and numbers.randrange(5) == 4:',
        'if "idle" in domain.features and numbers.randrange(5) == 5:',
        ("tests/judge/test_drawing.py::test_every_feature_of_a_domain_is_drawn",),
    ),
    Break(
        "first-suspect-named",
        "the diagnosis names the suspects that are left without further cases to tell them apart",
        "harness/diagnosis/suspects.py",
        "        if not suspects or (len(suspects) == 1 and len(seen) >= enough)"
        " or len(seen) >= MAX_CASES:\n",
        "        if suspects:\n",
        ("tests/power/test_diagnosis.py::test_suspects_are_told_apart_by_other_arguments",),
    ),
    Break(
        "right-rows-ignored",
        "a fault is named though rows are right that it would make wrong",
        "harness/diagnosis/suspects.py",
        "~outside & ~right_inside",
        "~outside",
        (
            "tests/power/test_diagnosis.py::"
            "test_a_fault_that_spares_rows_of_every_region_is_not_named",
        ),
    ),
    Break(
        "shrinks-to-a-pass",
        "shrinking keeps a case that passes",
        "harness/function/shrink.py",
        "                    if held:\n",
        "                    if not held:\n",
        ("tests/judge/test_shrink.py::test_shrinking_reaches_what_a_predicate_needs",),
    ),
    Break(
        "shrinks-to-another",
        "shrinking takes any failure for the one that it began with",
        "harness/function/search.py",
        "if result.invalid or result.verdict is not outcome.verdict:",
        "if result.invalid or result.verdict.passes:",
        ("tests/judge/test_shrink.py::test_shrinking_keeps_the_verdict",),
    ),
    Break(
        "stderr-lost",
        "a worker keeps nothing of what its child wrote to stderr",
        "harness/function/worker.py",
        "            self._stderr += block\n",
        "            self._stderr += block[block.find(END_OF_STDERR) :]\n",
        ("tests/judge/test_worker.py::test_a_crash_shows_the_last_lines_of_stderr",),
    ),
    Break(
        "death-is-ok",
        "a child that died is counted as OK",
        "harness/function/worker.py",
        "return Outcome((finding,), stderr=tuple(said[-_LINES_SHOWN:]))",
        "return Outcome((), stderr=tuple(said[-_LINES_SHOWN:]))",
        ("tests/judge/test_worker.py::test_a_fault_is_named_and_the_next_case_is_judged[101]",),
    ),
    Break(
        "source-not-run",
        "a search runs no loops",
        "harness/function/sources.py",
        'found = [drawn, Source("loops", LOOPS, _loops(domain, seed), least=least), production]',
        "found = [drawn, production]",
        ("tests/judge/test_drawing.py::test_a_search_has_every_source",),
    ),
    Break(
        "unsupported-is-ok",
        "a check in which nothing could be judged ends with exit code 0",
        "harness/commands/check.py",
        "    if not result.tally.judged:\n        return USAGE\n",
        "",
        ("tests/judge/test_check.py::test_nothing_but_unsupported_is_exit_2_and_counted",),
    ),
    Break(
        "effect-before-cause",
        "an audit looks at the slots that a query attends before the query",
        "harness/auditing/deciding.py",
        "for check in (_query, _slots):",
        "for check in (_slots, _query):",
        ("tests/judge/test_audit.py::test_a_planted_fault_is_named_at_its_layer_and_forward",),
    ),
    Break(
        "margin-ignored",
        "the ledger calls any larger error loosened",
        "harness/ledger/entries.py",
        "if any(now > max(before, floor) * margin for now, before, margin, floor in pairs):",
        "if any(now > max(before, floor) for now, before, margin, floor in pairs):",
        ("tests/judge/test_ledger.py::test_a_measured_entry_is_told_apart",),
    ),
    Break(
        "wrong-seed",
        "a script draws with the seed after the case's",
        "harness/script/inputs.py",
        'yield f"g = torch.Generator().manual_seed({case.seed})"',
        'yield f"g = torch.Generator().manual_seed({case.seed + 1})"',
        ("tests/judge/test_script.py::test_a_script_draws_the_same_bits",),
    ),
    Break(
        "failure-forgotten",
        "a hunt that goes on forgets what it found",
        "harness/hunting/journal.py",
        "                latest[one.key] = one\n",
        "                latest = {one.key: one}\n",
        ("tests/judge/test_hunt.py::test_a_hunt_goes_on_where_it_was_stopped",),
    ),
    Break(
        "red-as-green",
        "a gate counts no failure in a step that was cut short",
        "harness/gate/steps.py",
        "return [item for step in self.steps for item in step.failures]",
        "return [item for step in self.steps if not step.cut for item in step.failures]",
        (
            "tests/judge/test_gate.py::"
            "test_an_incomplete_run_has_an_exit_code_that_a_team_may_accept",
        ),
    ),
    Break(
        "crash-as-notice",
        "a gate is red for wrong numbers alone",
        "harness/gate/item.py",
        "return not self.verdict.passes and not self.notice",
        "return self.verdict is Verdict.WRONG and not self.notice",
        ("tests/judge/test_gate.py::test_every_bad_verdict_is_red",),
    ),
    Break(
        "interrupt-is-0",
        "an interrupted command ends with exit code 0",
        "harness/cli.py",
        "        return INTERRUPTED\n",
        "        return OK\n",
        (
            "tests/judge/test_cli.py::"
            "test_an_interrupt_exits_130_with_what_is_known_and_leaves_no_file",
        ),
    ),
    Break(
        "nothing-judged-is-0",
        "a repro in which nothing could be judged ends with exit code 0",
        "harness/commands/repro.py",
        "    if answer.nothing_judged:\n        return USAGE\n",
        "",
        ("tests/judge/test_cli.py::test_nothing_judged_exits_2",),
    ),
    Break(
        "kept-not-replayed",
        "pytest's plugin does not run a kept case again",
        "harness/pytest_plugin.py",
        "        example(**{argument: _load(file).case})(test)\n",
        "        _load(file)\n",
        ("tests/judge/test_plugin.py::test_a_kept_case_is_run_first",),
    ),
)
