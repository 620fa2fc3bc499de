"""scikit-learn's digits are read from its file, without scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from samtune.data.sources.digits import read_table


def test_it_is_what_scikit_learn_loads() -> None:
    expected, table = load_digits(), read_table()
    np.testing.assert_array_equal(table[:, :-1], expected.data)
    np.testing.assert_array_equal(table[:, -1], expected.target)
