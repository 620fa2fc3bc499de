"""What is measured: a trained network with the examples it was trained on, found by what the user wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from samtune.config.trial import TrialSpec
from samtune.data import Dataset, load_dataset
from samtune.data.sample import Sample
from samtune.errors import UsageError, one_line
from samtune.experiments.confirm import SUFFIX as CONFIRM_SUFFIX
from samtune.experiments.tracked_study import study_of_run
from samtune.experiments.trust import UntrustedError, check_trust
from samtune.models import build_model
from samtune.storage import is_file, join, parent, trial_weights
from samtune.store.study_files import is_name
from samtune.store.study_folder import BEST_WEIGHTS, stored_space, study_folder, weights_file
from samtune.study import Study, Trial
from samtune.tracking.runs import TrackedRun, is_run_id
from samtune.train.checkpoint import CheckpointFolder
from samtune.train.loss import Measure, evaluation_loss
from samtune.user_source import named_functions

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Subject:
    """One trained network.

    Attributes:
        name: for tables and figures.
        metrics: of its last epoch, where they are known.
        run: the MLflow run that it was asked for by.
    """

    name: str
    spec: TrialSpec
    model: nn.Module
    dataset: Dataset
    metrics: dict[str, float] = field(default_factory=dict)
    run: TrackedRun | None = None

    @property
    def loss(self) -> Measure:
        """What the network was trained to minimise, without label smoothing."""
        return evaluation_loss(self.spec.training)

    def sample(self, split: SplitName, num_examples: int, *, seed: int = 0) -> Sample:
        """Examples without augmentation: a random subset of the split (of a stream, its first), or all of it.

        Raises:
            UsageError: the split is empty.
        """
        data = self.dataset
        whole = data.train if split == "train" else data.validation if split == "val" else data.load_test()
        if whole.is_empty:
            raise UsageError("the trial's data set has no such examples", argument="data", value=split)
        return Sample(data, whole, num_examples, seed=seed, device=torch.device("cpu"))


def subject_from_state(
    name: str,
    spec: TrialSpec,
    state: Mapping[str, Any],
    *,
    metrics: dict[str, float] | None = None,
    run: TrackedRun | None = None,
) -> Subject:
    """A subject from a trial and the state of its network.

    Raises:
        UsageError: the state is not that of the trial's network.
    """
    if spec.train is not None:
        raise UsageError(f"{name}: {spec.train} has made its data and its network, which cannot be built here")
    dataset = load_dataset(spec.examples)
    model = build_model(
        spec.model,
        num_classes=dataset.num_classes,
        input_shape=dataset.input_shape,
        seed=spec.seed,
        pretrained=False,
    )
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise UsageError(f"{name}: is not a state of model {spec.model.name}: {one_line(error)}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Subject(name, spec, model.to(device), dataset, metrics or {}, run)


def load_subject(
    text: str, storage_path: str | None = None, tracking_uri: str | None = None, *, trust: bool = False
) -> Subject:
    """Finds what the user wrote.

    Args:
        text: a `.safetensors` file; a checkpoint `.pt`, or its folder, within a study; a study, for the weights that it
            or its confirmation has kept; STUDY/TRIAL, the trial by its number; or the id of a trial's MLflow run.
        storage_path: of studies; default ./samtune-results, and for a run where it says.
        tracking_uri: where runs are looked for; default the store in the storage path.
        trust: whether functions may be imported that a file, or a study of somebody else, names.

    Raises:
        UsageError: there is no such thing, or its weights were not kept.
        UntrustedError: it names such functions.
    """
    if text.endswith(".safetensors"):
        path = Path(text)
        name = path.stem if path.name != BEST_WEIGHTS else path.absolute().parent.name
        return _from_weights(text, name, trust=trust)
    if is_run_id(text):
        tracked = study_of_run(text, storage_path, tracking_uri)
        if tracked.trial is None:
            raise UsageError(
                f"{text}: is the run of a whole study; give the run of a trial, or {tracked.study.name}/TRIAL"
            )
        return _from_trial(tracked.study, tracked.trial, run=tracked.run, trust=trust)
    path = Path(text).expanduser()
    if path.exists() and (path.suffix == ".pt" or path.is_dir()):
        return _from_checkpoint(path, trust)
    study, _, number = text.rpartition("/")
    if not study and is_name(text) and study_folder(storage_path, text).exists():
        return _from_study(study_folder(storage_path, text).read(), trust)
    if not study or not number.isdecimal():
        raise UsageError(
            f"{text}: must be a .safetensors file, a checkpoint (.pt or folder) of a study, a STUDY that has kept "
            "weights, STUDY/TRIAL such as digits/3, or an MLflow run id"
        )
    found = study_folder(storage_path, study).read()
    trial = next((trial for trial in found.trials if trial.number == int(number)), None)
    if trial is None:
        raise UsageError(f"{text}: study {study} has no trial {number} (it has {len(found.trials)})")
    return _from_trial(found, trial, trust=trust)


def _from_weights(path: str, name: str, run: TrackedRun | None = None, *, trust: bool) -> Subject:
    from samtune.models.saved import read_saved

    tensors, metadata, spec = read_saved(path)
    reasons = [f"imports {each}" for each in named_functions(spec.model_dump())]
    if reasons and not trust:
        raise UntrustedError(f"{path}: is data, which may be somebody else's", reasons)
    return subject_from_state(name, spec, tensors, metrics=metadata["metrics"], run=run)


def _from_study(study: Study, trust: bool) -> Subject:
    """The best weights of a confirmation or a training; of a search those of its confirmation, or of its best trial."""
    kept = study
    if study.kind == "search":
        confirmation = study_folder(parent(study.storage_path), study.name + CONFIRM_SUFFIX)
        kept = confirmation.read() if confirmation.exists() else study
    weights = weights_file(kept)
    if kept.kind == "search" and (best := study.best) is not None:
        weights = trial_weights(study.storage_path, best.id)
        if is_file(weights):
            return _from_weights(weights, f"{study.name}/{best.number}", trust=trust or study.is_own)
    if kept.kind == "search" or not is_file(weights):
        how = {"search": f"samtune confirm {study.name}"}.get(study.kind, study.command)
        raise UsageError(
            f"study {study.name} has kept no weights: `{how}` trains its best and keeps them; of a trial that is "
            f"under way {study.name}/TRIAL has those so far"
        )
    return _from_weights(weights, kept.name, trust=trust or kept.is_own)


def _from_checkpoint(path: Path, trust: bool) -> Subject:
    """`STUDY/checkpoints/TRIAL-ID` or a file in it: the study knows the trial, the file the weights."""
    folder = path.absolute().parent if path.suffix == ".pt" else path.absolute()
    study_path = folder.parent.parent
    if folder.parent.name != "checkpoints":
        raise UsageError(f"{path}: is not in the folder `checkpoints` of a study, so its trial is not known")
    study = study_folder(study_path.parent, study_path.name).read()
    trial = next((trial for trial in study.trials if trial.id == folder.name), None)
    if trial is None:
        raise UsageError(f"{path}: study {study.name} has no trial {folder.name}")
    if path.suffix != ".pt":
        return _from_trial(study, trial, checkpoint_only=True, trust=trust)
    epoch = re.fullmatch(r"epoch-(\d+)\.pt", path.name)
    if epoch is None:
        raise UsageError(f"{path}: must be called epoch-NNNNNN.pt (of the end of an epoch)")
    state = CheckpointFolder(str(folder)).load(torch.device("cpu"), epoch=int(epoch[1]))
    return _with_state(study, trial, state, trust=trust)


def _from_trial(
    study: Study, trial: Trial, *, run: TrackedRun | None = None, checkpoint_only: bool = False, trust: bool
) -> Subject:
    weights = weights_file(study) if study.kind == "training" else trial_weights(study.storage_path, trial.id)
    if not checkpoint_only and is_file(weights):
        return _from_weights(weights, f"{study.name}/{trial.number}", run, trust=trust or study.is_own)
    folder = CheckpointFolder(join(study.storage_path, "checkpoints", trial.id))
    return _with_state(study, trial, folder.load(torch.device("cpu"), whole_epochs=True), run, trust=trust)


def _with_state(
    study: Study, trial: Trial, state: dict[str, Any] | None, run: TrackedRun | None = None, *, trust: bool
) -> Subject:
    name = f"{study.name}/{trial.number}"
    if state is None:
        raise UsageError(
            f"{name}: its weights are not in {study.storage_path}: a search keeps those of its best trials "
            "(keep_weights) and of trials under way; samtune confirm and samtune train keep theirs, as best.safetensors"
        )
    spec = stored_space(study, study.storage_path).trial(trial.config)
    check_trust(study, spec.model_dump(), trust=trust)
    own = state.get("average", state["model"])  # what was evaluated
    return subject_from_state(name, spec, own, metrics=state["history"][-1], run=run)
