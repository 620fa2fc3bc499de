"""scikit-learn's diabetes: 442 patients, ten measurements each, and a number to predict; ships inside the library."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samtune.config.data import DiabetesConfig
from samtune.data.sources.base import SplitName
from samtune.data.sources.examples import ExamplesSource, refuse_class_options
from samtune.data.sources.traits import Traits

if TYPE_CHECKING:
    from samtune.data.sources.own_split import OwnSplit

NUM_EXAMPLES = 442
NUM_TEST = 88
"""There is no official test set: this 20%, the same in every release, is never shown to a search."""
NUM_MEASUREMENTS = 10


class DiabetesSource(ExamplesSource):
    """Needs no file: scikit-learn is a dependency of samtune."""

    traits = Traits(1, (NUM_MEASUREMENTS,), classes=False)

    def __init__(self, config: DiabetesConfig) -> None:
        refuse_class_options(config, config.name)

    def num_examples(self, split: SplitName) -> int:
        return {"train": NUM_EXAMPLES - NUM_TEST, "test": NUM_TEST}.get(split, 0)

    @cached_property
    def splits(self) -> Mapping[SplitName, OwnSplit]:  # type: ignore[override]
        """Standardized by the mean and deviation of the training set, in double precision."""
        import torch

        from samtune.data.sources.own_split import OwnSplit
        from samtune.data.subset import split_rows

        table = read_table()
        test, train = split_rows(torch.zeros(NUM_EXAMPLES, dtype=torch.int64), NUM_TEST, NUM_EXAMPLES)
        seen = table[train.numpy()]
        numbers = torch.from_numpy((table - seen.mean(axis=0)) / seen.std(axis=0)).float()
        rows: dict[SplitName, torch.Tensor] = {"train": train, "test": test}
        return {name: OwnSplit((numbers[of, :-1], numbers[of, -1]), "diabetes") for name, of in rows.items()}


def read_table() -> NDArray[np.float64]:
    """A row per patient: ten measurements as they were taken, and the progression.

    Reads scikit-learn's files itself, which takes a tenth of the time that importing it does.
    """
    package = find_spec("sklearn")
    assert package is not None  # a dependency
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    measurements = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
    return np.column_stack([measurements, np.loadtxt(folder / "diabetes_target.csv.gz")])
