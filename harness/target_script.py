"""A standalone script for a user's function and a case: stdlib, torch, and that function."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from harness.case import DecodeCase
from harness.environment import environment, one_line
from harness.script import INPUTS_END, LAYOUT_CODE, golden_lines, input_lines


def target_script(target: str, case: DecodeCase, device: str) -> str:
    """A script that calls the function on the case as ``check`` does, prints an error table and
    exits 1 while the result is off, changes with the slots that nobody attends, changes on a
    second call, or the function changes its inputs."""
    lines = [
        f'"""{target} against float64 attention.',
        "",
        f"Case: {case}",
        *textwrap.wrap(f"Written with {one_line(environment(device))}.", 88),
        "Exit code 1 while the function is wrong on this case, 0 otherwise.",
        '"""',
        "",
        "import importlib",
        "import math",
        "import sys",
        "",
        "import torch",
        "",
        *_import(target),
        "",
        *input_lines(case, device),
        "",
        INPUTS_END,
        *golden_lines(case),
        "",
        *_calls(case, device),
    ]
    text = "\n".join(lines) + "\n"
    if "F.pad" in text:
        text = text.replace("import torch\n", "import torch\nimport torch.nn.functional as F\n", 1)
    return text


def _import(target: str) -> Iterator[str]:
    place, _, name = target.rpartition(":")
    folder, module = "", place
    if place.endswith(".py"):
        folder, module = str(Path(place).parent), Path(place).stem
    yield f'sys.path.insert(0, "{folder}")'
    yield f'decode = importlib.import_module("{module}").{name}'


def _options(case: DecodeCase) -> str:
    name, numbers = case.mask_spec
    options = []
    if name == "window":
        options.append(f"window={numbers[0]}")
    scores = dict(case.score_specs)
    if "softcap" in scores:
        options.append(f"softcap={float(scores['softcap'][0])}")
    if "alibi" in scores:
        options.append("alibi_slopes=slopes.to(DEVICE)")
    if case.scale is not None:
        options.append("scale=SCALE")
    return ", ".join(options)


def _calls(case: DecodeCase, device: str) -> Iterator[str]:
    pack, view = LAYOUT_CODE.get(case.layout, ("x", "x"))
    yield f"options = dict({_options(case)})"
    yield ""
    yield ""
    yield "def call(*caches):"
    yield "    caches = (x.to(DEVICE, copy=True) for x in caches)"
    yield f"    given = [{pack} for x in caches]"
    yield "    given += [x.to(DEVICE, copy=True) for x in (query, pos)]"
    yield "    before = [x.clone() for x in given]"
    yield f"    k, v = ({view} for x in given[:2])"
    yield "    with torch.no_grad():"
    yield "        out = decode(given[2], k, v, given[3], **options)"
    yield "    pairs = [[x.view(torch.uint8) for x in pair] for pair in zip(before, given)]"
    yield "    return out.cpu().clone(), not all(torch.equal(*pair) for pair in pairs)"
    yield ""
    yield ""
    if case.mode != "eager":
        yield f"decode = torch.compile(decode, fullgraph=True, dynamic={case.dynamic})"
    everybody = ".any(0, keepdim=True)" if case.layout == "expanded" else ""
    yield f"attended = allowed.any(2).any(1)[:, None, :, None]{everybody}"
    yield "other = (torch.where(attended, x, torch.full_like(x, 2.0)) for x in (key, value))"
    yield "(out, mutated), (again, _), (leak, _) = call(key, value), call(key, value), call(*other)"
    yield 'print(f"shape {tuple(out.shape)}, {out.dtype}; should be {(B, HQ, Q, DV)}, {DTYPE}")'
    yield "error = (out.double() - golden).abs()"
    yield "used = torch.where(error == 0, 0.0, error / budget).nan_to_num(math.inf, math.inf)"
    yield "at = used.argmax()"
    yield 'print(f"worst: got {out.flatten()[at]:.6g}, should be {golden.flatten()[at]:.6g}")'
    yield 'print(f"largest error {error.max():.3g}, {used.max():.3g} rounding budgets")'
    yield "same = [torch.equal(out.nan_to_num(), x.nan_to_num()) for x in (again, leak)]"
    yield 'print(f"changed its inputs: {mutated}; same bits on a second call: {same[0]}")'
    yield 'print(f"same bits with other values in slots that nobody attends: {same[1]}")'
    yield "sys.exit(not (used.max() <= 1 and out.dtype == DTYPE and all(same) and not mutated))"
