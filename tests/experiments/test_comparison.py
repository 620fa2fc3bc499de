"""`samtune compare`, against scipy on made numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.studies import make_study
from scipy import stats
from typer.testing import CliRunner

from samtune import SearchSpace, UsageError
from samtune.cli.app import app
from samtune.config.trial import TrialSpec
from samtune.experiments.candidates import final, list_candidates
from samtune.experiments.comparison import Difference, StudyComparison, compare_studies
from samtune.store.journal import Journal
from samtune.study import Objective, Scalar, Study, Trial, TrialState

OURS, THEIRS = [0.951, 0.957, 0.949, 0.962], [0.941, 0.951, 0.940, 0.949]


def confirmed(folder: Path, name: str, values: dict[str, list[float]], first_seed: int = 1, passes: int = 4) -> Study:
    """A finished confirmation of candidates that had these values."""
    specs = {label: (_spec(passes), 0.97) for label in values}
    space = SearchSpace.from_yaml("digits.yaml")
    replicas = max(map(len, values.values()))
    listed = list_candidates(space, specs, replicas=replicas, baselines=[], first_seed=first_seed)
    study = make_study(folder, name=name, num_trials=0, objectives=(Objective("test_accuracy"),))
    (folder / name / "journal.jsonl").unlink()
    study.kind, study.space_yaml, study.num_trials = "confirmation", listed.to_yaml(), listed.num_trials
    journal = Journal(folder / name)
    journal.on_study_start(study)
    for label, own in values.items():
        for replica, value in enumerate(own):
            config: dict[str, Scalar] = {"candidate": label, "replica": replica}
            number = len(study.trials)
            trial = Trial(number, f"c{number}", config, {}, 1, TrialState.COMPLETED, started_at=1.0, ended_at=2.0)
            study.trials.append(trial)
            journal.on_trial_start(study, trial)
            trial.history.append({"epoch": 1.0, "test_accuracy": value})
            journal.on_epoch(study, trial, trial.metrics)
            journal.on_trial_end(study, trial)
    journal.on_study_end(study)
    return study


def _spec(passes: int) -> TrialSpec:
    space = SearchSpace.from_yaml("digits.yaml", [f"training={{passes: {passes}}}", "search={}", "initial=[]"])
    return final(space.trial({}))


def only(found: StudyComparison) -> Difference:
    (difference,) = found.differences
    return difference


def test_the_same_seeds_are_paired(tmp_path: Path) -> None:
    confirmed(tmp_path, "a", {"trial 1 (sam)": OURS})
    confirmed(tmp_path, "b", {"trial 2 (sam)": THEIRS})
    found = compare_studies(["a", "b"], tmp_path)
    assert found.reference == ("a", "trial 1 (sam)")
    assert [row.study for row in found.rows] == ["a", "b"]
    difference, expected = only(found), stats.ttest_rel(THEIRS, OURS)
    assert difference.how == "paired by 4 seeds"
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert difference.difference == pytest.approx(sum(THEIRS) / 4 - sum(OURS) / 4)
    assert difference.equal_passes


def test_of_seeds_that_only_some_have_the_shared_ones_are_paired(tmp_path: Path) -> None:
    confirmed(tmp_path, "a", {"sam": OURS}, first_seed=1)
    confirmed(tmp_path, "b", {"sam": THEIRS}, first_seed=3)
    difference = only(compare_studies(["a", "b"], tmp_path))
    expected = stats.ttest_rel(THEIRS[:2], OURS[2:])  # seeds 3 and 4
    assert difference.how == "paired by 2 seeds"
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.difference == pytest.approx(sum(THEIRS[:2]) / 2 - sum(OURS[2:]) / 2)


def test_other_seeds_are_compared_by_welch_and_other_passes_are_said(tmp_path: Path) -> None:
    confirmed(tmp_path, "a", {"sam": OURS}, first_seed=1, passes=4)
    confirmed(tmp_path, "b", {"sam": THEIRS[:3]}, first_seed=101, passes=8)
    found = compare_studies(["a", "b"], tmp_path)
    difference, expected = only(found), stats.ttest_ind(THEIRS[:3], OURS, equal_var=False)
    assert difference.how == "3 and 4 seeds, unpaired"
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert not difference.equal_passes


def test_one_replica_has_no_interval(tmp_path: Path) -> None:
    confirmed(tmp_path, "a", {"sam": [0.9]})
    confirmed(tmp_path, "b", {"sam": [0.8]})
    difference = only(compare_studies(["a", "b"], tmp_path))
    assert (difference.interval, difference.p_value, difference.how) == (None, None, "too few seeds")


def test_searches_are_compared_method_by_method_with_the_settings_that_differ(tmp_path: Path) -> None:
    for name, methods, changes in (("a", ("sam", "sgd"), []), ("b", ("asam", "sgd"), ["training.batch_size=32"])):
        text = SearchSpace.from_yaml("digits.yaml", [*changes, "data.split_seed=" + str(len(changes))]).to_yaml()
        make_study(tmp_path, name=name, methods=methods, space_yaml=text)
    found = compare_studies(["a", "b"], tmp_path)
    assert {(row.study, row.label) for row in found.rows} == {("a", "sam"), ("a", "sgd"), ("b", "asam"), ("b", "sgd")}
    values = [row.value for row in found.rows]
    assert values == sorted(values, reverse=True)
    assert found.reference[0] == "a"
    for difference in found.differences:
        assert difference.how == "bootstrap over trials"
        assert difference.interval is not None
        assert difference.interval[0] <= difference.difference + 1e-9
    assert found.settings == {"data.split_seed": [0, 1], "training.batch_size": [64, 32]}
    assert found.notes == ["the searches have other data (data.split_seed): their values are of other examples"]


def test_the_command_prints_a_table_json_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = tmp_path / "samtune-results"
    confirmed(storage, "a", {"trial 1 (sam)": OURS, "sgd (4 epochs)": THEIRS})
    confirmed(storage, "b", {"trial 2 (sam)": THEIRS})
    shown = CliRunner().invoke(app, ["compare", "a", "b", "-o", "c.svg"])
    assert shown.exit_code == 0, shown.output
    assert "trial 1 (sam) *" in shown.output
    text = (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert all(label in text for label in ("a: trial 1 (sam)", "b: trial 2 (sam)", "test_accuracy (95% interval)"))
    parsed = json.loads(CliRunner().invoke(app, ["compare", "a", "b", "--json"]).stdout)
    assert parsed == json.loads(json.dumps(compare_studies(["a", "b"]).to_dict()))


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    make_study(tmp_path, name="a")
    confirmed(tmp_path, "b", {"sam": OURS})
    make_study(tmp_path, name="empty", num_trials=0)
    with pytest.raises(UsageError, match="compare searches with searches, and confirmations with confirmations"):
        compare_studies(["a", "b"], tmp_path)
    with pytest.raises(UsageError, match="study empty: no trial was completed"):
        compare_studies(["a", "empty"], tmp_path)
    for names in (["a"], ["a", "a"]):
        with pytest.raises(UsageError, match="two studies at least"):
            compare_studies(names, tmp_path)


def test_a_searched_key_has_no_value_and_training_functions_have_data_of_their_own(tmp_path: Path) -> None:
    own = "name: t\ntrain: my.py:train\ntraining: {lr: 0.1, epochs: 2}\n"
    make_study(tmp_path, name="one", space_yaml=own + "search: {training.lr: {uniform: [0.1, 1]}}\n")
    make_study(tmp_path, name="other", space_yaml=own)
    found = compare_studies(["one", "other"], tmp_path)
    assert found.settings["training.lr"] == ["searched", 0.1]
    assert found.notes == [
        "training functions have data of their own: whether all values are of the same examples is not known"
    ]
