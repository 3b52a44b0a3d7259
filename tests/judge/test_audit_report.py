"""A report of an audit says what it did not judge, and numbers that are not finite are errors."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import harness
from harness.auditing.model import Configuration
from harness.auditing.run import audit
from harness.auditing.scenario import Scenario
from harness.auditing.text import changes, render, to_json
from harness.support.strict_json import any_number, fields, parse, to_text, with_rows
from harness.verdict import Verdict
from tests.support.tiny_decoder import TinyModule, TinySession, tiny_configuration

TOKENS = Scenario("tokens", 24, (5,), (1,) * 3)


class Attends(nn.Module):
    """A layer of a decoder with a cache; ``by_hand`` in a way that no audit sees."""

    def __init__(self, by_hand: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 48)
        self.by_hand = by_hand
        self.kept = torch.zeros(2, 1, 2, 0, 8)
        self.attend = F.scaled_dot_product_attention

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states ``[1, n, 16]``."""
        query, *new = self.inner(x).view(1, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        self.kept = torch.cat([self.kept, torch.stack(new)], -2)
        key, value = self.kept
        rows, slots = query.size(2), key.size(2)
        mask = torch.ones(rows, slots).tril(slots - rows).bool()
        if self.by_hand:
            score = (query @ key.mT / math.sqrt(8)).masked_fill(~mask, -math.inf)
            attended = score.softmax(-1) @ value
        else:
            attended = self.attend(query, key, value, mask)
        return x + attended.transpose(1, 2).flatten(2)


class Recurrent(Attends):
    """A layer of another kind."""


class Block(nn.Module):
    """A layer as projects have them, with its attention as a part."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states ``[1, n, 16]``."""
        return self.attention(x)


class Hybrid(nn.Module):
    """Layers of which some cannot be seen."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(Block, layers))

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states ``[1, n, 16]``."""
        for layer in self.layers:
            x = layer(x)
        return x


def reported(model: nn.Module, forwards: int = 3) -> str:
    """The report of a prompt and single tokens, on one line."""
    torch.manual_seed(0)
    with harness.audit(model) as report, torch.no_grad():
        for rows in (4, *[1] * (forwards - 1)):
            model(torch.randn(1, rows, 16))
    return " ".join(str(report).split())


def test_layers_without_a_call_are_named_with_what_to_do() -> None:
    """OK is said of what was judged; how many of the layers and forwards that is stands there."""
    text = reported(Hybrid(Recurrent(True), Attends(), Recurrent(True), Recurrent(True)))
    assert text.startswith("OK of what was judged: 3 of 3 attention calls")
    assert "not judged: 3 of 4 layers of layers, 0, 2 to 3: no attention call" in text
    assert "in any of their 3 forwards; they consist of Recurrent" in text
    assert "like_sdpa" in text


def test_a_model_without_a_single_call_is_not_passed() -> None:
    """All of its layers are named; where there are none, the forwards are."""
    text = reported(Hybrid(Attends(True)))
    assert text.startswith("UNSUPPORTED 0 of 0 attention calls judged")
    assert "1 of 1 layers of layers, 0: no attention call was seen" in text
    text = reported(Attends(True))
    assert "not judged: forward 0 to 2: no attention call was seen" in text
    assert "written by hand" in text


def test_a_model_that_is_seen_in_full_is_ok_without_more_words() -> None:
    """A function of attention that a module has kept from before is watched too."""
    text = reported(Hybrid(Attends(), Attends()))
    assert text == (
        "OK 6 of 6 attention calls judged against their own masks, 6 of their masks by the slots"
        " that were written"
    )


def test_masks_that_nothing_can_be_held_against_are_not_judged() -> None:
    """Those of an encoder, whose queries see all keys, are neither accused nor passed."""

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    with harness.audit(model := Encoder()) as report:
        model(torch.randn(1, 2, 5, 8))
    text = " ".join(str(report).split())
    assert text.startswith("OK of what was judged: 1 of 1 attention calls")
    assert "0 of their masks by the slots that were written" in text
    assert "not judged: 1 of 1 masks" in text


def test_calls_outside_of_the_models_forwards_are_counted() -> None:
    """Another model ran than the one that was given."""
    with harness.audit(Attends()) as report:
        Attends()(torch.randn(1, 4, 16))
    assert report.verdict is Verdict.UNSUPPORTED
    assert "1 call of attention outside of the forwards of Attends" in str(report)


def test_an_audit_needs_no_model() -> None:
    """Then all calls are listed, and no mask is judged."""
    query = torch.randn(1, 2, 3, 8)
    with harness.audit() as report:
        F.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert (report.verdict, report.calls, report.judged) == (Verdict.OK, 1, 1)
    text = str(report)
    assert "not judged: whether the masks are right, 1 of 1" in text
    assert "rows 0 to 2: slots 0 to r" in text
    with pytest.raises(ValueError, match="every"), harness.audit(every=2):
        pass


@pytest.mark.compiles
@pytest.mark.parametrize("way", ["module", "in place"])
def test_a_compiled_model_is_judged(way: str) -> None:
    """Calls within code that is compiled in the audit are seen."""
    torch.compiler.reset()
    model = Hybrid(Attends())
    if way == "module":
        compiled = torch.compile(model)
    else:
        model.compile()
        compiled = model
    with harness.audit(compiled) as report, torch.no_grad():
        compiled(torch.randn(1, 4, 16))
    assert (report.verdict, report.judged) == (Verdict.OK, 1), str(report)


class Off(TinySession):
    """The tiny model, sound up to its logits; ``number`` takes the place of one of them."""

    number: float

    def feed(self, ids: Tensor, real: Tensor) -> Tensor:
        """Logits ``[B, n, vocabulary]``."""
        logits = super().feed(ids, real)
        logits[..., -1, 7] = self.number
        return logits


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_an_error(number: float) -> None:
    """It is infinitely far off, and its audit can be written as JSON and read back."""
    sound = tiny_configuration()

    def begin(batch: int, slots: int) -> Off:
        session = sound.begin(batch, slots)
        assert isinstance(session, TinySession)
        off = Off(session.model, batch, slots, "")
        off.number = number
        return off

    found = audit(Configuration("tiny", sound.vocabulary, begin, sound.uncached), TOKENS)
    assert (found.verdict, found.error, found.at) == (Verdict.NONFINITE, math.inf, 0)
    assert "a logit is NaN or infinite" in render([found], "")
    text = to_json([found], {})
    [entry] = json.loads(text, parse_constant=pytest.fail)["audits"]
    assert any_number(entry["logit_error"]) == math.inf
    assert list(changes(text, [found])) == ["0 of 1 audits came out otherwise than recorded"]


def test_a_part_of_the_vocabulary_that_is_hidden_in_both_is_no_error() -> None:
    """-inf is what such logits are."""
    sound = tiny_configuration()

    def uncached(tokens: Tensor) -> Tensor:
        logits = sound.uncached(tokens)
        logits[:, 7] = -math.inf
        return logits

    class Hiding(Off):
        def feed(self, ids: Tensor, real: Tensor) -> Tensor:
            logits = TinySession.feed(self, ids, real)
            logits[..., 7] = -math.inf
            return logits

    def hiding(batch: int, slots: int) -> TinySession:
        return Hiding(sound.begin(batch, slots).model, batch, slots, "")  # type: ignore[attr-defined]

    found = audit(Configuration("tiny", sound.vocabulary, hiding, uncached), TOKENS)
    assert found.verdict is Verdict.OK
    assert 0 < found.error < 1


def test_numbers_that_are_not_finite_have_one_spelling_that_is_read_back() -> None:
    """In any place of a document, on rows too; what is written is JSON to every reader."""
    numbers = [math.nan, math.inf, -math.inf, 0.5]
    document = {"a": numbers, "b": {"c": (math.inf,)}}
    for text in (to_text(document), with_rows({"d": math.nan}, "rows", [document])):
        json.loads(text, parse_constant=pytest.fail)
        read = parse(text)
        row = read["rows"][0] if "rows" in read else read
        assert list(map(repr, map(any_number, row["a"]))) == list(map(repr, numbers))
        assert fields(row["b"], {"c": lambda value: any_number(value[0])}) == {"c": math.inf}


def test_a_model_in_bfloat16_is_judged_within_its_own_rounding() -> None:
    """With gradients recorded, too."""
    model = Hybrid(Attends(), Attends()).bfloat16()
    for block in model.layers:
        block.attention.kept = block.attention.kept.bfloat16()
    with harness.audit(model) as report:
        model(torch.randn(1, 4, 16).bfloat16()).sum().backward()
    assert (report.verdict, report.judged) == (Verdict.OK, 2)


def test_a_watched_model_computes_what_it_does_unwatched() -> None:
    """To the bit, and nothing is left in the place of torch's functions."""
    ids = torch.randint(1, 500, (2, 7), generator=torch.Generator().manual_seed(0))
    original = F.scaled_dot_product_attention
    plain, model = TinyModule(""), TinyModule("")
    with harness.audit(model) as report:
        state = torch.get_rng_state()
        watched = model(ids)
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(watched, plain(ids))
    assert report.judged
    assert F.scaled_dot_product_attention is original
