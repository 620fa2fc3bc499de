"""Who is confirmed, against what, with which seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.candidates import CandidateList, add_baseline, candidates_of, distinguish, list_candidates
from samtune.experiments.confirm_source import find_source
from samtune.experiments.confirmation import confirmation_of, table
from samtune.experiments.fixed_trials import CandidateRun
from samtune.study import EpochLog, Objective, Scalar, Study, Trial, TrialState

SPACE: dict[str, Any] = {
    "name": "digits",
    "data": {"name": "digits"},
    "model": {"name": "digits_cnn"},
    "method": {"name": "sam"},
    "training": {"epochs": 4, "schedule": "multi_step", "milestones": [2, 3]},
    "search": {"method.rho": {"uniform": [0.01, 0.5]}, "training.lr": {"uniform": [0.01, 0.5]}},
    "seed": 7,
}


SGD = {"training.lr": 0.1, "training.weight_decay": 5e-4}


def _study(space: SearchSpace, *results: tuple[dict[str, Scalar], float]) -> Study:
    study = Study(
        name="s",
        objectives=(Objective(),),
        num_trials=len(results),
        space_yaml=space.to_yaml(),
        plan={},
        storage_path="/nowhere/s",
        tracking_uri="",
        experiment="",
        command="",
        versions={},
    )
    for number, (config, value) in enumerate(results):
        history = [{"epoch": 1.0, "val_accuracy": value}]
        spec = space.trial(config)
        study.trials.append(Trial(number, f"t{number}", config, spec.params(), 4, TrialState.COMPLETED, history))
    return study


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.from_dict(SPACE)


@pytest.fixture
def study(space: SearchSpace) -> Study:
    configs: list[tuple[dict[str, Scalar], float]] = [
        ({"method.rho": 0.05, "training.lr": 0.1}, 0.91),
        ({"method.rho": 0.1, "training.lr": 0.2}, 0.95),
        ({"method.rho": 0.2, "training.lr": 0.3}, 0.93),
    ]
    return _study(space, *configs)


def _listed(study: Study, space: SearchSpace, top: int = 2, replicas: int = 3) -> CandidateList:
    chosen = candidates_of(study, space, top)
    return list_candidates(space, chosen, replicas=replicas, baselines=add_baseline(chosen, study, space))


def test_a_trial_that_is_its_own_baseline_is_trained_once() -> None:
    """The search says 40 passes, the baseline 40 epochs: for SGD the same training."""
    methods = {"choice": [{"name": "sgd"}, {"name": "sam", "rho": {"uniform": [0.01, 0.5]}}]}
    space = SearchSpace.from_dict({**SPACE, "method": methods, "training": {"passes": 40}, "search": {}})
    sgd: dict[str, Scalar] = {"method.name": "sgd"}
    sam: dict[str, Scalar] = {"method.name": "sam", "method.rho": 0.05}
    found = _study(space, (sgd, 0.95), (sam, 0.91))
    chosen = candidates_of(found, space, 2)
    assert add_baseline(chosen, found, space) == ["trial 0 (sgd)"]
    assert list(chosen) == ["trial 0 (sgd)", "trial 1 (sam)"]
    best_is_sam = _study(space, (sgd, 0.91), (sam, 0.95))
    chosen = candidates_of(best_is_sam, space, 2)
    assert add_baseline(chosen, best_is_sam, space) == ["sgd (20 epochs)", "trial 0 (sgd)"]


def test_candidates_of_one_method_are_labelled_by_what_differs_between_them() -> None:
    methods = {"choice": [{"name": "sam", "rho": {"uniform": [0.01, 0.5]}}, {"name": "asam"}]}
    space = SearchSpace.from_dict(
        {
            **SPACE,
            "method": methods,
            "search": {"training.lr": {"choice": [0.1, 0.2]}, "training.momentum": {"choice": [0.9]}},
        }
    )
    sam: dict[str, Scalar] = {"method.name": "sam", "training.lr": 0.1, "training.momentum": 0.9}
    found = _study(
        space,
        ({**sam, "method.rho": 0.05}, 0.95),
        ({**sam, "method.rho": 0.1, "training.lr": 0.2}, 0.94),
        ({"method.name": "asam", "training.lr": 0.1, "training.momentum": 0.9}, 0.93),
    )
    chosen = candidates_of(found, space, 3)
    labelled = distinguish(chosen)
    assert list(labelled) == ["trial 0 (sam rho=0.05 lr=0.1)", "trial 1 (sam rho=0.1 lr=0.2)", "trial 2 (asam)"]
    assert list(labelled.values()) == list(chosen.values())
    assert list(distinguish(candidates_of(found, space, 1))) == ["trial 0 (sam)"]


def test_a_confirmation_that_began_with_other_labels_goes_on_with_them(study: Study, space: SearchSpace) -> None:
    chosen = candidates_of(study, space, 2)
    before = list_candidates(space, chosen, replicas=2, baselines=["trial 2 (sam)"], chosen_baselines=["trial 2 (sam)"])
    named = distinguish(chosen)
    label = list(named)[1]
    now = list_candidates(space, named, replicas=2, baselines=[label], chosen_baselines=[label])
    assert label == "trial 2 (sam rho=0.2 lr=0.3)"
    assert now != before
    assert now.labelled_as(before) == before
    other = list_candidates(space, candidates_of(study, space, 1), replicas=2, baselines=[])
    assert other.labelled_as(before) is other


def test_the_best_are_trained_on_everything_and_tested(study: Study, space: SearchSpace) -> None:
    listed = _listed(study, space)
    assert list(listed.candidates) == ["trial 1 (sam)", "trial 2 (sam)", "sgd (4 epochs)", "sgd (8 epochs)"]
    assert listed.searched["trial 1 (sam)"] == 0.95
    for spec in listed.candidates.values():
        assert spec.final
        assert spec.data.validation_fraction == 0
    assert listed.objective.metric == "test_accuracy"


def test_the_baseline_has_the_same_settings_and_equal_passes(study: Study, space: SearchSpace) -> None:
    candidates = _listed(study, space).candidates
    sam, sgd = candidates["trial 1 (sam)"], candidates["sgd (8 epochs)"]
    assert sgd.num_passes == sam.num_passes == 8
    assert sgd.training.lr == sam.training.lr == 0.2
    assert sgd.training.milestones == [4, 6]  # the schedule is stretched


def test_a_search_that_had_sgd_gives_its_best_as_baseline() -> None:
    search = {"method.name": {"choice": ["sam", "sgd"]}, "training.lr": {"uniform": [0.01, 0.5]}}
    space = SearchSpace.from_dict({**SPACE, "search": search})
    study = _study(
        space,
        ({"method.name": "sam", "training.lr": 0.1}, 0.95),
        ({"method.name": "sgd", "training.lr": 0.3}, 0.94),
        ({"method.name": "sgd", "training.lr": 0.4}, 0.92),
    )
    listed = _listed(study, space, top=1)
    assert listed.candidates["sgd (8 epochs)"].training.lr == 0.3
    assert listed.searched["sgd (4 epochs)"] == 0.94
    assert listed.searched["sgd (8 epochs)"] is None  # never measured at that length
    # Among the candidates themselves, it is not trained twice.
    both = _listed(study, space, top=2)
    assert both.baselines == ["trial 1 (sgd)", "sgd (8 epochs)"]
    assert len(both.candidates) == 3


def test_replicas_have_seeds_that_the_search_had_not_and_share_them(study: Study, space: SearchSpace) -> None:
    listed = _listed(study, space)
    seeds = {
        label: [listed.trial({"replica": r, "candidate": label}).seed for r in range(3)] for label in listed.candidates
    }
    assert set(map(tuple, seeds.values())) == {(8, 9, 10)}


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_listed_survives_its_yaml(study: Study, space: SearchSpace, replicas: int) -> None:
    listed = _listed(study, space, replicas=replicas)
    assert CandidateList.from_yaml_text(listed.to_yaml()) == listed


def test_a_study_without_a_completed_trial_cannot_be_confirmed(space: SearchSpace) -> None:
    with pytest.raises(UsageError, match="nothing to confirm"):
        candidates_of(_study(space), space, 1)


def test_the_better_baseline_counts_and_pairs_share_a_seed(study: Study, space: SearchSpace) -> None:
    listed = _listed(study, space, top=1)
    values = {
        "trial 1 (sam)": [0.93, 0.94, 0.95],
        "sgd (4 epochs)": [0.90, 0.90, 0.90],
        "sgd (8 epochs)": [0.92, 0.92, None],  # one failed
    }
    confirmed = Study(**{**vars(_study(space)), "objectives": (Objective("test_accuracy"),), "num_trials": 9})
    for label, results in values.items():
        for replica, value in enumerate(results):
            config: dict[str, Scalar] = {"candidate": label, "replica": replica}
            state = TrialState.FAILED if value is None else TrialState.COMPLETED
            history = EpochLog([] if value is None else [{"epoch": 1.0, "test_accuracy": value}])
            number = len(confirmed.trials)
            confirmed.trials.append(Trial(number, f"{number}", config, {}, 4, state, history))
    found = confirmation_of(confirmed, listed)
    assert found.baseline == "sgd (8 epochs)"
    assert found.num_missing == 1
    best = found.best
    assert best is not None
    assert best.estimate is not None
    assert best.estimate.mean == pytest.approx(0.94)
    assert best.gap == pytest.approx(0.01)
    assert best.comparison is not None
    assert best.comparison.difference.mean == pytest.approx(0.015)  # (0.01 + 0.02) / 2: two shared seeds
    trial = found.best_trial()
    assert trial is not None
    assert trial.config["replica"] == 2
    header, rows = table(found)
    assert [row[0] for row in rows] == ["trial 1 (sam)", "sgd (8 epochs) *", "sgd (4 epochs)"]
    assert dict(zip(header, rows[0], strict=True))["difference"].startswith("+0.0150 ± ")


def test_plain_sgd_alone_is_its_own_baseline_and_its_weights_are_kept(study: Study) -> None:
    source = find_source(SearchSpace.from_yaml("digits.yaml", {"method.name": "sgd", **SGD}), top=1)
    assert add_baseline(source.chosen, None, source.space) == ["sgd"]
    listed = list_candidates(source.space, source.chosen, replicas=1, baselines=["sgd"])
    confirmed = Study(**{**vars(study), "objectives": (Objective("test_accuracy"),), "num_trials": 1, "trials": []})
    history = EpochLog([{"epoch": 1.0, "test_accuracy": 0.9}])
    config: dict[str, Scalar] = {"candidate": "sgd", "replica": 0}
    confirmed.trials.append(Trial(0, "0", config, {}, 1, TrialState.COMPLETED, history))
    best = confirmation_of(confirmed, listed).best
    assert best is not None
    assert best.label == "sgd"


def test_a_space_that_searches_cannot_be_confirmed_without_values() -> None:
    with pytest.raises(UsageError, match=r"training.lr.*here each key has one value: --set .*=… fixes it"):
        find_source("digits.yaml", top=1)


def test_an_expression_has_its_value_once_what_it_is_made_of_has(tmp_path: Path) -> None:
    changes = {"method.name": "sgd", **SGD, "training.weight_decay": {"expr": "5e-4 * lr / 0.1"}}
    source = find_source(SearchSpace.from_yaml("digits.yaml", changes), top=1)
    ((spec, _),) = source.chosen.values()
    assert spec.training.weight_decay == pytest.approx(5e-4 * spec.training.lr / 0.1)
    listed = list_candidates(source.space, source.chosen, replicas=1, baselines=[])
    run = CandidateRun(listed, kind="training", name="x", storage_path=tmp_path)
    assert run.candidates == listed  # the same wherever it is resumed
