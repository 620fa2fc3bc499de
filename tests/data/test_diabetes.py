"""scikit-learn's diabetes: its numbers are the library's, standardized, and the shipped space learns from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes

from samtune.config.data import DiabetesConfig
from samtune.config.space import SearchSpace
from samtune.data import check_dataset, dataset_info, load_dataset
from samtune.errors import UsageError
from samtune.train.trial import TrialRun


def test_the_numbers_are_scikit_learns() -> None:
    """Each measurement correlates perfectly with the library's: they differ by shift and scale alone."""
    config = DiabetesConfig(validation_fraction=0.0)
    data = load_dataset(config)
    test = data.load_test()
    assert (len(data.train), len(test), dataset_info(config).num_train) == (354, 88, 354)
    rows = {tuple(row) for row in torch.cat([data.train.images, test.images]).tolist()}
    assert len(rows) == 442  # no patient is in both
    seen = torch.cat([data.train.images, data.train.labels[:, None]], dim=1).double()
    assert torch.allclose(seen.mean(dim=0), torch.zeros(11, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(seen.std(dim=0, correction=0), torch.ones(11, dtype=torch.float64), atol=1e-6)
    ours = torch.cat([seen, torch.cat([test.images, test.labels[:, None]], dim=1).double()])
    bunch = load_diabetes(scaled=False)
    theirs = torch.cat([torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)[:, None]], dim=1)
    for column in range(11):
        pair = torch.stack([ours[:, column].sort().values, theirs[:, column].sort().values])
        assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(1.0, abs=1e-9)


def test_the_shipped_space_learns_a_regression() -> None:
    space = SearchSpace.from_yaml("diabetes.yaml")
    assert (space.objective.metric, space.objective.mode) == ("val_rmse", "min")
    run = TrialRun(space.trial(space.initial[1]), rank=0, num_workers=1, device=torch.device("cpu"))
    for epoch in range(1, run.spec.num_epochs + 1):
        record = run.train_epoch(epoch)
    assert record["val_r2"] > 0.3
    assert record["val_rmse"] < 0.9


@pytest.mark.parametrize("wrong", [{"label_noise": 0.1}, {"mixup": 0.2}, {"relabel": "net"}])
def test_what_needs_classes_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"needs targets that are classes .*diabetes has others"):
        check_dataset(DiabetesConfig(**wrong))
