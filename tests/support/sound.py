"""Sound decode paths that differ from each other in arithmetic alone, in every way that a correct
kernel may: none of them may ever be called wrong.

Each takes its mask and its score_mods from ``harness.faults.model`` and does products, softmax and
sums itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from harness.case.precision import Precision
from harness.faults.model import Attention, score_mods
from harness.inputs import Inputs
from harness.paths import Path
from harness.paths.calls import Call

Result = tuple[Tensor, Tensor]
# Largest score, sum of exp(score - largest), and the values weighted by that, of some slots.
Partial = tuple[Tensor, Tensor, Tensor]


def _masked(a: Attention, s: Tensor) -> Tensor:
    return s.masked_fill(~a.allowed, -math.inf)


def _products(a: Attention) -> Tensor:
    """Masked scores ``[B, H, Q, S]`` from a float32 matmul."""
    return _masked(a, score_mods(a, a.query @ a.key.mT * a.scale))


def _shift(highest: Tensor) -> Tensor:
    """The largest score where there is one, else 0: -inf - -inf is NaN."""
    return highest.masked_fill(highest == -math.inf, 0.0)


def _finish(highest: Tensor, total: Tensor, weighted: Tensor) -> Result:
    """Output and logsumexp from the sums over all slots; a row without slots is 0 and -inf."""
    output = weighted / total.masked_fill(total == 0, 1.0)
    return output, (_shift(highest) + total.log()).squeeze(-1)


def _partial(s: Tensor, value: Tensor) -> Partial:
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - _shift(highest))
    return highest, p.sum(-1, keepdim=True), p @ value


def naive(a: Attention) -> Result:
    """Softmax first, then the product with the values, all in float32."""
    s = _products(a)
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - _shift(highest))
    total = p.sum(-1, keepdim=True)
    weights = p / total.masked_fill(total == 0, 1.0)
    return weights @ a.value, (_shift(highest) + total.log()).squeeze(-1)


def split(edges: Callable[[int], list[int]]) -> Callable[[Attention], Result]:
    """Split-KV: each part of the slots by itself, merged by their largest scores.

    ``edges`` gives the parts' borders for a number of slots, 0 and that number included.
    """

    def run(a: Attention) -> Result:
        s, borders = _products(a), edges(a.case.cache_len)
        parts = [
            _partial(s[..., i:j], a.value[:, :, i:j])
            for i, j in itertools.pairwise(borders)
            if i < j
        ]
        highest = torch.stack([part[0] for part in parts]).amax(0)
        factors = [torch.exp(part[0] - _shift(highest)) for part in parts]
        total = sum(f * part[1] for f, part in zip(factors, parts, strict=True))
        weighted = sum(f * part[2] for f, part in zip(factors, parts, strict=True))
        assert isinstance(total, Tensor) and isinstance(weighted, Tensor)
        return _finish(highest, total, weighted)

    return run


def _even(parts: int) -> Callable[[int], list[int]]:
    return lambda slots: [slots * i // parts for i in range(parts + 1)]


def _uneven(slots: int) -> list[int]:
    """A part of one slot, then ever longer ones."""
    borders = [0]
    while borders[-1] < slots:
        borders.append(min(slots, 3 * borders[-1] + 1))
    return borders


def online(block: int) -> Callable[[Attention], Result]:
    """Online softmax: a running maximum, rescaling what was summed so far at every block."""

    def run(a: Attention) -> Result:
        s = _products(a)
        shape = s.shape[:3]
        highest = torch.full((*shape, 1), -math.inf)
        total, weighted = torch.zeros(*shape, 1), torch.zeros(*shape, a.value.size(-1))
        for start in range(0, a.case.cache_len, block):
            part, value = s[..., start : start + block], a.value[:, :, start : start + block]
            new = torch.maximum(highest, part.amax(-1, keepdim=True))
            rescale = torch.exp(highest - _shift(new))
            p = torch.exp(part - _shift(new))
            total = total * rescale + p.sum(-1, keepdim=True)
            weighted = weighted * rescale + p @ value
            highest = new
        return _finish(highest, total, weighted)

    return run


def in_numpy(a: Attention) -> Result:
    """Products by einsum and the softmax by NumPy, in float32."""
    query, key, value = (t.numpy() for t in (a.query, a.key, a.value))
    product = np.einsum("bhqd,bhsd->bhqs", query, key) * np.float32(a.scale)
    s = _masked(a, score_mods(a, torch.from_numpy(product))).numpy()
    highest = s.max(-1, keepdims=True)
    shift = np.where(np.isneginf(highest), np.float32(0), highest)
    p = np.exp(s - shift)
    total = p.sum(-1, keepdims=True)
    weights = p / np.where(total == 0, np.float32(1), total)
    with np.errstate(divide="ignore"):
        logsumexp = (shift + np.log(total))[..., 0]
    output = np.einsum("bhqs,bhsd->bhqd", weights, value)
    return torch.from_numpy(output), torch.from_numpy(logsumexp)


def _one_by_one(terms: Tensor, dim: int) -> Tensor:
    """The sum over ``dim``, from the last term to the first, each addition rounded to float32."""
    backwards = terms.flip(dim).numpy()
    return torch.from_numpy(np.add.accumulate(backwards, axis=dim)).select(dim, -1)


def _in_pairs(terms: Tensor, dim: int) -> Tensor:
    """The sum over ``dim`` as a binary tree."""
    terms = terms.movedim(dim, -1)
    while terms.size(-1) > 1:
        terms = torch.nn.functional.pad(terms, (0, terms.size(-1) % 2))
        terms = terms[..., 0::2] + terms[..., 1::2]
    return terms.squeeze(-1)


def ordered(add: Callable[[Tensor, int], Tensor]) -> Callable[[Attention], Result]:
    """Every sum, over head_dim and over slots, in one prescribed order."""

    def run(a: Attention) -> Result:
        rows = [(add(a.query[:, :, i, None] * a.key, -1) * a.scale) for i in range(a.query.size(2))]
        s = _masked(a, score_mods(a, torch.stack(rows, 2)))
        highest = s.amax(-1, keepdim=True)
        p = torch.exp(s - _shift(highest))
        weighted = [add(p[:, :, i, :, None] * a.value, -2) for i in range(p.size(2))]
        return _finish(highest, add(p, -1).unsqueeze(-1), torch.stack(weighted, 2))

    return run


def _weights_as(a: Attention, weights: Tensor) -> Tensor:
    return weights.to(a.inputs.query.dtype).float()


def rounded_weights(a: Attention) -> Result:
    """Normalised weights are rounded to the input dtype before the product with the values."""
    s = _products(a)
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - _shift(highest))
    total = p.sum(-1, keepdim=True)
    weights = _weights_as(a, p / total.masked_fill(total == 0, 1.0))
    return weights @ a.value, (_shift(highest) + total.log()).squeeze(-1)


def rounded_exponentials(a: Attention) -> Result:
    """As in flash kernels: exp(s - max) is rounded to the input dtype, its sum is not."""
    s = _products(a)
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - _shift(highest))
    return _finish(highest, p.sum(-1, keepdim=True), _weights_as(a, p) @ a.value)


def fast_exponentials(a: Attention) -> Result:
    """The same where, in a narrow dtype, exp is some units in the last place too small, as in SDPA
    on CPU: what is rounded to that dtype is right, the sum is not."""
    s = _products(a)
    highest = s.amax(-1, keepdim=True)
    off = 0.0 if a.inputs.query.dtype == torch.float32 else 3 * 2.0**-24
    p = torch.exp(s - _shift(highest)) * (1 - off)
    return _finish(highest, p.sum(-1, keepdim=True), _weights_as(a, p) @ a.value)


def to_tf32(x: Tensor) -> Tensor:
    """Round float32 to TF32's 10 explicit bits, to nearest, ties away from zero; a finite value
    stays finite."""
    bits = x.contiguous().view(torch.int32)
    nearest = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
    cut = (bits & ~0x1FFF).view(torch.float32)
    return torch.where(nearest.isfinite(), nearest, cut)


def tf32(*, normalised: bool) -> Callable[[Attention], Result]:
    """Both products take operands rounded to TF32, as tensor cores do with float32; the second
    one's are the weights, or the exponentials before they are normalised."""

    def run(a: Attention) -> Result:
        product = to_tf32(a.query) @ to_tf32(a.key).mT
        s = _masked(a, score_mods(a, product * a.scale))
        highest = s.amax(-1, keepdim=True)
        p = torch.exp(s - _shift(highest))
        total = p.sum(-1, keepdim=True)
        if normalised:
            p = p / total.masked_fill(total == 0, 1.0)
        weighted = to_tf32(p) @ to_tf32(a.value)
        output, logsumexp = _finish(highest, total, weighted)
        return weighted if normalised else output, logsumexp

    return run


