"""A standalone script in which a model, tiny and with random weights, decodes as an audit made it.

It needs the model's package. What an attention layer gives for one token is compared with and
without a cache; the yardstick is one forward without a cache in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.auditing.run import Audit
from harness.script.package import Package
from harness.script.text import indented, script

_DRAWN = """
def drawn(counts):
    # The ids of new tokens, 0 for padding.
    rows = []
    for tokens, count in zip(sequences, counts):
        new = [fresh.pop() for _ in range(count)]
        tokens += new
        padding = [0] * (max(counts) - count)
        rows.append({padded})
    return torch.tensor(rows)
"""
_WATCHED = """
def watched(model):
    # What the layer's attention gives, in each forward.
    seen = []

    def hook(module, arguments, out):
        seen.append((out[0] if isinstance(out, tuple) else out).clone())

    attention(model).register_forward_hook(hook)
    return seen
"""
_DECODED = """
@torch.no_grad()
def decoded(session):
    # The ids of the last forward.
    ids = drawn(PROMPTS)
    session.feed(ids)
    for step in STEPS:
        if step < 0:
            session.rollback(-step)
            for tokens in sequences:
                del tokens[step:]
        else:
            ids = drawn([step] * len(sequences))
            session.feed(ids)
    return ids
"""
_UNCACHED = """
@torch.no_grad()
def uncached(dtype):
    history = sequences[SEQUENCE]
{before}
    seen = watched(model)
    {run}
    return seen[-1][0][TOKEN]
"""
_RAISES = """
decoded(Session())
print("expected: no exception; got none")
"""
_COMPARED = """
session = Session()
seen = watched(session.model)
real = decoded(session)[SEQUENCE] != 0
got = seen[-1][SEQUENCE][real][TOKEN - len(sequences[SEQUENCE])]
exact, same = uncached(torch.float64), uncached(torch.{dtype})
off, rounding = (((x - exact).norm() / exact.norm()).item() for x in (got, same))
print(f"expected: about {{rounding:.2g}}, as in {dtype} without a cache")
print(f"got: {{off:.2g}}")
sys.exit(off > rounding**0.5)  # more than half of the digits are wrong
"""


def model_script(audit: Audit, package: Package, seed: int, *, compiled: bool) -> str:
    """A script that decodes up to the forward which an audit blames or which raises; it exits with
    1 while that raises, or while attention is off in more than half of its digits."""
    blame = audit.blame
    if blame is None:
        first = "Exit code 1 while decoding with a cache raises."
        what = [f"{audit.configuration}, {audit.scenario.name}, forward {audit.at}."]
    else:
        first = "Exit code 1 while a layer attends otherwise with a cache than without one."
        what = audit.headline()
    title = [first, "", *what, f"Needs torch and {package.needs}. Weights are random."]
    body = [*package.imports, "", *_body(audit, package, seed, compiled)]
    return script("\n".join(title), None, "cpu", body)


def _body(audit: Audit, package: Package, seed: int, compiled: bool) -> Iterator[str]:
    blame, scenario = audit.blame, audit.scenario
    if not compiled:
        yield 'torch.compiler.set_stance("force_eager")'
    if blame is not None:
        yield f"LAYER, SEQUENCE, TOKEN = {blame.layer}, {blame.sequence}, {blame.token}"
    yield f"PROMPTS = {list(scenario.prompts)}  # tokens of each sequence"
    yield f"STEPS = {list(scenario.steps[: audit.at])}  # tokens of each forward, or taken back"
    yield f"g = torch.Generator().manual_seed({seed})"
    yield f"fresh = (1 + torch.randperm({package.vocabulary - 1}, generator=g)).tolist()"
    yield "sequences = [[] for _ in PROMPTS]"
    padded = "padding + new" if scenario.padding == "left" else "new + padding"
    *before, run = package.forward
    functions = [*package.functions, _DRAWN.format(padded=padded), _DECODED]
    if blame is not None:
        functions += [_WATCHED, _UNCACHED.format(before="\n".join(indented(before)), run=run)]
    for function in functions:
        yield from ("", "", *function.strip("\n").splitlines())
    end = _RAISES if blame is None else _COMPARED.format(dtype=package.dtype)
    yield from ("", *end.splitlines())
