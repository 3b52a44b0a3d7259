"""The kinds of score_mods: what happens to q . k * scale before the softmax.

An entry holds all that is known of a kind, and its computation only as the text of standalone
scripts. The computation is stated again for the oracle (``harness.oracle.golden``), for the dense
model behind the faults (``harness.faults.model``) and for FlexAttention and SDPA
(``harness.paths.masks``); these statements share no code, so that a mistake in one shows as a
disagreement with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.case.kinds import Argument, Kind, by_name

if TYPE_CHECKING:
    from torch import Tensor

Normal = Callable[..., "Tensor"]


@dataclass(frozen=True)
class Parameter:
    """A float32 tensor ``[Hq, ...]`` that a kind of score_mod needs.

    ``name`` is its name among the inputs, and the keyword under which a user's function that
    declares the kind's feature gets it. ``make(heads, arguments, normal)`` draws the tensor;
    ``script`` is the text that does so in a standalone script, where it is called ``short``."""

    name: str
    short: str
    make: Callable[[int, Mapping[str, int], Normal], Tensor]
    script: str


@dataclass(frozen=True, kw_only=True)
class ScoreKind(Kind):
    """A kind of score_mod.

    ``script`` is the new score as text of a standalone script, over ``s``, ``b``, ``h``, ``q``,
    ``kv``, ``pos`` and the arguments by name. For the budget, ``size`` is the text of the absolute
    intermediate value, and ``constant`` gives that value where it depends on the arguments alone.
    An ``additive`` kind adds a bias, which an SDPA mask can express. A ``column`` leaves the scores
    as they are: its parameter ``[Hq]`` is a logit that takes part in the softmax beside the slots'
    scores and has no value.
    """

    script: str = ""
    size: str = ""
    constant: Callable[[Mapping[str, int]], int] = lambda arguments: 0
    additive: bool = True
    column: bool = False
    parameter: Parameter | None = None


def _slopes(heads: int, arguments: Mapping[str, int], normal: Normal) -> Tensor:
    # The slopes of Press et al. 2021, "Train Short, Test Long": a geometric sequence over heads.
    count = normal(0).new_ones(heads).cumsum(0)
    return 2.0 ** (-8 * (count / heads))


def _bias(heads: int, arguments: Mapping[str, int], normal: Normal) -> Tensor:
    return normal(heads, arguments["bias"])


def _sink(heads: int, arguments: Mapping[str, int], normal: Normal) -> Tensor:
    return normal(heads) * 2


SCORES: dict[str, ScoreKind] = by_name(
    ScoreKind(
        name="softcap",
        help="C * tanh(s / C)",
        arguments={
            "softcap": Argument(
                "C",
                listed=True,
                likely=lambda block: (1, 5, 20, 50),
                lowers=False,
                option="softcap",
                as_float=True,
            )
        },
        feature="softcap",
        asks="option softcap=c, s = c * tanh(s / c)",
        script="{softcap} * torch.tanh(s / {softcap})",
        constant=lambda arguments: 4 * arguments["softcap"],
        additive=False,
    ),
    ScoreKind(
        name="alibi",
        help="minus a slope of the head times the distance",
        arguments={},
        feature="alibi",
        asks="option alibi_slopes, float32 [Hq]",
        script="s - slopes[h].to(s.dtype) * (pos[b] + q - kv)",
        size="(slopes.double()[h] * (pos[b] + q - kv)).abs()",
        parameter=Parameter(
            "alibi_slopes", "slopes", _slopes, "2.0 ** (-8 * (torch.arange(1, HQ + 1) / HQ))"
        ),
    ),
    ScoreKind(
        name="bias",
        help="a relative bias of the head, R entries, the last for all farther",
        arguments={"bias": Argument("R", most=64, likely=lambda block: (1, 2, 64))},
        script="s + table[h, (pos[b] + q - kv).clamp(0, {bias} - 1)]",
        size="table[h, (pos[b] + q - kv).clamp(0, {bias} - 1)].abs()",
        parameter=Parameter("bias_table", "table", _bias, "torch.randn(HQ, {bias}, generator=g)"),
    ),
    ScoreKind(
        name="shift",
        help="plus a constant",
        arguments={
            "shift": Argument(
                "X",
                low=-1000,
                high=1000,
                listed=True,
                likely=lambda block: (0, -1, -30, -95, -100, -300),
                lowers=False,
            )
        },
        script="s + {shift}",
        constant=lambda arguments: abs(arguments["shift"]),
    ),
    ScoreKind(
        name="sink",
        help="a learned logit of the head in the softmax, without a value (GPT-OSS)",
        arguments={},
        feature="sink",
        asks="option sink_logits, float32 [Hq]: a logit in the softmax without a value",
        additive=False,
        column=True,
        parameter=Parameter("sink_logits", "sink", _sink, "torch.randn(HQ, generator=g) * 2"),
    ),
)
