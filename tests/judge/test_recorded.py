"""Results results are read strictly, and what is not there is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.figures.results import Catch, Kill, ResultsError, read_results
from harness.ledger.entries import Ledger, save
from tests.support.entries import ENTRY, LEDGER, but

CELL = {
    "fault": "no-query-offset",
    "number": 1,
    "kind": "output",
    "scope": "all",
    "dtype": "float32",
    "killed_by": "WRONG",
}
KILLS = {"schema": 1, "cells": [CELL]}
CATCH = {"rule": "a rule", "fault": "no-query-offset", "scope": "all", "caught": 2, "total": 3}
RULES = {"schema": 1, "rules": ["a rule"], "cells": [CATCH]}


def fixtures(folder: Path) -> Path:
    """All three files where they belong."""
    (folder / "tolerances").mkdir()
    save(LEDGER, folder / "tolerances" / "cpu.json")
    (folder / "kill-matrix.json").write_text(json.dumps(KILLS))
    (folder / "rivals.json").write_text(json.dumps(RULES))
    return folder


def test_all_three_are_read(tmp_path: Path) -> None:
    """Field by field."""
    recorded = read_results([], fixtures(tmp_path))
    assert recorded.ledger == LEDGER
    assert recorded.kills == (Kill(**CELL),)
    assert recorded.catches == (Catch(**CATCH),)


def test_the_record_is_the_worst_over_modes_and_kinds() -> None:
    """Of one torch version, and None where a path was never recorded."""
    more = but(mode="compiled", worst_utilisation=0.5), but(torch="2.11.0", worst_utilisation=0.9)
    ledger = Ledger({entry.key: entry for entry in (ENTRY, *more)})
    assert ledger.worst("fixed", "float32", "2.13.0") == 0.5
    assert ledger.worst("fixed", "float16", "2.13.0") is None


def test_nothing_recorded_is_none(tmp_path: Path) -> None:
    """Not an empty record."""
    recorded = read_results([], tmp_path)
    assert (recorded.ledger, recorded.kills, recorded.catches) == (None, None, None)


def test_a_named_file_stands_in_for_the_fixture(tmp_path: Path) -> None:
    """Recognised by what it holds, not by its name."""
    folder = fixtures(tmp_path)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(KILLS | {"cells": [CELL | {"killed_by": None}]}))
    recorded = read_results([other], folder)
    assert recorded.kills is not None and recorded.kills[0].killed_by is None
    assert recorded.ledger is not None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not JSON"),
        ([], "is not a JSON object"),
        ({"schema": 2, "cells": []}, "schema: 2 is not 1"),
        ({"schema": 1}, "neither entries nor cells nor versions"),
        ({"schema": 1, "cells": {}}, "cells: is not a list"),
        ({"schema": 1, "entries": []}, "case_list: missing"),
        (KILLS | {"cells": [CELL | {"kind": "x"}]}, "cells[0].kind: 'x' is not one of output"),
        (KILLS | {"cells": [CELL | {"killed_by": 1}]}, "cells[0].killed_by: 1"),
        (KILLS | {"cells": [CELL | {"number": True}]}, "cells[0].number: True"),
        (RULES | {"cells": [CATCH | {"caught": 4}]}, "cells[0].caught: 4 of 3"),
    ],
)
def test_a_malformed_file_is_named_with_the_field(
    document: Any, message: str, tmp_path: Path
) -> None:
    """Strict reading."""
    path = tmp_path / "a.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(ResultsError) as caught:
        read_results([path], tmp_path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_a_second_and_a_misplaced_file_are_refused(tmp_path: Path) -> None:
    """Each says which file."""
    folder = fixtures(tmp_path)
    ledger = folder / "tolerances" / "cpu.json"
    with pytest.raises(ResultsError, match="No such file"):
        read_results([tmp_path / "no.json"], folder)
    with pytest.raises(ResultsError, match="is a second ledger"):
        read_results([ledger, ledger], folder)
    (folder / "rivals.json").write_text(json.dumps(KILLS))
    with pytest.raises(ResultsError, match="holds kills, should hold catches"):
        read_results([], folder)