def _bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def scaled_operands(a: Attention) -> Result:
    """Operands of both products are bfloat16, and the query is scaled in it before the first."""
    product = _bfloat16(_bfloat16(a.query) * a.scale) @ _bfloat16(a.key).mT
    s = _masked(a, score_mods(a, product))
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - _shift(highest))
    return _finish(highest, p.sum(-1, keepdim=True), _bfloat16(p) @ _bfloat16(a.value))


def _path(name: str, run: Callable[[Attention], Result], precision: Precision) -> Path:
    def function(inputs: Inputs) -> Result:
        output, logsumexp = run(Attention.of(inputs, torch.float32))
        logit = inputs.column()
        if logit is not None:
            # Applied to the finished sums, as kernels do that return a logsumexp; the dense model
            # has it in its softmax.
            output = output * torch.sigmoid(logsumexp - logit[:, None]).unsqueeze(-1)
            empty = logsumexp == -math.inf
            with_logit = torch.logaddexp(logsumexp, logit[:, None])
            logsumexp = torch.where(empty, logsumexp, with_logit)
        return output.to(inputs.query.dtype), logsumexp

    def prepare(inputs: Inputs) -> Call:
        return Call(function, {"inputs": inputs})

    return Path(name, run.__doc__ or name, prepare, precision=precision, flex=False, quantised=True)


