"""The history over versions of torch: what it says, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.figures.captions import caption
from harness.figures.results import Results, ResultsError, Shown, read_results
from harness.figures.values import history
from harness.ledger.entries import Ledger
from tests.support.entries import ENTRY, but

FINDINGS = (
    Shown("flex-old", "2.9.0", True),
    Shown("flex-old", "2.10.0", False),
    Shown("flex-new", "2.10.0", True),
    Shown("flex-new", "2.9.0", False),
)


def test_what_versions_of_torch_changed_is_told() -> None:
    """Findings that appear and go, in the order of the versions, beside shares of the budget."""
    figure = history(Results(Ledger({ENTRY.key: ENTRY}), findings=FINDINGS))
    assert figure.versions == ("2.9.0", "2.10.0", "2.13.0")
    assert figure.shares == (("fixed", "float32", (None, None, 0.2)),)
    assert figure.findings[0] == ("flex-old", (True, False, None))
    seen = caption(figure).seen
    assert "flex-old goes with 2.10.0." in seen and "flex-new appears with 2.10.0." in seen


def test_a_share_that_grows_beyond_the_ledgers_margin_is_told() -> None:
    """Of the hardware of which most versions were recorded."""
    entries = [
        but(torch="2.9.0"),
        but(torch="2.10.0", worst_utilisation=0.7),
        but(torch="2.10.0", hardware="other", worst_utilisation=0.9),
    ]
    ledger = Ledger({entry.key: entry for entry in entries})
    figure = history(Results(ledger))
    assert figure.shares == (("fixed", "float32", (0.2, 0.7)),)
    words = caption(figure)
    assert "fixed in float32 is between 0.2 and 0.7" in words.seen
    assert "No findings recorded" in words.seen
    assert caption(history(Results())).empty


@pytest.mark.parametrize(
    ("ledger", "findings", "said"),
    [
        (False, (), ["No tolerances recorded", "No findings recorded"]),
        (False, FINDINGS[:1], ["recorded with one version at most", "No tolerances recorded"]),
        (True, (), ["Each share is recorded with one version", "No findings recorded"]),
        (False, (*FINDINGS[:1], Shown("flex-old", "2.10.0", True)), ["No finding appears or goes"]),
    ],
)
def test_only_what_is_recorded_with_two_versions_is_compared(
    ledger: bool, findings: tuple[Shown, ...], said: list[str]
) -> None:
    """Where nothing, or one version, is recorded the page says so and claims nothing."""
    recorded = Results(Ledger({ENTRY.key: ENTRY}) if ledger else None, findings=findings)
    words = caption(history(recorded))
    assert all(text in words.seen for text in said)
    claims = ("No finding appears or goes.", "No share of the budget changes")
    claimed = [claim for claim in claims if claim in f"{words.seen} {words.alt}"]
    assert claimed == [claim for claim in claims if claim.strip(".") in said]


def test_recorded_findings_are_read_strictly(tmp_path: Path) -> None:
    """As ``versions --json`` writes them."""
    row = dict(script="flex-a", torch="2.13.0", shows=True, ended="1", says="")
    file = tmp_path / "findings.json"
    file.write_text(json.dumps({"versions": [row]}))
    assert read_results([file], tmp_path / "none").findings == (Shown("flex-a", "2.13.0", True),)
    file.write_text(json.dumps({"versions": [row | {"shows": "yes"}]}))
    with pytest.raises(ResultsError, match="shows: 'yes' is not true, false or null"):
        read_results([file], tmp_path / "none")
