"""The search space: one validated YAML file that says what is trained and what is searched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

from samtune.config.base import Config, FunctionPath
from samtune.config.build import build_space
from samtune.config.builtin_spaces import find_space
from samtune.config.data import DataConfig, NoDataConfig
from samtune.config.dumped import drop_searched, only_written
from samtune.config.expressions import Expression
from samtune.config.located import Located, Place, Problem, RefusedError, locate
from samtune.config.method import MethodConfig
from samtune.config.model import ModelConfig, NoModelConfig
from samtune.config.overrides import Overrides, apply_overrides
from samtune.config.resolve import Resolver
from samtune.config.samplers import SamplerConfig, TPEConfig
from samtune.config.search import (
    MUTABLE,
    BudgetConfig,
    CheckpointConfig,
    NoSchedulerConfig,
    ObjectiveConfig,
    Objectives,
    PB2Config,
    PBTConfig,
    ResourcesConfig,
    SchedulerConfig,
)
from samtune.config.search_rules import can_mutate
from samtune.config.searched import Node, dump_node
from samtune.config.sections import fields_of, spell_out
from samtune.config.template import Template
from samtune.config.training import LOSSES, OF_CLASSES, TrainingConfig
from samtune.config.trial import SECTIONS, LayoutError, TrialSpec, flatten
from samtune.config.yaml_source import MAX_BYTES, parse_yaml
from samtune.errors import SpaceError
from samtune.formatting import counted
from samtune.html_table import html_table
from samtune.study import Scalar
from samtune.user_code import with_names


class SearchSpace(Config):
    """What is trained, what is searched, and how. Frozen and validated; build it with `from_yaml` or `from_dict`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the study; letters, digits, '.', '_' and '-'."""
    data: DataConfig = NoDataConfig()
    model: ModelConfig = NoModelConfig()
    method: MethodConfig
    training: TrainingConfig = TrainingConfig()
    train: FunctionPath | None = None
    """A training function of one's own, `folder/file.py:function` or `package.module:function`, called with a
    `samtune.TrialContext` on every worker; then without `data` and `model`. None: samtune's own loop."""
    config: dict[str, Any] = Field(default_factory=dict)
    """What the training function reads: keys of one's own, which can be searched as those of the other sections."""
    search: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> distribution; what the sections search inline is here too."""
    constraints: list[str] = Field(default_factory=list)
    """Conditions on the keys of a trial, e.g. `method.m <= training.batch_size // 2`; no trial breaks one."""
    initial: list[dict[str, Scalar]] = Field(default_factory=list)
    """Points tried first: dotted key -> value; keys left out are sampled."""
    sampler: SamplerConfig = TPEConfig()
    scheduler: SchedulerConfig = NoSchedulerConfig()
    objectives: Annotated[Objectives, Field(alias="objective")] = (ObjectiveConfig(),)
    """What is optimised: one objective, or a list of several."""
    resources: ResourcesConfig = ResourcesConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How many times a trial may lose its workers and resume. One more loss fails it."""
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds that an epoch may take before its workers are taken for hung and replaced; none: any."""
    num_trials: Annotated[int, Field(ge=1)] = 16
    """Configurations to try; with sampler grid, default: all."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Trials of each configuration, with a seed each; their mean counts."""
    keep_weights: Annotated[int, Field(ge=0)] = 1
    """Of how many of the best completed trials the weights stay in the study; 0: none."""
    budget: BudgetConfig = BudgetConfig()
    """What ends the search earlier."""
    on_divergence: Literal["fail", "worst"] = "fail"
    """What the sampler gets for a trial whose loss is not finite: nothing, or the worst value so far."""
    warm_start: list[str] = Field(default_factory=list)
    """Studies whose finished trials the sampler learns from: names in the storage path, or `mlflow:EXPERIMENT`."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most trials at once; none: as many as the cluster holds."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds the sampler and every trial."""
    folder: str | None = None
    """Folder that relative paths of data and weights are in; none: the working directory."""

    _root: Located | None = PrivateAttr(default=None)
    _tree: Template = PrivateAttr(default_factory=lambda: Template({}, {}))
    _resolver: Resolver | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _default_objective(cls, value: Any) -> Any:
        """Where targets are numbers there is no accuracy: the loss is what counts then."""
        if not isinstance(value, Mapping) or value.get("objective") or value.get("objectives"):
            return value
        training = value.get("training")
        loss = training.get("loss") if isinstance(training, Mapping) else getattr(training, "loss", None)
        if loss in LOSSES and loss not in OF_CLASSES:
            test = getattr(value.get("data"), "validation_fraction", None) == 0
            return {**value, "objective": (ObjectiveConfig(metric="test_loss" if test else "val_loss", mode="min"),)}
        return value

    # -- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def from_yaml(cls, name_or_path: str | Path, overrides: Overrides = ()) -> Self:
        """Reads a space from a file, or a built-in one by its file name.

        Args:
            name_or_path: `cifar.yaml` means ./cifar.yaml if that exists, else the built-in space.
            overrides: dotted keys to set, as a mapping or as `key=value` texts (values are YAML).

        Raises:
            SpaceError: a line for each problem, which names file, line, dotted key, rule and value.
        """
        path = find_space(str(name_or_path))
        try:
            with path.open("rb") as file:
                text = file.read(MAX_BYTES + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"{path}: cannot be read: {error}") from error
        return cls.from_text(text, str(path), overrides)

    @classmethod
    def from_text(cls, text: str, name: str, overrides: Overrides = ()) -> Self:
        """Reads a space from YAML text; `name` is what messages call it. Raises SpaceError as `from_yaml` does."""
        return cls._from_located(parse_yaml(text, name), overrides)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], overrides: Overrides = ()) -> Self:
        """Builds a space from the same nested keys that the YAML has. Raises SpaceError as `from_yaml` does.

        The user's own functions may stand in it: `{"model": make_net, "data": make_data, "training": {"loss": f}}`.
        """
        place = Place("search space")
        try:
            root = locate(with_names(data) if isinstance(data, Mapping) else data, place)
        except RefusedError as error:
            raise error.space_error() from error
        return cls._from_located(root, overrides)

    @classmethod
    def _from_located(cls, root: Located, overrides: Overrides) -> Self:
        try:
            if not isinstance(root.value, dict):
                rule = f"must be a mapping with the keys {', '.join(fields_of(cls))}"
                raise RefusedError([Problem(root.place, rule, repr(root.plain()))])
            return build_space(cls, apply_overrides(spell_out(root), overrides))
        except RefusedError as error:
            raise error.space_error() from error

    def replace(self, changes: Mapping[str, Any], options: Mapping[str, str] | None = None) -> Self:
        """A copy with dotted keys changed. A searched key that is set is no longer searched.

        Args:
            options: key -> the command-line option that sets it, for messages.

        Raises:
            SpaceError: the changed space breaks a rule.
        """
        if not changes:
            return self
        assert self._root is not None
        try:
            return build_space(type(self), apply_overrides(self._root, changes, options), before=self)
        except RefusedError as error:
            raise error.space_error() from error

    # -- what the search asks ----------------------------------------------------------------------------------------

    @property
    def objective(self) -> ObjectiveConfig:
        """The first objective."""
        return self.objectives[0]

    @property
    def mutations(self) -> list[str]:
        """The searched keys that a population-based scheduler changes while trials run; none with any other."""
        if not isinstance(self.scheduler, PBTConfig | PB2Config):
            return []
        return self.scheduler.mutations or [key for key in self.search if key in MUTABLE and can_mutate(self, key)]

    @property
    def tree(self) -> Template:
        """The sections, and what is searched in them."""
        return self._tree

    @property
    def given_keys(self) -> list[str]:
        """The keys of a trial that are written or searched; what is not here has its default.

        A section or a key whose branches are searched stands for all keys below it.
        """
        root = self._root.plain() if self._root is not None else {}
        written = flatten({key: value for key, value in root.items() if key in SECTIONS and isinstance(value, dict)})
        searched = self._tree.nodes
        below = tuple(f"{key}." for key in searched)
        return [*(key for key in written if key not in searched and not key.startswith(below)), *searched]

    @property
    def names(self) -> Mapping[str, str]:
        """Every name in an expression or constraint, and the dotted key that it means."""
        return self._resolver.names if self._resolver is not None else {}

    def distributions(self) -> list[tuple[str, Node]]:
        """The searched keys in the order of sampling: names first, since they decide which other keys exist."""
        return list(self._tree.nodes.items())

    def is_active(self, key: str, config: Mapping[str, Scalar]) -> bool:
        """Whether a searched key exists, given the names drawn so far (`method.rho` does not with `sgd`)."""
        return self._tree.is_active(key, config)

    def trial(self, config: Mapping[str, Scalar]) -> TrialSpec:
        """The trial of a configuration: this space with the searched keys set.

        Args:
            config: dotted key -> value, for searched keys. One that is left out has the value that is written beside
                the search, or its default; where no trial can have that, its first value, or its last.

        Raises:
            SpaceError: the combination breaks a rule.
        """
        where = f"{self.source_name}: trial {dict(config)}"
        try:
            trial = self._resolve.first_trial(self._tree.completions(config))
            trial.layout(self.resources.least_workers)
        except RefusedError as error:
            problems = "; ".join(f"{problem.place.label}: {problem.text}" for problem in error.problems)
            raise SpaceError(f"{where}: {problems}") from error
        except LayoutError as error:
            raise SpaceError(f"{where}: {error.key}: {error}") from error
        return trial.located(self.folder) if self.folder else trial

    def violations(self, config: Mapping[str, Scalar]) -> list[float]:
        """By how much a configuration misses each constraint; 0 where it holds.

        Raises:
            ValueError: an expression or constraint has no value.
        """
        return self._resolve.violations(config) if self.constraints else []

    @property
    def conditions(self) -> tuple[Expression, ...]:
        """The constraints, parsed."""
        return self._resolver.constraints if self._resolver is not None else ()

    def sections(self, config: Mapping[str, Scalar]) -> dict[str, Any]:
        """The keys of the trial that are set, by section. Raises ValueError where an expression has no value."""
        return {**self._resolve.sections(config).plain(), **self._resolve.fixed}

    @property
    def _resolve(self) -> Resolver:
        assert self._resolver is not None
        return self._resolver

    # -- text --------------------------------------------------------------------------------------------------------

    @field_serializer("objectives")
    def _dump_objectives(self, objectives: Objectives) -> Any:
        dumped = [objective.model_dump() for objective in objectives]
        return dumped if len(dumped) > 1 else dumped[0]

    @field_serializer("search")
    def _dump_search(self, search: dict[str, Node]) -> dict[str, Any]:
        return {key: dump_node(node) for key, node in search.items()}

    @model_serializer(mode="wrap")
    def _dump_branches(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is searched stands in `search` alone; a section that is searched as a whole stands in its own place."""
        data: dict[str, Any] = handler(self)
        for key in ("data", "model") if self.train is not None else ("train", "config"):
            data.pop(key, None)
        only_written(data, self._tree)
        drop_searched(data, self.search)
        for section in SECTIONS:
            if section in data.get("search", {}):
                data[section] = data["search"].pop(section)
        return data

    def __repr__(self) -> str:
        searched = counted(len(self.distributions()), "searched key")
        return f"SearchSpace({self.name!r}, {searched}, {counted(self.num_trials, 'trial')}, {self._goal})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = [(key, str(node)) for key, node in self.distributions()]
        title = f"{self.name}: {counted(self.num_trials, 'trial')}, {self._goal}"
        below = [f"where {constraint}" for constraint in self.constraints]
        return html_table(title, ("key", "searched in"), rows, below)

    @property
    def _goal(self) -> str:
        return ", ".join(f"{objective.mode} {objective.metric}" for objective in self.objectives)

    def to_yaml(self) -> str:
        """The resolved space, defaults written out; reading it gives a space with the same trials.

        A searched key has no value beside its search. In a section whose name is searched, defaults are not written.
        """
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, width=120)

    @property
    def source_name(self) -> str:
        """What messages call this space: its file."""
        return self._root.place.source if self._root is not None else "search space"
