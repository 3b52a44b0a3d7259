"""Standalone scripts for a cache class and a program, which need torch and that class alone."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case.features import given_options
from harness.case.precision import Precision
from harness.case.program import Action, Program
from harness.case.tails import POISON
from harness.function.outcome import Outcome
from harness.function.spec import TargetSpec
from harness.script.endings import crash, returned
from harness.script.function_script import imported
from harness.script.oracle import budget_lines, golden_lines, intermediates, score_lines
from harness.script.text import bracketed, script
from harness.serving.contract import PAGE_SIZE, QUERY_LENS, Abilities
from harness.verdict import Verdict

# A script shows a verdict of these; others need the harness.
SHOWN = (
    Verdict.WRONG,
    Verdict.NONFINITE,
    Verdict.MUTATED,
    Verdict.ERROR,
    Verdict.CRASH,
    Verdict.TIMEOUT,
)


def program_script(
    spec: TargetSpec,
    program: Program,
    abilities: Abilities,
    outcome: Outcome,
    precision: Precision,
    *,
    nonfinite: bool = False,
    timeout: float = 30.0,
) -> str:
    """A script that takes the steps of the program and exits 1 while a row is off, an argument or
    an earlier output is changed, the class raises, or it does not return. ``nonfinite`` says that
    junk is NaN.

    Raises:
        ValueError: for a verdict that no script shows.
    """
    if outcome.verdict not in SHOWN:
        raise ValueError(f"no script shows {outcome.verdict}")
    title = f"Exit code 1 while {spec.target} is {outcome.verdict} on this program."
    body = _body(spec, program, abilities, outcome.verdict, precision, nonfinite, timeout)
    return script(title, program, spec.device, body)


def _body(
    spec: TargetSpec,
    program: Program,
    abilities: Abilities,
    verdict: Verdict,
    precision: Precision,
    nonfinite: bool,
    timeout: float,
) -> Iterator[str]:
    case = program.case
    if verdict is Verdict.CRASH:
        yield from crash()
    if verdict is Verdict.TIMEOUT:
        yield f"faulthandler.dump_traceback_later({timeout!r}, exit=True)  # with status 1"
    scale = "D**-0.5" if case.scale is None else repr(case.scale)
    sizes = (case.batch, case.heads, case.kv_heads, case.head_dim, case.value_dim)
    yield f"B, HQ, HKV, D, DV = {', '.join(map(str, sizes))}"
    yield f'DEVICE, DTYPE, SCALE = "{spec.device}", torch.{case.dtype}, {scale}'
    junk = "math.nan" if nonfinite else repr(POISON)
    yield f"JUNK = {junk}  # what padding and free slots hold"
    yield f"g = torch.Generator().manual_seed({case.seed})"
    yield "held = [([], []) for _ in range(B)]  # keys and values of each sequence's tokens"
    yield "bad, outputs = [], []"
    yield from imported(spec.target, "Cache")
    yield from _made(program, abilities)
    yield from _golden(program, spec.device, precision)
    yield from _decode(abilities, junk)
    for now, step in zip(program.lengths(), program.steps, strict=True):
        counted = step.word in ("admit", "decode", "rollback")
        yield from _step(step, now.tokens, now.counts(step) if counted else (), abilities)
    if verdict is Verdict.CRASH:
        yield returned()
    else:
        yield 'print("\\n".join(bad) or "all rows are right")'
        yield "sys.exit(bool(bad))"


def _made(program: Program, abilities: Abilities) -> Iterator[str]:
    given = {"batch_size": "B", "num_heads": "HQ", "num_kv_heads": "HKV"}
    given |= {"cache_len": str(program.case.cache_len), "head_dim": "D", "value_head_dim": "DV"}
    given |= {"dtype": "DTYPE", "device": "torch.device(DEVICE)"}
    optional = {"num_kv_heads", "value_head_dim"} - {*abilities.arguments}
    items = [f"{name}={value}" for name, value in given.items() if name not in optional]
    items += [f"{name}={value}" for name, value in given_options(program.case).items()]
    items += ["scale=SCALE"] if program.case.scale is not None else []
    items += [f"{PAGE_SIZE}={program.page_size}"] if program.page_size is not None else []
    yield from bracketed("cache = Cache(", items, ")")
    yield ""
    yield ""


def _golden(program: Program, device: str, precision: Precision) -> Iterator[str]:
    """The function ``golden(query, key, value)`` of one sequence, with the budget."""
    case = program.case.replace(input_pos=(0,))
    yield "def wanted(query, key, value):"
    body = [
        "# Float64, and what rounding can explain, for the last tokens of one sequence.",
        "B, Q, S = 1, query.size(2), key.size(2)",
        'b, h, q, kv = torch.meshgrid(*map(torch.arange, (B, HQ, Q, S)), indexing="ij")',
        "t = S - Q + q  # the query's position",
        f"allowed = {case.mask_kind.script.format(**case.mask_arguments)}",
        *golden_lines(case, score_lines(case)),
        *budget_lines(case, device, precision, intermediates(case)),
        "return golden, budget",
    ]
    yield from (f"    {line}" for line in body)
    yield ""
    yield ""


def _decode(abilities: Abilities, junk: str) -> Iterator[str]:
    """The function ``decode(counts)``: one call, and what is wrong with it."""
    keys = "query, key, value" if junk == "math.nan" else "query, value"
    lens = f", {QUERY_LENS}=counts.to(DEVICE, copy=True)" if abilities.ragged else ""
    yield from f"""def decode(*counts):
    width, counts = max(*counts, 1), torch.tensor(counts)
    shapes = (HQ, D), (HKV, D), (HKV, DV)
    query, key, value = (
        torch.randn(B, heads, width, n, generator=g).to(DTYPE) for heads, n in shapes
    )
    padding = (torch.arange(width) >= counts[:, None])[:, None, :, None]
    for x in ({keys}):
        x.masked_fill_(padding, JUNK)
    for b, n in enumerate(counts.tolist()):
        for rows, x in zip(held[b], (key, value)):
            rows.extend(x[b, :, i] for i in range(n))
    given = [x.to(DEVICE, copy=True) for x in (query, key, value)]""".splitlines()
    if "poison" in abilities.methods:
        yield "    cache.poison(JUNK)"
    yield from f"""    with torch.no_grad():
        out = cache.decode(*given{lens})
    for name, x, y in zip(("query", "key", "value"), given, (query, key, value)):
        if not torch.equal(x.cpu().nan_to_num(7), y.nan_to_num(7)):
            bad.append(f"call {{len(outputs) + 1}} changed its argument {{name}}")
    for number, (x, y) in enumerate(outputs, 1):
        if not torch.equal(x.nan_to_num(7), y.nan_to_num(7)):
            bad.append(f"the output of call {{number}} was changed later")
    outputs.append((out, out.clone()))
    for b, n in enumerate(counts.tolist()):
        if n:
            tokens = (torch.stack(rows, 1)[None] for rows in held[b])
            golden, budget = wanted(query[b : b + 1, :, :n], *tokens)
            error = (out[b : b + 1, :, :n].cpu() - golden).abs()
            used = (error / budget.clamp(min=1e-300)).nan_to_num(math.inf)
            if not (error <= budget).all():
                at = torch.unravel_index(used.argmax(), used.shape)
                bad.append(
                    f"call {{len(outputs)}}, sequence {{b}}, [h, i, d] {{[*map(int, at[1:])]}}:"
                    f" {{out[b : b + 1][at]:.6g}}, should be {{golden[at]:.6g}}"
                    f" ({{used[at]:.3g}} budgets)"
                )""".splitlines()
    if "contents" in abilities.methods:
        yield from """    for b, rows in enumerate(held):
        if rows[0]:
            for name, x, y in zip(("key", "value"), cache.contents(b), rows):
                if not torch.equal(x.cpu(), torch.stack(y, 1)):
                    bad.append(f"call {len(outputs)}: another {name} in sequence {b}")
