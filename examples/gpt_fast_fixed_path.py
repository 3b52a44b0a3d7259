"""gpt-fast with the fixed path in place of its mask code, measured beside the original and audited.

``python examples/gpt_fast_fixed_path.py DIR [--slots 2048] [--tokens 100]``, where DIR is a
checkout of gpt-fast, of which no file is changed. Each row is a process of its own: the graphs that
were compiled, the seconds from making the masks to the first decoded token, the peak of memory in
that time beside the model and its caches, and the median milliseconds of a token after it.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from harness.auditing.gpt_fast import Checkout, CheckoutError
from harness.auditing.run import audit
from harness.auditing.scenario import SCENARIOS
from harness.decoding.attention import decode_attention, decode_block_mask

SIZES = dict(vocab_size=1024, n_layer=2, dim=512, n_head=8, n_local_heads=8, intermediate_size=512)
PROMPT = 16
ROWS = ("original eager", "fixed eager", "original compiled", "fixed compiled")


def use_fixed_path(checkout: Checkout) -> None:
    """Replace what docs/audit.md shows as a patch, in the imported modules alone."""
    model, generate = checkout.model, checkout.generate

    def forward(transformer: Any, x: Tensor, input_pos: Tensor) -> Tensor:
        position = input_pos[:1].expand(x.size(0))
        mask = decode_block_mask(position, q_len=x.size(1), cache_len=transformer.max_seq_length)
        mask.position = position  # handed on to the attention call below
        logits: Tensor = transformer(mask, x, input_pos)
        return logits

    def attention(q: Tensor, k: Tensor, v: Tensor, block_mask: Any, enable_gqa: bool) -> Tensor:
        if not hasattr(block_mask, "position"):  # the uncached forward of an audit
            return flex_attention(q, k, v, block_mask=block_mask, enable_gqa=enable_gqa)
        return decode_attention(q, k, v, block_mask.position, block_mask=block_mask)

    model.get_mask_mod = lambda mask_mod, offset: mask_mod  # positions are in the mask
    model.flex_attention = attention
    generate.model_forward = forward
    generate.prefill = lambda m, x, p, **how: generate.sample(forward(m, x, p), **how)[0]
    generate.decode_one_token = lambda m, x, p, _, **how: generate.sample(forward(m, x, p), **how)


def audited(checkout: Checkout) -> int:
    """Audit gpt-fast with the fixed path in every scenario; the number that is not right."""
    found = [audit(c, scenario) for c in checkout.configurations() for scenario in SCENARIOS]
    verdicts = [one.verdict for one in found]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    print(f"audited: {counts} in {sum(one.calls for one in found)} attention calls")
    return sum(not verdict.passes for verdict in verdicts)


def row(checkout: Checkout, name: str, slots: int, tokens: int) -> str:
    """A row of the table, measured in this process."""
    generate = checkout.generate
    if name.startswith("fixed"):
        use_fixed_path(checkout)
    step = generate.decode_one_token
    if name.endswith("compiled"):
        step = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    arguments = checkout.model.ModelArgs(block_size=slots, **SIZES)
    model = checkout.model.Transformer(arguments).to(torch.bfloat16).eval()
    model.setup_caches(max_batch_size=1, max_seq_length=slots)
    before, start = _peak(), time.perf_counter()
    square = None
    if name.startswith("original"):
        shape = (1, 1, model.max_seq_length, model.max_seq_length)
        # As gpt-fast compiles it, it raises on CPU: flexcpu-create-mask-padding in FINDINGS.md.
        generate.create_block_mask = create_block_mask
        square = create_block_mask(generate.causal_mask, *shape, device="cpu")
    prompt = torch.randint(SIZES["vocab_size"], (1, PROMPT))
    token = generate.prefill(model, prompt, torch.arange(PROMPT)).view(1, -1)
    spent: list[float] = []
    for position in range(PROMPT, PROMPT + 1 + tokens):
        at = torch.tensor([position])
        begun = time.perf_counter()
        token = step(model, token, at, square)[0].clone().view(1, -1)
        spent.append(time.perf_counter() - begun)
        if position == PROMPT:
            setup, peak = time.perf_counter() - start, _peak() - before
    graphs = counters["stats"]["unique_graphs"]
    each = 1e3 * statistics.median(spent[1:])
    return f"| {name} | {graphs} | {setup:.1f} s | {peak:.0f} MiB | {each:.2f} ms |"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> int:
    """0 where gpt-fast with the fixed path is right, 1 where not, 2 without a checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--slots", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--row", choices=ROWS, help="measure this one alone")
    arguments = parser.parse_args()
    try:
        checkout = Checkout.at(arguments.checkout)
    except CheckoutError as error:
        parser.error(f"checkout: {error}")
    if arguments.row:
        with torch.no_grad():
            print(row(checkout, arguments.row, arguments.slots, arguments.tokens), flush=True)
        return 0
    print(f"gpt-fast {checkout.commit}, torch {torch.__version__}, {arguments.slots} slots\n")
    print("| | graphs | set-up | peak beside | per token |\n|---|---|---|---|---|", flush=True)
    for name in ROWS:
        command = [sys.executable, *sys.argv, "--row", name]
        if code := subprocess.run(command, check=False).returncode:
            return code
    use_fixed_path(checkout)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return 1 if audited(checkout) else 0


if __name__ == "__main__":
    sys.exit(main())
