"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels that ship inside the library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
        from sklearn.datasets import load_digits

        from samtune.data.subset import split_rows

        digits = load_digits()
        labels = digits.target.astype(np.int64)
        test, train = split_rows(torch.from_numpy(labels), NUM_TEST, NUM_EXAMPLES)
        rows = (test if split == "test" else train).numpy()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]  # 17 grey levels
        return np.ascontiguousarray(images[rows]), labels[rows]