""".splitlines()
    yield ""
    yield ""
    yield "def drop(b, kept):"
    yield "    for rows in held[b]:"
    yield "        del rows[kept:]"
    yield ""
    yield ""


def _step(
    step: Action, tokens: tuple[int | None, ...], counts: tuple[int, ...], abilities: Abilities
) -> Iterator[str]:
    numbers = step.numbers
    match step.word:
        case "admit":
            if tokens[numbers[0]] != 0:
                yield f"cache.reset([{numbers[0]}])"
                yield f"drop({numbers[0]}, 0)"
            yield f"decode({', '.join(map(str, counts))})"
        case "decode":
            yield f"decode({', '.join(map(str, counts))})"
        case "rollback":
            back = f"torch.tensor({[*counts]}, device=DEVICE)" if abilities.ragged else counts[0]
            yield f"cache.rollback({back})"
            for b, count in enumerate(counts):
                if count:
                    yield f"drop({b}, {(tokens[b] or 0) - count})"
        case "reset" | "release":
            yield f"cache.{step.word}([{numbers[0]}])"
            yield f"drop({numbers[0]}, 0)"
        case "fork":
            yield f"cache.fork({numbers[0]}, {numbers[1]})"
            yield f"held[{numbers[1]}] = tuple(list(rows) for rows in held[{numbers[0]}])"
        case "grow":
            yield f"cache.grow({numbers[0]})"
