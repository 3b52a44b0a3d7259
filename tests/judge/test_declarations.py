"""What a user's function declares: by its attributes, by options, and what is made of it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import cli
from harness.case import DTYPES, DecodeCase
from harness.case.domain import CACHE_LEN, Domain, DomainError
from harness.case.features import FEATURES, features_of
from harness.case.precision import Precision
from harness.function.declarations import Declarations, hints
from harness.function.item import Single
from harness.function.run import LocalRunner
from harness.function.search import repro_command
from harness.function.spec import TargetSpec
from harness.function.testing import assert_decodes
from harness.strategies.drawing import domain_cases
from harness.strategies.functions import decode_cases
from harness.verdict import Verdict
from tests.support import TARGETS
from tests.support.command import check, command
from tests.support.targets import sound

pytestmark = pytest.mark.usefixtures("one_thread")


def declaring(**attributes: Any) -> Any:
    def decode(q: Tensor, k: Tensor, v: Tensor, p: Tensor, **options: Any) -> Tensor:
        return sound(q, k, v, p, **options)

    for name, value in attributes.items():
        setattr(decode, name, value)
    return decode


def test_dtypes_have_long_and_short_names_everywhere() -> None:
    """In a function's attributes, in precision, and where cases are drawn; torch's own too."""
    long = Declarations(dtypes=("float16", "float32"), precision={"score": "bfloat16"})
    short = Declarations(dtypes=("fp32", "fp16"), precision={"score": "bf16"})
    assert (
        long
        == short
        == Declarations.of(
            declaring(dtypes={"fp16", torch.float32}, precision={"score": torch.bfloat16})
        )
    )
    assert Precision(accumulator="fp64", operand="fp16") == Precision(
        "float16", accumulator="float64"
    )
    assert repr(decode_cases(dtype="bf16")) == repr(decode_cases(dtype="bfloat16"))


def test_precision_may_differ_by_dtype_of_the_inputs() -> None:
    """What stands beside the dtypes is for all of them."""
    declared = Declarations(precision={"weight": "fp32", "bf16": {"score": "bf16"}})
    assert declared.precisions() == {
        "float32": Precision(weight="float32"),
        "bfloat16": Precision(weight="float32", score="bfloat16"),
        "float16": Precision(weight="float32"),
    }
    assert Declarations().precisions() == dict.fromkeys(DTYPES, Precision())


BOTH = ("--precision", "weight=fp32,bf16.score=bf16,fp16.score=fp16")


def test_a_case_is_judged_by_the_precision_of_its_dtype() -> None:
    """Scores rounded in bfloat16 are WRONG where float16 alone declares it."""
    case = DecodeCase.from_text("S=40,pos=30,D=64,dtype=bf16,logits=x5")
    verdicts = {}
    for dtype in ("fp16", "bf16"):
        declared = Declarations(precision={dtype: {"score": "bf16"}})
        runner = LocalRunner(TargetSpec(f"{TARGETS}:rounds_scores", declared=declared))
        assert runner.facts.precisions["bfloat16"] == declared.precisions()["bfloat16"]
        verdicts[dtype] = runner.run(case).verdict
    assert verdicts == {"fp16": Verdict.WRONG, "bf16": Verdict.OK}


def test_options_replace_attributes_one_by_one() -> None:
    """What is not given stays as it was."""
    mine = declaring(supports={"gqa"}, dtypes={"bf16"}, head_dims={64, 16})
    both = Declarations.of(mine, Declarations(dtypes=("fp16",), requires=("window",)))
    assert both == Declarations(("gqa",), ("window",), ("float16",), (16, 64))
    assert both.domain() == Domain(
        ("gqa", "window"), (16, 64), CACHE_LEN, ("float16",), ("window",)
    )


def test_the_repro_declares_as_much(tmp_path: Path) -> None:
    """Its words, read again, give the same declarations, as far as the case needs them."""
    file = tmp_path / "a.json"
    options = ("--supports", "gqa", "--requires", "ragged", "--dtypes", "bf16,fp16")
    options += ("--head-dims", "24,32", *BOTH, "--json", str(file))
    assert check("raises", *options) == cli.NOT_OK
    found = json.loads(file.read_text())
    case = DecodeCase.from_text(found["case"])
    assert case.dtype in ("bfloat16", "float16") and case.head_dim in (24, 32)
    words = found["repro"].split()[4:]
    assert command("check", *words, "--no-isolation") == cli.NOT_OK
    assert "--requires ragged" in found["repro"]
    assert "--precision weight=float32,bf16.score=bfloat16,fp16.score=float16" in found["repro"]
    plain = repro_command(TargetSpec("a.py:f"), Single(case))
    assert plain == f"python -m harness check a.py:f --case {case}"


@pytest.mark.rotates(6)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_drawn_case_has_what_is_required(feature: str) -> None:
    """And is in the domain; whether other features are offered or not, in few slots too."""
    for others, slots in (((), (1, 1024)), (tuple(FEATURES), (1, 3))):
        domain = Domain(others, cache_len=slots, requires=(feature,))
        cases = list(itertools.islice(domain_cases(domain, 0), 40))
        assert cases
        assert all(feature in features_of(case) for case in cases)
        assert {domain.refuses(case) for case in cases} == {None}


def test_required_features_combine() -> None:
    """Ragged chunks need slots for two positions."""
    domain = Domain(cache_len=(1, 4), requires=("chunk", "ragged", "gqa", "window"))
    for case in itertools.islice(domain_cases(domain, 0), 40):
        assert domain.refuses(case) is None


def test_shrinking_keeps_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    """The smallest case has the feature still."""
    assert check("raises", "--requires", "ragged,gqa") == cli.NOT_OK
    case = DecodeCase.from_text(capsys.readouterr().out.split("case ")[1].split()[0])
    assert features_of(case) == ("gqa", "ragged")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"supports": "gqa"}, "supports: 'gqa' is not a set of names"),
        ({"supports": {"paged"}}, "supports: 'paged' is not one of gqa ragged"),
        ({"requires": {"paged"}}, "requires: 'paged' is not one of gqa ragged"),
        ({"requires": 3}, "requires: 3 is not a set of names"),
        ({"dtypes": "bf16"}, "dtypes: 'bf16' is not a set of names"),
        ({"dtypes": {"int8"}}, "dtypes: 'int8' is not one of float32 bfloat16 float16"),
        ({"dtypes": ()}, "dtypes: needs at least one of float32"),
        ({"head_dims": 64}, "head_dims: 64 is not a set of whole numbers"),
        ({"head_dims": {"64"}}, "head_dims: '64' is not a whole number in 1 to 1024"),
        ({"head_dims": [True]}, "head_dims: True is not a whole number in 1 to 1024"),
        ({"precision": ["score"]}, "precision: ['score'] is not a dict of operand score"),
        ({"precision": {"scores": "bf16"}}, "precision: 'scores' is not one of operand score"),
        ({"precision": {"score": "int8"}}, "precision score: 'int8' is not one of float64"),
        ({"precision": {"score": None}}, "None, which is no dtype"),
        ({"precision": {"bf16": "bf16"}}, "precision bfloat16: 'bf16' is not a dict of operand"),
        ({"precision": {"bf16": {"x": "bf16"}}}, "precision bfloat16: 'x' is not one of operand"),
    ],
)
def test_a_wrong_declaration_names_the_field_and_what_is_allowed(
    given: dict[str, Any], message: str
) -> None:
    """As an attribute of a function, from wherever it is read."""
    with pytest.raises(DomainError) as caught:
        Declarations.of(declaring(**given))
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="^" + next(iter(given))):
        assert_decodes(declaring(**given), DecodeCase.from_text("S=4,pos=1,D=16"))


def test_required_features_that_exclude_each_other_are_refused() -> None:
    """A case has one mask; two positions need two slots."""
    with pytest.raises(DomainError, match="window and prefix, but a case has one mask"):
        Domain(requires=("window", "prefix"))
    with pytest.raises(DomainError, match="cache_len 1:1: requires needs 2 slots"):
        Domain(cache_len=(1, 1), requires=("ragged",))


def test_assert_decodes_leaves_out_what_is_not_declared() -> None:
    """Dtypes, head dims and required features; features of the case need no declaration."""
    case = DecodeCase.from_text("S=9,pos=3/4,D=16")
    wrong = declaring()
    assert_decodes(wrong, case)
    for left_out in ({"dtypes": {"bf16"}}, {"head_dims": {64}}, {"requires": {"window"}}):
        with pytest.raises(pytest.skip.Exception, match=r"is not in|lacks window"):
            assert_decodes(declaring(**left_out), case)
    assert_decodes(declaring(dtypes={"fp32"}, head_dims={16}, requires={"ragged"}), case)


def test_a_hint_is_given_where_a_declaration_seems_to_be_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A misspelt attribute, and an option of an undeclared feature; none where all is said."""
    file = tmp_path / "a.json"
    assert check("forgets_to_declare", "--max-examples", "3", "--json", str(file)) == cli.OK
    text = " ".join(capsys.readouterr().out.split())
    for hint in json.loads(file.read_text())["hints"]:
        assert hint in text
    assert "hint its attribute support is not read; did it mean supports?" in text
    assert "takes window, which only cases with the feature window have" in text
    assert "feature sinks" not in text
    assert hints(sound, tuple(FEATURES)) == ()
    assert LocalRunner(TargetSpec(f"{TARGETS}:sound")).facts.hints == ()
