"""Several studies confirmed together, a tuned baseline, and replicas that are added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.studies import SPACE, make_confirmation, make_study

from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.candidates import stored_candidates
from samtune.experiments.confirm import Confirmer
from samtune.experiments.confirmed_study import confirmation_commands
from samtune.experiments.fixed_trials import CandidateRun
from samtune.formatting import format_number, trial_name
from samtune.study import CANDIDATE, REPLICA, Objective, Trial


def _search(storage: Path, name: str, num_trials: int = 3, **changes: Any) -> float:
    """A search of that name; returns its best value."""
    objectives = changes.pop("objectives", (Objective(),))
    space = SearchSpace.from_dict({**SPACE, **changes})
    study = make_study(storage, name=name, num_trials=num_trials, objectives=objectives, space_yaml=space.to_yaml())
    assert study.best is not None
    value = objectives[0].value(study.best)
    assert value is not None
    return value


def test_the_best_of_several_studies_are_confirmed_together(tmp_path: Path) -> None:
    first, second = _search(tmp_path, "a", 1, seed=4), _search(tmp_path, "b", 12, seed=9)
    confirmer = Confirmer(["a", "b"], storage_path=tmp_path, top=1, replicas=2)
    assert second > first
    assert confirmer.name == "a-b-confirm"
    listed = confirmer.candidates
    labels = sorted(listed.searched, key=lambda label: -(listed.searched[label] or 0.0))
    assert [label.partition(" ")[0] for label in labels[:2]] == ["b", "a"]
    assert list(listed.candidates)[:2] == labels[:2]  # the best first: the baseline has its length
    assert listed.baselines == ["sgd (4 epochs)", "sgd (8 epochs)"]
    assert listed.first_seed == 10  # neither search has used it


def test_candidates_of_one_method_have_names_that_tell_them_apart_also_where_labels_were_others(tmp_path: Path) -> None:
    _search(tmp_path, "s", 6)
    listed = Confirmer("s", storage_path=tmp_path, top=2, replicas=2).candidates
    first, second = [label for label in listed.candidates if label.startswith("trial ")]
    for label in (first, second):
        rho, lr = (
            format_number(float(listed.candidates[label].params()[key])) for key in ("method.rho", "training.lr")
        )
        assert label.endswith(f" (sam rho={rho} lr={lr})")
    run = Trial(0, "c0", {CANDIDATE: first, REPLICA: 1}, {}, 2)
    assert trial_name(make_study(tmp_path, name="other", num_trials=2), run) == f"{first}, replica 1"

    plain = {label: label.partition(" (")[0] + " (sam)" for label in (first, second)}
    before = listed.model_copy(
        update={
            "candidates": {plain.get(label, label): spec for label, spec in listed.candidates.items()},
            "searched": {plain.get(label, label): value for label, value in listed.searched.items()},
        }
    )
    values = dict.fromkeys(before.candidates, (0.9, 0.91))
    make_confirmation(tmp_path, values, replicas=2, name="s-confirm", listed=before)
    assert Confirmer("s", storage_path=tmp_path, top=2, replicas=3).candidates.candidates.keys() == values.keys()
    with pytest.raises(UsageError, match="has trained something else"):
        Confirmer("s", storage_path=tmp_path, top=3, replicas=2)


def test_studies_that_cannot_be_compared_are_not_confirmed_together(tmp_path: Path) -> None:
    _search(tmp_path, "a")
    _search(tmp_path, "loss", objectives=(Objective("val_loss", "min"),))
    with pytest.raises(UsageError, match=r"^a and loss have other objectives \(val_accuracy; val_loss\)$"):
        Confirmer(["a", "loss"], storage_path=tmp_path)
    _search(tmp_path, "c", data={"name": "cifar10"}, model={"name": "wide_resnet"})
    with pytest.raises(UsageError, match=r"^a and c have other test sets \(data\.name, data\.root\)"):
        Confirmer(["a", "c"], storage_path=tmp_path)
    _search(tmp_path, "noisy", data={"name": "digits", "label_noise": 0.4, "validation_fraction": 0.3})
    assert Confirmer(["a", "noisy"], storage_path=tmp_path).name == "a-noisy-confirm"  # the test set is the same


def test_a_baseline_may_be_tuned_in_another_study(tmp_path: Path) -> None:
    _search(tmp_path, "a", seed=2)
    tuned = _search(tmp_path, "plain", 12, seed=6)
    listed = Confirmer("a", storage_path=tmp_path, top=1, baseline="plain").candidates
    (label,) = listed.baselines
    assert label.startswith("plain trial ")
    assert listed.searched[label] == tuned
    assert listed.candidates[label].num_epochs == 4
    assert listed.first_seed == 7
    assert len(listed.candidates) == 2
    with pytest.raises(UsageError) as refused:
        Confirmer("a", storage_path=tmp_path, baseline="plian")
    assert "none of sgd, none" in str(refused.value)
    assert "did you mean 'plain'" in str(refused.value)


def test_more_replicas_go_on_and_fewer_are_refused(tmp_path: Path) -> None:
    _search(tmp_path, "digits-1")
    begun = Confirmer("digits-1", storage_path=tmp_path, top=1, replicas=2).candidates
    values = dict.fromkeys(begun.candidates, (0.9, 0.91))
    study = make_confirmation(tmp_path, values, replicas=2, listed=begun)

    def again(replicas: int | None) -> Confirmer:
        return Confirmer("digits-1", storage_path=tmp_path, top=1, replicas=replicas)

    assert again(None).candidates == begun
    more = again(5).candidates
    assert more.replicas == 5
    assert more.model_copy(update={"replicas": 2}) == begun
    assert more.configs()[: len(study.trials)] == [trial.config for trial in study]  # these are not trained again
    with pytest.raises(UsageError, match="was begun with 2"):
        again(1)
    with pytest.raises(UsageError, match="has trained something else before"):
        Confirmer("digits-1", storage_path=tmp_path, top=2, replicas=5)


def test_what_next_doubles_the_replicas(tmp_path: Path) -> None:
    study = make_confirmation(tmp_path, {"trial 1 (sam)": (0.9, 0.91)}, replicas=2)
    study.command = "samtune confirm digits-1 --replicas 2 --top 1"
    assert confirmation_commands(study)[0][0] == "samtune confirm digits-1 --top 1 --replicas 4"


def test_the_kept_weights_stay_where_the_best_replica_is_an_earlier_one(tmp_path: Path) -> None:
    """Replica 0 of the best is in best.safetensors since the confirmation had one replica; its own file is gone."""
    import torch
    from torch import nn

    from samtune.models.saved import save_tensors
    from samtune.store.study_folder import weights_file

    study = make_confirmation(tmp_path, {"a": (0.95, 0.93)}, replicas=2)
    listed, model = stored_candidates(study), nn.Linear(1, 1)
    for trial in study:
        trial.params = listed.trial(trial.config).params()
    for value, uri, trial in (
        (1.0, weights_file(study), study.trials[0]),
        (2.0, str(tmp_path / study.name / "weights" / f"{study.trials[1].id}.safetensors"), study.trials[1]),
    ):
        nn.init.constant_(model.weight, value)
        save_tensors(uri, model, listed.trial(trial.config), metrics={})
    run = CandidateRun(None, kind="confirmation", name=study.name, storage_path=tmp_path, trust=True)
    run.keep_weights(study, study.trials, None)
    from safetensors.torch import load_file

    assert torch.equal(load_file(weights_file(study))["weight"], torch.ones(1, 1))
    assert not (tmp_path / study.name / "weights").exists()
