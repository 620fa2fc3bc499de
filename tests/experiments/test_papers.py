"""The papers' experiments by place, with what the studies of a storage path measured beside them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.config.space import SearchSpace
from samtune.experiments.candidates import list_candidates
from samtune.experiments.confirm_source import find_source
from samtune.experiments.papers import list_experiments, measured_in
from samtune.store.journal import Journal
from samtune.study import CANDIDATE, REPLICA, EpochLog, Objective, Study, StudyKind, Trial, TrialState

RUNNER = CliRunner()


def keep(storage: Path, name: str, kind: StudyKind, document: str, objective: Objective, *trials: Trial) -> None:
    """A study that has ended, in the files that a driver writes."""
    study = Study(
        name=name,
        kind=kind,
        objectives=(objective,),
        num_trials=len(trials),
        space_yaml=document,
        plan={},
        storage_path=str(storage / name),
        tracking_uri="",
        experiment="",
        command="",
        versions={},
    )
    (storage / name).mkdir()
    journal = Journal(storage / name)
    journal.on_study_start(study)
    for trial in trials:
        study.trials.append(trial)
        journal.on_trial_start(study, trial)
        journal.on_epoch(study, trial, trial.history[-1])
        journal.on_trial_end(study, trial)
    journal.on_study_end(study)


def trial(number: int, config: dict[str, float | int | str | bool | None], metric: str, value: float) -> Trial:
    history = EpochLog([{"epoch": 1.0, metric: value}])
    return Trial(number, f"t{number}", config, {}, 1, TrialState.COMPLETED, history, started_at=1.0, ended_at=2.0)


def test_places_are_in_the_papers_order_and_table_1_is_not_table_10() -> None:
    places = list(dict.fromkeys(each.place for each in list_experiments() if each.paper == "sam"))
    assert places == [
        *(f"table {number}" for number in (1, 2, 3, 4, 5, 8, 9, 10, 11)),
        *("figure 1", "figure 3", "section 3.3", "section 4.2", "appendix C.4", "appendix C.5"),
    ]
    assert {each.place for each in list_experiments("table 1")} == {"table 1"}
    assert {each.space for each in list_experiments("mnist_frob")} == {"universal/mnist_frobenius.yaml"}
    assert all("x 3 x" in each.cost or "passes" in each.cost for each in list_experiments())


def test_what_was_measured_stands_beside_what_is_published(tmp_path: Path) -> None:
    sets = ["data.label_noise=0.4", "method.rho=0.1", "name=sam-40"]  # a command of the space's head
    space = SearchSpace.from_yaml("sam/table4_label_noise_sam.yaml", sets)
    listed = list_candidates(space, find_source(space, top=1).chosen, replicas=2, baselines=[])
    values = (0.90, 0.92)
    replicas = [trial(r, {REPLICA: r, CANDIDATE: "sam"}, "test_accuracy", value) for r, value in enumerate(values)]
    keep(tmp_path, "sam-40-confirm", "confirmation", listed.to_yaml(), Objective("test_accuracy"), *replicas)
    searched = SearchSpace.from_yaml("sam/table4_label_noise_sam.yaml")
    found = trial(0, {}, "val_accuracy", 0.875)
    keep(tmp_path, "s1", "search", searched.to_yaml(), Objective(), found)
    keep(tmp_path, "other", "search", SearchSpace.from_yaml("digits.yaml").to_yaml(), Objective(), found)
    keep(tmp_path, "torn", "search", searched.to_yaml(), Objective(), found)
    (journal,) = (tmp_path / "torn").glob("*.jsonl")
    journal.write_bytes(b"not a journal\n" + journal.read_bytes())

    measured, problems = measured_in(tmp_path)

    assert list(measured) == ["sam/table4_label_noise_sam.yaml"]
    search, confirmation = sorted(measured["sam/table4_label_noise_sam.yaml"], key=lambda each: each.study)
    assert (search.study, search.metric, search.results["trial 0"].mean) == ("s1", "val_accuracy", 0.875)
    # t(0.975, 1) = 12.706, s = 0.02 / √2, so the half-width is 12.706 x 0.01.
    assert str(confirmation) == "sam-40-confirm (confirmation), test_accuracy: sam 0.9100 ± 0.1271"
    (problem,) = problems
    assert "torn: cannot be read" in problem

    shown = RUNNER.invoke(app, ["papers", "table 4", "--storage-path", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "SAM: 95.1 | 93.4 | 90.5 | 77.9" in shown.stdout
    assert f"here: {confirmation}" in shown.stdout
    as_json = RUNNER.invoke(app, ["papers", "table 4", "--json", "--storage-path", str(tmp_path)])
    (noise,) = (each for each in json.loads(as_json.stdout) if each["measured"] and each["paper"] == "sam")
    assert noise["rows"]["SAM"] == ["95.1", "93.4", "90.5", "77.9"]
    assert {each["study"] for each in noise["measured"]} == {"s1", "sam-40-confirm"}
