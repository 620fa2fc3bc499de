"""Real searches on a card, through real Ray: on a whole one, on a share of one, and by what a measurement says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from samtune import Callback, SearchSpace, Tuner
from samtune.study import Study, Trial, TrialState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.cluster,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("local_ray"),
]


def run(folder: Path, *settings: str, callbacks: tuple[Callback, ...] = ()) -> Study:
    """A search of four values of rho, in float32 on every device, so that its results can be compared."""
    space = SearchSpace.from_yaml(
        "digits.yaml",
        [
            *("search={method.rho: {grid: [0.02, 0.05, 0.1, 0.2]}}", "initial=[]", "sampler=grid", "num_trials=4"),
            *("method.m=16", "training.epochs=2", "training.precision=fp32", "training.tf32=false"),
            *settings,
        ],
    )
    name = f"gpu-{len(list(folder.iterdir()))}"
    return Tuner(space, name=name, storage_path=folder, callbacks=callbacks).fit(progress="none").study


def losses(study: Study) -> list[Any]:
    assert [trial.state for trial in study] == [TrialState.COMPLETED] * 4
    return [trial.history[-1]["val_loss"] for trial in sorted(study, key=lambda trial: trial.config["method.rho"])]


class AtOnce(Callback):
    """The most trials that ran at one time."""

    def __init__(self) -> None:
        self.most = 0

    def on_epoch(self, study: Study, trial: Trial, metrics: Any) -> None:
        self.most = max(self.most, study.count(TrialState.RUNNING))


def test_a_card_trains_to_what_a_cpu_does(tmp_path: Path) -> None:
    on_card = run(tmp_path, "resources={num_workers: 1}")
    assert on_card.plan["gpus_per_worker"] == 1
    on_cpu = run(tmp_path, "resources={num_workers: 1, gpus_per_worker: 0}")
    assert all(0 < trial.history[-1]["gpu_memory"] < 80 for trial in on_card)
    assert losses(on_card) == pytest.approx(losses(on_cpu), rel=1e-3)  # another order of summation in each product


def test_two_trials_on_one_card_have_the_results_of_one(tmp_path: Path) -> None:
    seen = AtOnce()
    shared = run(tmp_path, "resources={num_workers: 1, gpus_per_worker: 0.5}", callbacks=(seen,))
    alone = run(tmp_path, "resources={num_workers: 1}", "max_concurrent=1")
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-3)
    assert seen.most >= 2


def test_how_many_trials_share_a_card_is_measured(tmp_path: Path) -> None:
    study = run(tmp_path, "resources={num_workers: 1, gpus_per_worker: share}", "num_trials=4")
    losses(study)
    assert torch.cuda.get_device_name() in study.plan["card_sharing"]
    assert study.plan["gpus_per_worker"] in (1, 0.5, 0.25)


def test_what_auto_chooses_trains_too(tmp_path: Path) -> None:
    study = run(tmp_path, "resources={num_workers: 1}", "training.precision=auto", "training.tf32=auto")
    assert max(losses(study)) < 2.3  # log(10), of a network that knows nothing; NaN is not less
