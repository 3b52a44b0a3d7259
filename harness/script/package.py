"""How a standalone script uses the package of a model: its imports, its model, its cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.auditing import gpt_fast, transformers_models
from harness.auditing.run import Audit
from harness.script.text import bracketed, indented, quoted


@dataclass(frozen=True)
class Package:
    """What a script ``needs``, as words; the size of the ``vocabulary``; the ``dtype`` in which the
    model decodes; its ``imports``; its ``functions``, among them ``make(dtype, ...)``,
    ``attention(model)``, the module of the layer in question, and a class ``Session`` with
    ``model``, ``feed(ids)`` and ``rollback(count)``; and ``forward``, statements that make a
    ``model`` in ``dtype``, the last of which runs the tokens ``history`` through it without a
    cache."""

    needs: str
    vocabulary: int
    dtype: str
    imports: list[str]
    functions: list[str]
    forward: list[str]


_ENLARGED = """
    for parameter in model.parameters():
        parameter.data.mul_({factor} if parameter.dim() > 1 else 1)
    return model.to(dtype).eval()
"""
_TRANSFORMERS = """
def make(dtype, attention):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config(), attn_implementation=attention, dtype=torch.float32
    )
"""
_TRANSFORMERS_ATTENTION = """
def attention(model):
    return model.model.layers[LAYER].self_attn
"""
_TRANSFORMERS_SESSION = """
class Session:
    def __init__(self):
        self.model = make(torch.float32, {attention})
        self.cache = {cache}
        self.real = []

    def feed(self, ids):
        self.real.append(ids != 0)
        if len(self.real) == 2:
            self.cache.activate_past_recording()  # as in generate
        mask = torch.cat(self.real, 1).long()
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.size(1) :]
        given = dict(attention_mask=mask, {argument}=self.cache)
        {run}(ids, position_ids=position, **given)

    def rollback(self, count):
        self.cache.crop(-count)
        self.real = [torch.cat(self.real, 1)[:, :-count]]
"""


def transformers_package(audit: Audit, version: str, *, compiled: bool) -> Package:
    """The package of an audit of transformers, which is needed here as well."""
    name, cache, attention = audit.configuration.split("/")
    kind, arguments = transformers_models.stated(name)
    caches = {
        "dynamic": ("DynamicCache", "DynamicCache(config=config())"),
        "static": ("StaticCache", f"StaticCache(config(), max_cache_len={audit.scenario.slots})"),
    }
    imported, made = caches[cache]
    given = [f"{k}={quoted(v) if isinstance(v, str) else v}" for k, v in arguments.items()]
    config = bracketed(f"return {kind}(", given, ")")
    model = transformers_models.made(name, "eager", torch.float32)
    argument = transformers_models.cache_argument(model)
    run = "self.model"
    if compiled and cache == "static":
        run = "(self.model.get_compiled_call(None) if self.real[1:] else self.model)"
    session = _TRANSFORMERS_SESSION.format(
        attention=quoted(attention), cache=made, argument=argument, run=run
    )
    enlarged = _ENLARGED.format(factor=transformers_models.ENLARGED).lstrip("\n")
    return Package(
        needs=f"transformers {version}",
        vocabulary=transformers_models.VOCABULARY,
        dtype="float32",
        imports=[f"from transformers import AutoModelForCausalLM, {kind}, {imported}"],
        functions=[
            "\n".join(["def config():", *indented(config)]),
            _TRANSFORMERS + enlarged,
            _TRANSFORMERS_ATTENTION,
            session,
        ],
        forward=['model = make(dtype, "eager")', "model(torch.tensor([history]), use_cache=False)"],
    )


_GPT_FAST_ATTENTION = """
def attention(model):
    return model.layers[LAYER].attention
"""
_GPT_FAST_SESSION = """
class Session:
    def __init__(self):
        self.model, self.filled = make(torch.{dtype}), 0
        self.model.setup_caches(len(PROMPTS), {slots})
        n, causal = self.model.max_seq_length, generate.causal_mask
        self.mask = create_block_mask(causal, 1, 1, n, n, device="cpu"){compiled}

    def feed(self, ids):
        count, first = ids.size(1), self.filled == 0
        position = torch.arange(self.filled, self.filled + count)
        self.filled += count
        if first:
            generate.prefill(self.model, ids, position)
        elif count == 1:
            generate.decode_one_token(self.model, ids, position, self.mask)
        else:
            generate.model_forward(self.model, ids, position)

    def rollback(self, count):
        self.filled -= count
"""


_GPT_FAST_COMPILED = """
        # As in its main.
        how = dict(mode="reduce-overhead", fullgraph=True)
        for name in ("decode_one_token", "model_forward"):
            setattr(generate, name, torch.compile(getattr(generate, name), **how))"""


def gpt_fast_package(audit: Audit, commit: str, *, compiled: bool) -> Package:
    """The package of an audit of gpt-fast, whose checkout's folder the script is given."""
    arguments = gpt_fast.stated(audit.configuration.split("/")[1])
    sizes = [f"{name}={size}" for name, size in arguments.items()]
    make = [
        "torch.manual_seed(0)",
        *bracketed("sizes = dict(", sizes, ")"),
        "model = Transformer(ModelArgs(**sizes))",
    ]
    dtype = str(gpt_fast.dtype(compiled=compiled)).removeprefix("torch.")
    made = "\n".join(["def make(dtype):", *indented(make)])
    return Package(
        needs=f"a checkout of gpt-fast ({commit}), whose folder is the argument",
        vocabulary=gpt_fast.VOCABULARY,
        dtype=dtype,
        imports=[
            "sys.path.insert(0, sys.argv[1])",
            "# It imports tokenizers that are not needed here.",
            'sys.modules["tokenizer"] = types.ModuleType("tokenizer")',
            'sys.modules["tokenizer"].get_tokenizer = None',
            "import generate",
            "from model import ModelArgs, Transformer",
        ],
        functions=[
            made + _ENLARGED.format(factor=gpt_fast.ENLARGED),
            _GPT_FAST_ATTENTION,
            _GPT_FAST_SESSION.format(
                slots=audit.scenario.slots,
                dtype=dtype,
                compiled=_GPT_FAST_COMPILED if compiled else "",
            ),
        ],
        forward=[
            "model, n = make(dtype), len(history)",
            f"model.setup_caches(1, {gpt_fast.POSITIONS})",
            "for layer in model.layers:",
            "    layer.attention.kv_cache = None",
            'mask = create_block_mask(generate.causal_mask, 1, 1, n, n, device="cpu")',
            "model(mask, torch.tensor([history]), torch.arange(n))",
        ],
    )
