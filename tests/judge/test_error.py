"""The measures of an error: each by hand, exactly."""

import math

import pytest
import torch

from harness.oracle.error import measure


def _row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_each_measure_is_what_it_is_called() -> None:
    """Of four elements: one at its bound, one beyond, two exact."""
    golden = _row(1, -2, 2, 4)
    error = measure(golden + _row(3, -4, 0, 0), golden, _row(3, 1, 1, 0))
    assert error.relative_l2 == 5 / 5
    assert (error.max_abs, error.mean_abs, error.signed_mean) == (4, 7 / 4, -1 / 4)
    assert (error.utilisation, error.index) == (4, (0, 0, 0, 1))
    assert (error.actual, error.golden, error.allowed) == (-6, -2, 1)
    assert (error.beyond, error.elements) == (1, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_element_is_beyond_any_bound_unless_golden_is_the_same(value: float) -> None:
    """However large the bound; NaN is no one's equal."""
    error = measure(_row(1, value), _row(1, 2), _row(1, 1e307))
    assert (error.beyond, error.index) == (1, (0, 0, 0, 1))
    assert error.utilisation == error.max_abs == error.relative_l2 == math.inf
    if not math.isnan(value):
        same = measure(_row(1, value), _row(1, value), _row(0, 0))
        assert (same.utilisation, same.beyond, same.relative_l2, same.max_abs) == (0, 0, 0, 0)


def test_an_error_where_golden_is_zero_has_no_ratio() -> None:
    """Infinite where there is a difference, 0 where there is none; so for a bound of 0."""
    assert measure(_row(0, 0), _row(0, 0), _row(0, 0)).relative_l2 == 0
    error = measure(_row(0, 1), _row(0, 0), _row(0, 0))
    assert (error.relative_l2, error.utilisation, error.beyond) == (math.inf, math.inf, 1)


def test_without_elements_there_is_no_error() -> None:
    """Nothing is beyond, nothing is shown."""
    error = measure(*(torch.empty(0, 2, 1, 4, dtype=torch.float64) for _ in range(3)))
    assert (error.relative_l2, error.max_abs, error.mean_abs, error.signed_mean) == (0, 0, 0, 0)
    assert (error.utilisation, error.index, error.beyond, error.elements) == (0, (), 0, 0)
    assert all(math.isnan(value) for value in (error.actual, error.golden, error.allowed))
