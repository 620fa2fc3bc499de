"""`samtune sharpness` on networks that were trained, and the study of m on trials with a known relation."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.studies import make_confirmation
from helpers.studies import make_study as make_simple_study
from typer.testing import CliRunner

from samtune import user_code
from samtune.cli.app import app
from samtune.config.space import SearchSpace
from samtune.errors import TrackingError, UsageError
from samtune.experiments.sharpness.gap import kendall_tau, pair_information, relate, relations
from samtune.experiments.sharpness.subjects import load_subject
from samtune.models.saved import save_weights
from samtune.store.journal import Journal
from samtune.study import EpochRecord, Objective, Study, Trial, TrialState
from samtune.tracking import default_tracking_uri
from samtune.tracking.store import MlflowClient, Store
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.trial import TrialRun

SPACE = {
    "name": "small",
    "data": {"name": "digits", "num_train": 300},
    "model": {"name": "mlp", "depth": 2, "width": 8},
    "method": {"name": "sam"},
    "training": {"epochs": 2, "batch_size": 60, "lr": 0.05},
    "search": {"method.rho": {"log_uniform": [0.01, 0.5]}},
}


def make_study(folder: Path) -> Study:
    space = SearchSpace.from_dict(SPACE)
    return Study(
        name=folder.name,
        objectives=(Objective(),),
        num_trials=9,
        space_yaml=space.to_yaml(),
        plan={},
        storage_path=str(folder),
        tracking_uri="",
        experiment="x",
        command="",
        versions={},
    )


def add_trial(study: Study, journal: Journal, rho: float, history: list[dict[str, float]]) -> Trial:
    number = len(study.trials)
    trial = Trial(number, f"id{number}", {"method.rho": rho}, {}, 2, TrialState.RUNNING)
    study.trials.append(trial)
    journal.on_trial_start(study, trial)
    for metrics in history:
        trial.history.append(EpochRecord(metrics, 0, 0.0))
        journal.on_epoch(study, trial, metrics)
    trial.state = TrialState.COMPLETED
    journal.on_trial_end(study, trial)
    return trial


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trained trials: one kept as a checkpoint, one as weights too."""
    torch.set_num_threads(1)
    storage = tmp_path_factory.mktemp("studies")
    study = make_study(storage / "one")
    (storage / "one").mkdir()
    journal = Journal(storage / "one")
    journal.on_study_start(study)
    for number, rho in enumerate((0.05, 0.2)):
        spec = SearchSpace.from_dict(SPACE).trial({"method.rho": rho})
        run = TrialRun(spec, rank=0, num_workers=1, device=torch.device("cpu"))
        checkpoints = CheckpointFolder(str(storage / "one" / "checkpoints" / f"id{number}"))
        for epoch in (1, 2):
            run.train_epoch(epoch)
            run.save(checkpoints)
        add_trial(study, journal, rho, run.history)
        if number == 1:
            save_weights(str(storage / "weights.safetensors"), run.model, spec, run.dataset, run.history[-1])
    journal.on_study_end(study)
    return storage


