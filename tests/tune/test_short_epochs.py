"""Epochs that take a fraction of a second, of which a worker tells in batches: none is lost, however the trial ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from samtune import SearchSpace, TrialState, Tuner
from samtune.experiments.results import SearchFailedError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]

METRIC = """
calls = 0

def fifth_fails(outputs, targets):
    global calls
    calls += 1
    if calls % 5 == 0:
        raise ValueError("the fifth")
    return (outputs.argmax(dim=1) == targets).float().mean()
"""


SPACE = """
name: s
data: {name: digits, num_train: 100}
model: {name: digits_cnn}
method: {name: sam, rho: 0.05}
training: {epochs: 40, batch_size: 20, metrics: ["counting:fifth_fails"]}
resources: {num_workers: 1}
num_trials: 1
"""


def test_a_trial_that_fails_keeps_the_epochs_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counting.py").write_text(METRIC, encoding="utf-8")
    (tmp_path / "s.yaml").write_text(SPACE, encoding="utf-8")
    space = SearchSpace.from_yaml(tmp_path / "s.yaml")
    with pytest.raises(SearchFailedError, match="the fifth") as failed:
        Tuner(space, name="s", storage_path=tmp_path, address="local", check=False).fit()
    (trial,) = failed.value.results.study
    assert trial.state is TrialState.FAILED
    assert [record["epoch"] for record in trial.history] == [1, 2, 3, 4]
