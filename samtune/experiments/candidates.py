"""A fixed list of trials, each with several seeds: what a confirmation or a training runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import Field, model_validator

from samtune.config.base import Config
from samtune.config.search import (
    BudgetConfig,
    CheckpointConfig,
    NoSchedulerConfig,
    ObjectiveConfig,
    Objectives,
    ResourcesConfig,
)
from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.errors import UsageError
from samtune.formatting import configuration_name
from samtune.store.moved import new_place
from samtune.study import CANDIDATE, REPLICA, Scalar, Study, Trial, TrialState

BASELINES = ("sgd", "none")

_OF_A_SEARCH = (
    *("data", "model", "method", "training", "search", "constraints", "initial", "sampler", "scheduler"),
    *("budget", "repeats", "num_trials", "warm_start", "on_divergence", "folder"),
)

_MOST_NAMED = 4  # keys in a label: more do not fit a table

Chosen = dict[str, tuple[TrialSpec, float | None]]
"""By label: the trial, and what the search had measured of it."""


class CandidateList(Config):
    """Candidates x replicas, replica by replica, so that the results of an interrupted run can be compared."""

    name: str
    """Of the search or the space that the candidates are from."""
    candidates: Annotated[dict[str, TrialSpec], Field(min_length=1)]
    """By label: what is trained. The seed of replica r is `first_seed` + r, the same for all candidates."""
    replicas: Annotated[int, Field(ge=1)]
    first_seed: Annotated[int, Field(ge=0)]
    baselines: list[str] = Field(default_factory=list)
    """Labels of the candidates that the others are compared with: the better of them counts."""
    chosen_baselines: list[str] = Field(default_factory=list)
    """Those of the baselines that were chosen as candidates too: one of them may be the best."""
    searched: dict[str, float | None] = Field(default_factory=dict)
    """By label: the objective that the search had measured."""
    objectives: Annotated[Objectives, Field(alias="objective")]
    """What the candidates are compared by; the first counts."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The search's."""
    resources: ResourcesConfig = ResourcesConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    max_failures: Annotated[int, Field(ge=0)] = 3
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    keep_weights: ClassVar[int] = 0
    """Its trials keep theirs until the best is known (`CandidateRun.keep_weights`)."""

    @model_validator(mode="before")
    @classmethod
    def _from_0_1_0(cls, value: Any) -> Any:
        """Studies of samtune 0.1.0 store the list as a search space; what only a search has is left out."""
        if isinstance(value, Mapping) and "sampler" in value:
            return {key: item for key, item in value.items() if key not in _OF_A_SEARCH}
        return value

    @classmethod
    def from_yaml_text(cls, text: str) -> Self:
        """The list that `to_yaml` wrote."""
        return cls.model_validate(yaml.safe_load(text))

    def to_yaml(self) -> str:
        """Reading it gives an equal list."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, width=120)

    def relocated(self, new_place: Callable[[str], str]) -> Self:
        """The list with the paths of data sets and weights, which are absolute, where they are now."""
        found = {label: spec.with_paths(new_place) for label, spec in self.candidates.items()}
        return self.model_copy(update={"candidates": found})

    def configs(self) -> list[dict[str, Scalar]]:
        """Of every trial, in order."""
        return [{REPLICA: r, CANDIDATE: label} for r in range(self.replicas) for label in self.candidates]

    def trial(self, config: Mapping[str, Scalar]) -> TrialSpec:
        """The candidate with the seed of the replica."""
        seed = self.first_seed + int(config[REPLICA] or 0)
        return self.candidates[str(config[CANDIDATE])].model_copy(update={"seed": seed})

    def labelled_as(self, other: CandidateList) -> Self:
        """The list with the labels of another, where both train the same: how labels are made may change."""
        if list(self.candidates.values()) != list(other.candidates.values()):
            return self
        new = dict(zip(self.candidates, other.candidates, strict=True))
        return self.model_copy(
            update={
                "candidates": {new[label]: spec for label, spec in self.candidates.items()},
                "searched": {new[label]: value for label, value in self.searched.items()},
                "baselines": [new[label] for label in self.baselines],
                "chosen_baselines": [new[label] for label in self.chosen_baselines],
            }
        )

    @property
    def num_trials(self) -> int:
        return self.replicas * len(self.candidates)

    @property
    def objective(self) -> ObjectiveConfig:
        """The first objective."""
        return self.objectives[0]

    @property
    def source_name(self) -> str:
        """For messages."""
        return self.name

    @property
    def scheduler(self) -> NoSchedulerConfig:
        """Every candidate trains to its last epoch."""
        return NoSchedulerConfig()

    @property
    def budget(self) -> BudgetConfig:
        """Nothing ends the study early."""
        return BudgetConfig()


def list_candidates(
    space: SearchSpace,
    chosen: Chosen,
    *,
    replicas: int,
    baselines: Sequence[str],
    objective: ObjectiveConfig | None = None,
    chosen_baselines: Sequence[str] = (),
    first_seed: int | None = None,
) -> CandidateList:
    """The list of what is trained.

    Args:
        space: gives everything that is not the trials': resources, checkpoints, seeds.
        chosen: label -> the trial, and what the search had measured of it; baselines included.
        baselines: their labels; `chosen_baselines` those that were candidates before.
        objective: default: the search's, on the test set.
        first_seed: default: the first that the search has not used.
    """
    kept = ("name", "resources", "checkpoint", "max_failures", "timeout", "max_concurrent", "seed")
    return CandidateList(
        **{name: getattr(space, name) for name in kept},
        objectives=(
            objective or _tested(space.objective, is_own=space.train is not None, of_numbers=space.training.of_numbers),
        ),
        candidates={label: spec for label, (spec, _) in chosen.items()},
        searched={label: value for label, (_, value) in chosen.items()},
        replicas=replicas,
        first_seed=space.seed + space.repeats if first_seed is None else first_seed,
        baselines=list(baselines),
        chosen_baselines=list(chosen_baselines),
    )


def stored_candidates(study: Study) -> CandidateList:
    """The list of candidates that a study was started with.

    Raises:
        UsageError: it is a search.
    """
    if "candidates" not in yaml.safe_load(study.space_yaml):
        raise UsageError(f"study {study.name} is a search: choose another --name")
    return CandidateList.from_yaml_text(study.space_yaml).relocated(lambda path: new_place(path, study))


def candidates_of(study: Study, space: SearchSpace, top: int) -> Chosen:
    """The best trials of a search, as they are confirmed.

    Raises:
        UsageError: no trial was completed.
    """
    best = _completed(study)[:top]
    if not best:
        raise UsageError(f"study {study.name}: no trial was completed, so there is nothing to confirm")
    return dict(trial_as_candidate(study, trial, space) for trial in best)


def trial_as_candidate(study: Study, trial: Trial, space: SearchSpace) -> tuple[str, tuple[TrialSpec, float | None]]:
    """Label of a trial, and how it is confirmed.

    Raises:
        UsageError: it was not completed.
    """
    if trial.state is not TrialState.COMPLETED:
        raise UsageError(f"study {study.name}: trial {trial.number} was not completed ({trial.state})")
    spec = space.trial(trial.config)
    return f"trial {trial.number} ({spec.method.name})", (final(spec), study.objective.value(trial))


def distinguish(chosen: Chosen) -> Chosen:
    """The same, where candidates of one method are labelled by what differs between them: `trial 3 (sam rho=0.1)`."""
    named: Chosen = {}
    for label, (spec, value) in chosen.items():
        own = spec.params()
        others = [each.params() for each, _ in chosen.values() if each.method.name == spec.method.name]
        keys = [key for key in own if any(key not in other or other[key] != own[key] for other in others)]
        keys.sort(key=lambda key: (not key.startswith("method."), not key.startswith("training.")))
        shown = configuration_name(spec.method.name, {key: own[key] for key in keys[:_MOST_NAMED]})
        plain = f"({spec.method.name})"
        named[f"{label.removesuffix(plain)}({shown})" if label.endswith(plain) else label] = (spec, value)
    return named


def add_baseline(chosen: Chosen, study: Study | None, space: SearchSpace) -> list[str]:
    """Adds the baseline to the candidates: plain SGD (or AdamW) for as many epochs, and for as many passes.

    Its settings are those of the search's best trial of that method; where the search had none, those of the best
    candidate without its perturbation.

    Returns:
        The labels of the baselines: "the better of one and two times the epochs" of the papers.
    """
    best, _ = next(iter(chosen.values()))
    name = "adamw" if best.training.optimizer_name == "adamw" else "sgd"
    settings, value = _plain(best, name), None
    for trial in _completed(study) if study else ():
        if trial.params.get("method.name") == name:
            settings, value = final(space.trial(trial.config)), study.objective.value(trial) if study else None
            break
    labels = []
    for own_label, spec in _as_long_as(best, settings, name).items():
        label = label_of(chosen, spec) or own_label
        # What the search measured was measured after as much training as it had.
        chosen.setdefault(label, (spec, value if spec.num_passes == settings.num_passes else None))
        labels.append(label)
    return labels


def final(spec: TrialSpec) -> TrialSpec:
    """The trial as it is confirmed: trained on all of the training set, tested once, its weights kept."""
    return _changed(spec, {"data": {"validation_fraction": 0.0, "folds": None}, "final": True, "repeats": 1})


def _plain(spec: TrialSpec, name: str) -> TrialSpec:
    """The same settings without a perturbation."""
    return TrialSpec.model_validate({**spec.model_dump(), "method": {"name": name}})


def _with_epochs(spec: TrialSpec, epochs: int) -> TrialSpec:
    """The same over another number of epochs, all its trainings together, their schedule stretched."""
    each = max(1, epochs // spec.num_trainings)
    stretch = each / spec.epochs_per_training
    training = spec.training
    milestones = [max(1, round(milestone * stretch)) for milestone in training.milestones]
    return _changed(spec, {"training": {"epochs": each, "passes": None, "milestones": milestones}})


def _as_long_as(best: TrialSpec, settings: TrialSpec, name: str) -> dict[str, TrialSpec]:
    """The settings over as many epochs (or steps) as the best candidate, and for as many passes; by label."""
    if best.training.steps is None or settings.training.steps is None:
        equal_passes = max(1, int(best.num_passes / settings.passes_per_epoch + 1e-9))
        lengths = dict.fromkeys([best.num_epochs, equal_passes])
        return {f"{name} ({epochs} epochs)": _with_epochs(settings, epochs) for epochs in lengths}
    steps = best.training.steps * best.num_trainings
    lengths = dict.fromkeys([steps, max(1, int(steps * best.passes_per_step / settings.passes_per_step + 1e-9))])
    return {f"{name} ({steps} steps)": _with_steps(settings, steps) for steps in lengths}


def label_of(chosen: Chosen, spec: TrialSpec) -> str | None:
    """Of the candidate that is the same training; None where none is."""
    return next((label for label, (other, _) in chosen.items() if _trains_alike(other, spec)), None)


def _trains_alike(one: TrialSpec, other: TrialSpec) -> bool:
    """Whether two trials are the same training, though one may say `passes` where the other says `epochs`."""
    if one.num_epochs != other.num_epochs or (one.training.steps is None) != (other.training.steps is None):
        return False
    if one.training.steps is not None:
        return one == other
    return _with_epochs(one, one.num_epochs) == _with_epochs(other, other.num_epochs)


def _with_steps(spec: TrialSpec, steps: int) -> TrialSpec:
    """The same over another number of steps, all its trainings together, their schedule stretched."""
    training = spec.training
    assert training.steps is not None
    each = max(1, steps // spec.num_trainings)
    milestones = [max(1, round(milestone * each / training.steps)) for milestone in training.milestones]
    every = min(training.evaluation_interval or each, each)
    return _changed(spec, {"training": {"steps": each, "evaluate_every": every, "milestones": milestones}})


def _changed(spec: TrialSpec, changes: Mapping[str, Any]) -> TrialSpec:
    data = spec.model_dump()
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, Mapping) else value
    return TrialSpec.model_validate(data)


def _completed(study: Study) -> list[Trial]:
    """The best first."""
    return [t for t in study.ranked() if t.state is TrialState.COMPLETED and study.objective.value(t) is not None]


def _tested(objective: ObjectiveConfig, *, is_own: bool, of_numbers: bool) -> ObjectiveConfig:
    """The objective on the test set, after the last epoch; accuracy where the search looked at something else.

    Args:
        is_own: a training function of the user's measures it, under whatever name.
        of_numbers: there is no accuracy, but the loss.
    """
    kind, _, name = objective.metric.partition("_")
    if is_own and kind not in ("val", "test"):
        return objective.model_copy(update={"epochs": "last"})
    if of_numbers and kind not in ("val", "test"):
        return ObjectiveConfig(metric="test_loss", mode="min")
    metric = f"test_{name}" if kind in ("val", "test") else "test_accuracy"
    return ObjectiveConfig(metric=metric, mode=objective.mode if kind in ("val", "test") else "max")