def samtune(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["sharpness", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_bound_of_the_error_rate(studies, tmp_path):
    """The theorem asks for a loss in [0, 1]; a smaller delta and a larger loss bound make the bound weaker."""

    def bound(*options: str) -> dict:
        text = samtune(
            *(str(studies / "weights.safetensors"), "--storage-path", str(studies), "--plots", str(tmp_path), "--json"),
            *("--measures", "bound", "--num-examples", "64", *options),
        )
        (subject,) = json.loads(text.splitlines()[-1])["subjects"]
        return subject

    of_errors = bound("--zero-one")
    assert of_errors["bound_assumptions"][0] == "the loss lies in [0, 1]"
    of_loss = bound("--loss-bound", "5")
    assert of_loss["bound_assumptions"][0].startswith("the loss lies in [0, 5]")
    surer = bound("--zero-one", "--delta", "0.001")
    for name in ("pac_bayes_bound", "theorem_2_bound"):
        assert surer["measures"][name]["value"] > of_errors["measures"][name]["value"]
        assert of_loss["measures"][name]["value"] > of_errors["measures"][name]["value"]


SCRIPT = """
from torch import nn

from samtune import SearchSpace


def small_net(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


SPACE = {**%r, "model": small_net}
space = SearchSpace.from_dict(SPACE)
"""


def test_a_study_of_python_objects_is_measured_with_the_script_that_they_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sharpness_of_mine.py"
    script.write_text(SCRIPT % SPACE)
    monkeypatch.setattr(user_code, "_given", {})
    monkeypatch.setattr(user_code, "_scripts", [])
    user_code.use_script(str(script))
    space = SearchSpace.from_dict({**SPACE, "model": {"name": "given:small_net"}})
    study = replace(make_study(tmp_path / "mine"), space_yaml=space.to_yaml())
    run = TrialRun(space.trial({"method.rho": 0.05}), rank=0, num_workers=1, device=torch.device("cpu"))
    run.train_epoch(1)
    run.save(CheckpointFolder(str(tmp_path / "mine" / "checkpoints" / "id0")))
    journal = Journal(tmp_path / "mine")
    journal.on_study_start(study)
    add_trial(study, journal, 0.05, run.history)
    journal.on_study_end(study)
    user_code._given.clear()  # as in another process
    user_code._scripts.clear()
    measured = ("mine/0", "--storage-path", str(tmp_path), "--plots", str(tmp_path), "--json")
    few = ("--measures", "m_sharpness", "--m", "16", "--num-examples", "32")
    with pytest.raises(UsageError, match=r"given:small_net is a Python object .* --code my_script.py"):
        samtune(*measured, *few)
    (subject,) = json.loads(samtune(*measured, *few, "--code", str(script)).splitlines()[-1])["subjects"]
    assert subject["measures"]["m_sharpness m=16"]["value"] > 0


def test_networks_side_by_side(studies, tmp_path):
    text = samtune(
        *("one/0", str(studies / "weights.safetensors"), "--storage-path", str(studies), "--json"),
        *("--measures", "all", "--num-examples", "64", "--probes", "4", "--m", "8,32", "--plots", str(tmp_path)),
    )
    found = json.loads(text.splitlines()[-1])
    first, second = found["subjects"]
    assert (first["name"], second["name"]) == ("one/0", "weights")
    for subject in (first, second):
        assert subject["num_examples"] == 64
        values = {name: estimate["value"] for name, estimate in subject["measures"].items()}
        assert values["lambda_max/lambda_5"] >= 1
        assert values["frobenius_squared"] > 0
        assert values["m_sharpness m=8"] > values["m_sharpness m=32"] > 0
        assert values["theorem_2_bound"] > values["pac_bayes_bound"] > 0
        assert values["universal_determinant"] > 0
        assert {"universal_trace", "universal_frobenius_squared"} <= values.keys()
        assert subject["bound_assumptions"]
        nodes = torch.tensor(subject["spectrum"]["nodes"])
        assert float(nodes.max()) == pytest.approx(values["lambda_max"], rel=0.01)
        middle = len(subject["line"]["losses"]) // 2
        assert subject["line"]["losses"][middle] == pytest.approx(subject["surface"]["losses"][9][9], rel=1e-5)
    assert first["measures"]["lambda_max"] != second["measures"]["lambda_max"]
    assert sorted(Path(file).name for file in found["plots"]) == [
        "loss_line.png",
        "loss_surface.png",
        "spectrum.png",
    ]
    assert all(Path(file).read_bytes().startswith(b"\x89PNG") for file in found["plots"])


def test_a_network_is_found_by_each_of_its_names(studies):
    by_weights = load_subject(str(studies / "weights.safetensors"))
    folder = studies / "one" / "checkpoints" / "id1"
    for text in ("one/1", str(folder), str(folder / "epoch-000002.pt")):
        subject = load_subject(text, str(studies))
        assert subject.spec.method.rho == 0.2
        pairs = zip(subject.model.parameters(), by_weights.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert subject.metrics["epoch"] == 2
    assert load_subject(str(folder / "epoch-000001.pt")).metrics["epoch"] == 1


def test_a_study_is_measured_by_the_weights_that_its_confirmation_has_kept(studies, tmp_path):
    make_simple_study(tmp_path, name="s", num_trials=2)
    with pytest.raises(
        UsageError, match=r"^study s has kept no weights: `samtune confirm s` trains its best and keeps them"
    ):
        load_subject("s", str(tmp_path))
    make_confirmation(tmp_path, {"trial 1 (sam)": (0.9,)}, replicas=1, name="s-confirm")
    with pytest.raises(UsageError, match=r"^study s-confirm has kept no weights: `samtune confirm digits-1`"):
        load_subject("s-confirm", str(tmp_path))
    shutil.copy(studies / "weights.safetensors", tmp_path / "s-confirm" / "best.safetensors")
    expected = load_subject(str(studies / "weights.safetensors"))
    for text in ("s", "s-confirm"):
        subject = load_subject(text, str(tmp_path))
        assert subject.name == "s-confirm"
        pairs = zip(subject.model.parameters(), expected.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_what_a_run_is_measured_at_is_logged_to_it(studies, tmp_path):
    tracking_uri = default_tracking_uri(studies)
    store = Store(tracking_uri, "x")
    run_id = store.create_run("one/1", 0, {"samtune.trial_id": "id1", "samtune.study": "one"})
    shown = samtune(run_id, "--storage-path", str(studies), "--measures", "m_sharpness,line", "--plots", str(tmp_path))
    assert "one/1" in shown
    client = MlflowClient(tracking_uri)
    logged = client.get_run(run_id).data.metrics
    assert set(logged) == {f"sharpness.m_sharpness_{m}" for m in (16, 64, 256)}
    assert [file.path for file in client.list_artifacts(run_id, "sharpness")] == ["sharpness/loss_line.png"]
    with pytest.raises(TrackingError, match=r"run 0{32} cannot be read"):
        load_subject("0" * 32, str(studies))


def test_a_run_says_where_its_study_is(studies):
    tracking_uri = default_tracking_uri(studies)
    store = Store(tracking_uri, "x")
    whole = store.create_run("one", 0, {"samtune.study": "one", "samtune.storage_path": str(studies / "one")})
    of_one = {"samtune.study": "one", "mlflow.parentRunId": whole}
    run_id = store.create_run("one/1", 0, of_one | {"samtune.trial_id": "id1"})
    assert load_subject(run_id, tracking_uri=tracking_uri).metrics["epoch"] == 2
    lost = store.create_run("one/9", 0, of_one | {"samtune.trial_id": "id9"})
    other = store.create_run("another program's", 0, {})
    for text, message in (
        (whole, f"{whole}: is the run of a whole study; give the run of a trial, or one/TRIAL"),
        (lost, f"{lost}: study one in {studies} has no trial id9"),
        (other, f"{other}: is not a run of samtune"),
    ):
        with pytest.raises(UsageError, match=message):
            load_subject(text, tracking_uri=tracking_uri)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one/7", r"one/7: study one has no trial 7 \(it has 2\)"),
        ("nothing", "nothing: must be a .safetensors file, a checkpoint"),
        ("lost.safetensors", "lost.safetensors: is not there"),
        (".", "is not in the folder `checkpoints` of a study"),
    ],
)
def test_what_is_not_there_is_said(studies, text, message):
    with pytest.raises(UsageError, match=message):
        load_subject(text, str(studies))


def test_options_that_cannot_work(studies):
    for arguments, message in (
        (["--measures", "eigenvalue"], "measures eigenvalue: .*eigenvalues"),
        (["--m", "1;2"], "--m 1;2: must be whole numbers"),
        (["--data", "training"], "--data training: must be train, val or test"),
    ):
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(app, ["sharpness", "one/0", *arguments], catch_exceptions=False)


def test_information_and_tau_by_hand():
    """Four trials; the orders agree in 5 of 6 pairs: tau = (5 - 1)/6, information 1 - H(5/6) = 0.3500 bits."""
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 40.0, 30.0])
    assert kendall_tau(a, b) == pytest.approx(4 / 6)
    assert pair_information(a, b) == pytest.approx(1 + 5 / 6 * math.log2(5 / 6) + 1 / 6 * math.log2(1 / 6))
    assert pair_information(a, -a) == 1  # a reversed order says as much
    assert math.isnan(pair_information(a, np.ones(4)))