# Weights stay float32 unless an implementation rounds them: its budget is to be the tight one.
_FLOAT32 = Precision(weight="float32")
# In the second product both operands are rounded, weights and values: each has to be declared.
_TF32 = Precision(operand="tf32")

SOUND: dict[str, Path] = {
    path.name: path
    for path in (
        _path("naive", naive, _FLOAT32),
        _path("split-2", split(_even(2)), _FLOAT32),
        _path("split-3", split(_even(3)), _FLOAT32),
        _path("split-8", split(_even(8)), _FLOAT32),
        _path("split-uneven", split(_uneven), _FLOAT32),
        _path("online-7", online(7), _FLOAT32),
        _path("online-33", online(33), _FLOAT32),
        _path("online-100", online(100), _FLOAT32),
        _path("numpy", in_numpy, _FLOAT32),
        _path("reversed", ordered(_one_by_one), _FLOAT32),
        _path("pairwise", ordered(_in_pairs), _FLOAT32),
        _path("rounded-weights", rounded_weights, Precision()),
        _path("rounded-exponentials", rounded_exponentials, Precision()),
        _path("fast-exponentials", fast_exponentials, Precision()),
        _path("tf32-weights", tf32(normalised=True), _TF32),
        _path("tf32-exponentials", tf32(normalised=False), _TF32),
        _path("scaled-operands", scaled_operands, Precision(operand="bfloat16")),
    )
}
