"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels that ship inside the library."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samtune.data.sources.base import DataSource, ImageArray, LabelArray, SplitName
from samtune.data.sources.traits import DIGITS

NUM_EXAMPLES = 1797
NUM_TEST = 359
"""There is no official test set: this 20%, stratified and the same in every release, is never shown to a search."""


class DigitsSource(DataSource):
    """Needs no file."""

    traits = DIGITS

    def check(self) -> None:
        """Nothing can be missing: scikit-learn is a dependency of samtune."""

    def num_examples(self, split: SplitName) -> int:
        return NUM_TEST if split == "test" else NUM_EXAMPLES - NUM_TEST

    def files(self, split: SplitName) -> Sequence[Path]:
        return ()

    def read(self, split: SplitName) -> tuple[ImageArray, LabelArray]:
        import torch

        from samtune.data.subset import split_rows

        table = read_table()
        labels = table[:, -1].astype(np.int64)
        test, train = split_rows(torch.from_numpy(labels), NUM_TEST, NUM_EXAMPLES)
        rows = (test if split == "test" else train).numpy()
        images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)  # 17 gray levels
        return np.ascontiguousarray(images[rows]), labels[rows]


def read_table() -> NDArray[np.float64]:
    """A row per digit: 64 gray levels from 0 to 16, and the label.

    Reads scikit-learn's file itself: to import scikit-learn takes 0.7 s of CPU on every worker, and the file 0.1 s.
    """
    package = find_spec("sklearn")
    assert package is not None  # a dependency
    assert package.submodule_search_locations
    return np.loadtxt(
        Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