def test_the_interval_covers_what_is_true():
    """Independent: tau 0. Correlation 0.8 of normals: tau = 2/π·asin 0.8 = 0.590."""
    generator = np.random.default_rng(0)
    x, z = generator.normal(size=(2, 80))
    noise, related = relate("x", x, z, {}), relate("x", x, 0.8 * x + 0.6 * z, {})
    assert noise.tau.low < 0 < noise.tau.high
    assert related.tau.low < 0.590 < related.tau.high
    assert related.tau.low > noise.tau.high
    assert related.information.low > noise.information.value


def test_the_study_of_m(tmp_path):
    """The gap follows the sharpness at m = 4 and has nothing to do with that at m = 16."""
    study = make_study(tmp_path / "m")
    (tmp_path / "m").mkdir()
    journal = Journal(tmp_path / "m")
    journal.on_study_start(study)
    unrelated = [3, 7, 1, 6, 2, 8, 4, 5, 0]
    for number in range(9):
        metrics = {"epoch": 1.0, "train_accuracy": 0.9, "val_accuracy": 0.9 - 0.01 * number}
        sharpness = {"m_sharpness": 0.1 * number, "m_sharpness_4": 0.1 * number, "m_sharpness_16": unrelated[number]}
        rho = (0.1, 0.2)[number > 3]
        trial = add_trial(study, journal, rho, [metrics | sharpness])
        trial.config["training.lr"] = 0.01 * number  # of each trial its own: nothing to condition on
    journal.on_study_end(study)
    four, sixteen = relations(study)
    assert (four.measure, sixteen.measure) == ("m_sharpness_4", "m_sharpness_16")
    assert four.tau.value == pytest.approx(1)
    assert four.information.value == pytest.approx(1)
    assert abs(sixteen.tau.value) < 0.4
    assert four.least == pytest.approx(1)
    assert set(four.given) <= {"method.rho"}
    assert sixteen.least < 0.1
    plots = str(tmp_path / "plots")
    text = samtune("m", "--study-of-m", "--storage-path", str(tmp_path), "--plots", plots, "--json")
    assert json.loads(text)["relations"][0]["tau"]["value"] == pytest.approx(1)
    assert (tmp_path / "plots" / "study_of_m.png").is_file()
    study.trials = study.trials[:3]
    with pytest.raises(UsageError, match="needs at least 5 completed trials that have measured m_sharpness"):
        relations(study)
