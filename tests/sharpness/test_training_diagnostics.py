"""Sharpness during training: when it is due, the same on one and two workers, counted, and fit for an objective."""

from __future__ import annotations

import pytest
import torch
from helpers.ranks import run_ranks
from pydantic import ValidationError

from samtune.config.diagnostics import DiagnosticsConfig
from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.train.trial import TrialRun


def spec(**training: object) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "data": {"name": "digits", "num_train": 300},
            "model": {"name": "mlp", "depth": 2, "width": 8},
            "method": {"name": "sam", "m": 32},
            "training": {"epochs": 3, "batch_size": 64, "lr": 0.05, **training},
        }
    )


def train(rank: int, num_ranks: int, diagnostics: dict[str, object] | None, **more: object) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    run = TrialRun(spec(diagnostics=diagnostics, **more), rank=rank, num_workers=num_ranks, device=torch.device("cpu"))
    return [run.train_epoch(epoch) for epoch in (1, 2, 3)]


ASKED = {"lambda_max": "every 2 epochs", "m_sharpness": 1, "m": 16, "num_examples": 200}


def test_measures_come_when_due_and_change_nothing_else():
    plain, measured = train(0, 1, None), train(0, 1, ASKED)
    assert [sorted({"lambda_max", "m_sharpness"} & record.keys()) for record in measured] == [
        ["m_sharpness"],
        ["lambda_max", "m_sharpness"],
        ["lambda_max", "m_sharpness"],
    ]
    for a, b in zip(plain, measured, strict=True):
        assert a["train_loss"] == b["train_loss"]
        assert a["val_loss"] == b["val_loss"]
    assert all(0 < record["m_sharpness"] < 10 for record in measured)
    assert measured[-1]["lambda_max"] > 0
    # m_sharpness costs 4/3 passes over 12 groups of 16 of the 270 training examples
    share = 12 * 16 / 270
    assert measured[0]["num_passes"] - plain[0]["num_passes"] == pytest.approx(share * 4 / 3)
    extra = measured[1]["num_passes"] - plain[1]["num_passes"] - 2 * share * 4 / 3
    steps = extra / share / 3  # a step of Lanczos is 3 passes
    assert steps == pytest.approx(round(steps))
    assert 2 <= round(steps) <= 100


def test_two_workers_measure_what_one_does():
    one = train(0, 1, ASKED)
    first, second = run_ranks(2, train, ASKED)
    for a, b, c in zip(one, first, second, strict=True):
        for name in ("m_sharpness", "lambda_max", "num_passes"):
            assert b.get(name) == c.get(name)
            assert b.get(name) == (pytest.approx(a[name], rel=1e-2) if name in a else None)


def test_several_m():
    last = train(0, 1, {"m_sharpness": 3, "m": [4, 16], "num_examples": 200})[-1]
    assert last["m_sharpness"] == last["m_sharpness_4"] > last["m_sharpness_16"] > 0


def test_curvature_over_training():
    """Figure 3 (left) of Foret et al. and figure 2 of Tahmasebi et al.: eigenvalues, density, norms over the epochs."""
    asked = {"eigenvalues": 1, "spectrum": 3, "frobenius": "every 2 epochs", "num_probes": 20, "num_examples": 100}
    records = train(0, 1, asked)
    for record in records:
        assert record["lambda_ratio"] >= 1
    assert [sorted(key for key in record if key.startswith(("hessian", "spectrum"))) for record in records] == [
        [],
        ["hessian_frobenius", "hessian_trace"],
        ["hessian_frobenius", "hessian_trace"] + [f"spectrum_q{share}" for share in ("01", "10", "50", "90", "99")],
    ]
    last = records[-1]
    quantiles = [last[f"spectrum_q{share}"] for share in ("01", "10", "50", "90", "99")]
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] <= last["lambda_max"] * 1.01
    assert last["hessian_frobenius"] >= last["lambda_max"] * 0.9  # sqrt of the sum of squares, within its error


def test_two_workers_measure_the_curvature_that_one_does():
    asked = {"eigenvalues": 3, "frobenius": 3, "num_probes": 10, "num_examples": 100, "m": 4}
    one = train(0, 1, asked)[-1]
    first, second = (records[-1] for records in run_ranks(2, train, asked))
    for name in ("lambda_max", "lambda_ratio", "hessian_frobenius", "hessian_trace", "num_passes"):
        assert first[name] == second[name] == pytest.approx(one[name], rel=1e-2)


def test_averaged_weights_are_measured_where_they_are_evaluated():
    with_average = train(0, 1, ASKED, ema=0.9)[-1]
    assert with_average["lambda_max"] > 0
    assert with_average["lambda_max"] != pytest.approx(train(0, 1, ASKED)[-1]["lambda_max"], rel=1e-3)


def test_due():
    config = DiagnosticsConfig.model_validate({"lambda_max": "every 10 epochs", "m_sharpness": "every epoch"})
    assert config.due(9, 25) == ["m_sharpness"]
    assert config.due(20, 25) == config.due(25, 25) == ["lambda_max", "m_sharpness"]
    with pytest.raises(ValidationError, match="valid integer"):
        DiagnosticsConfig.model_validate({"lambda_max": "every now and then"})
    with pytest.raises(ValidationError, match="must not be less than m"):
        DiagnosticsConfig(num_examples=8, m=[16])


def test_sharpness_can_be_an_objective():
    space = SearchSpace.from_dict(
        {
            "name": "flat",
            "data": {"name": "digits"},
            "model": {"name": "mlp"},
            "method": {"name": "sam"},
            "training": {"epochs": 2, "diagnostics": {"lambda_max": 1}},
            "search": {"method.rho": {"log_uniform": [0.01, 0.5]}},
            "objective": [{"metric": "val_accuracy"}, {"metric": "lambda_max"}],
        }
    )
    assert [(o.metric, o.mode) for o in space.objectives] == [("val_accuracy", "max"), ("lambda_max", "min")]
    assert space.trial({"method.rho": 0.1}).training.diagnostics.lambda_max == 1
