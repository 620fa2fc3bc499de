"""The search space: one validated YAML file that says what is trained and what is searched."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from samtune.config.base import Config
from samtune.config.builtin_spaces import find_space
from samtune.config.data import DataConfig
from samtune.config.expressions import Expression
from samtune.config.inline import classes_of, normalise, relocate, spell_out
from samtune.config.method import MethodConfig
from samtune.config.model import ModelConfig
from samtune.config.overrides import Overrides, apply_overrides, override_keys
from samtune.config.rules import can_mutate, check_space
from samtune.config.samplers import GridConfig, SamplerConfig, TPEConfig
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
from samtune.config.training import TrainingConfig
from samtune.config.tree import Branches, Node, Tree, dump_node, parse_node
from samtune.config.trial import SECTIONS, TrialSpec, broken_rule
from samtune.config.values import Values
from samtune.config.yaml_source import Source, fields_of, parse_yaml, rule_of, translate
from samtune.errors import SpaceError
from samtune.study import Scalar
from samtune.user_code import with_names

_MAX_GRID = 20_000


class SearchSpace(Config):
    """What is trained, what is searched, and how. Frozen and validated; build it with `from_yaml` or `from_dict`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the study; letters, digits, '.', '_' and '-'."""
    data: DataConfig
    model: ModelConfig
    method: MethodConfig
    training: TrainingConfig = TrainingConfig()
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
    """How often a trial may lose its workers and go on; one more fails it."""
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds that an epoch may take before its workers are taken for hung and replaced; none: any."""
    num_trials: Annotated[int, Field(ge=1)] = 16
    """Configurations to try; with sampler grid, default: all."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Trials of each configuration, with a seed each; their mean counts."""
    budget: BudgetConfig = BudgetConfig()
    """What ends the search earlier."""
    on_divergence: Literal["fail", "worst"] = "fail"
    """What the sampler is told of a trial whose loss is not finite: nothing, or the worst value there has been."""
    warm_start: list[str] = Field(default_factory=list)
    """Studies whose finished trials the sampler learns from: names in the storage path, or `mlflow:EXPERIMENT`."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most trials at once; none: as many as the cluster holds."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds the sampler and every trial."""
    folder: str | None = None
    """Folder that relative paths of data and weights are in; none: the working directory."""

    _source: Source = PrivateAttr(default_factory=lambda: Source("search space"))
    _tree: Tree = PrivateAttr()
    _names: dict[str, str] = PrivateAttr(default_factory=dict)

    # -- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def from_yaml(cls, name_or_path: str | Path, overrides: Overrides = ()) -> Self:
        """Reads a space from a file, or a built-in one by its file name.

        Args:
            name_or_path: `cifar.yaml` means ./cifar.yaml if that exists, else the built-in space.
            overrides: dotted keys to set, as a mapping or as `key=value` texts (values are YAML).

        Raises:
            SpaceError: one line that names file, line, dotted key, rule and value.
        """
        path = find_space(str(name_or_path))
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"{path}: cannot be read: {error}") from error
        data, source = parse_yaml(text, str(path))
        return cls.from_dict(data, overrides, source=source)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        overrides: Overrides = (),
        *,
        source: Source | None = None,
    ) -> Self:
        """Builds a space from the same nested keys that the YAML has. Raises SpaceError as `from_yaml` does.

        The user's own functions may stand in it: `{"model": make_net, "data": make_data, "training": {"loss": f}}`.
        """
        source = (source or Source("search space")).overridden_by(override_keys(overrides))
        if not isinstance(data, Mapping):
            raise source.error((), f"must be a mapping with the keys {', '.join(fields_of(cls))} (got {data!r})")
        raw = apply_overrides(spell_out(with_names(data)), overrides, source)
        written = source.written_as(relocate(raw))
        try:
            normal = normalise(raw)
        except ValueError as error:
            key, _, problem = str(error).partition(": ")
            raise source.error(key, problem) from error
        try:
            space = cls.model_validate(normal)
        except ValidationError as error:
            raise translate(error, cls, normal, written) from error
        space._source = source
        return space

    # -- rules -------------------------------------------------------------------------------------------------------

    @field_validator("search", mode="before")
    @classmethod
    def _parse_search(cls, value: Any) -> dict[str, Node]:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping of dotted keys to distributions (got {value!r})")
        parsed: dict[str, Node] = {}
        for key, written in value.items():
            try:
                parsed[str(key)] = parse_node(written)
            except ValidationError as error:
                detail = error.errors(include_url=False)[0]
                got = "" if detail["type"] == "value_error" else f" (got {detail['input']!r})"
                raise broken_rule(f"search.{key}", rule_of(detail) + got) from None
            except ValueError as error:
                raise broken_rule(f"search.{key}", str(error)) from None
        return parsed

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._tree = Tree(self.search, self.is_active)
        self._names = check_space(self)
        if isinstance(self.sampler, GridConfig) and "num_trials" not in self.model_fields_set:
            self.__dict__["num_trials"] = self._grid_size()  # frozen for everybody else
        return self

    def _grid_size(self) -> int:
        points = self._tree.enumerate(lambda name, key, node: node.values())
        grid = list(itertools.islice(points, _MAX_GRID + 1))
        if len(grid) > _MAX_GRID:
            raise broken_rule("num_trials", f"is required: the grid has more than {_MAX_GRID:,} points")
        return sum(not any(self.violations(point)) for point in grid)

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
    def tree(self) -> Tree:
        """What is searched."""
        return self._tree

    def distributions(self) -> list[tuple[str, Node]]:
        """The searched keys in the order of sampling: names first, since they decide which other keys exist."""
        return list(self._tree.nodes.items())

    def is_active(self, key: str, config: Mapping[str, Scalar]) -> bool:
        """Whether a searched key exists, given the names drawn so far (`method.rho` does not with `sgd`)."""
        section, _, path = key.partition(".")
        if path in ("", "name"):
            return True
        return path.partition(".")[0] in self.fields(section, self._name(section, config))

    def trial(self, config: Mapping[str, Scalar]) -> TrialSpec:
        """The trial that a configuration stands for: this space with the searched keys set.

        Args:
            config: dotted key -> value, for searched keys.

        Raises:
            SpaceError: the combination breaks a rule.
        """
        sections: Any = dict(config)
        try:
            sections = self.sections(config)
            trial = TrialSpec.model_validate(sections)
            trial.layout(self.resources.num_workers)
        except ValidationError as error:
            raise translate(error, TrialSpec, sections, Source(f"{self._source.name}: trial {dict(config)}")) from error
        except ValueError as error:
            raise SpaceError(f"{self._source.name}: trial {dict(config)}: {error}") from error
        return trial.located(self.folder) if self.folder else trial

    def violations(self, config: Mapping[str, Scalar]) -> list[float]:
        """By how much a configuration misses each constraint; 0 where it holds.

        Raises:
            ValueError: an expression or constraint has no value.
        """
        if not self.constraints:
            return []
        values = self._values(config)
        values.compute()
        return [constraint.violation(values.lookup) for constraint in self.conditions]

    @cached_property
    def conditions(self) -> list[Expression]:
        """The constraints, parsed."""
        return [Expression(text) for text in self.constraints]

    def sections(self, config: Mapping[str, Scalar]) -> dict[str, Any]:
        """The keys of the trial that are set, by section. Raises ValueError where an expression has no value."""
        return {**self._values(config).compute(), "seed": self.seed, "repeats": self.repeats}

    def _values(self, config: Mapping[str, Scalar]) -> Values:
        sections: dict[str, Any] = {}
        for section in SECTIONS:
            if section in self.search:
                sections[section] = {}
                continue
            given = getattr(self, section).model_dump(exclude_unset=True)
            if hasattr(getattr(self, section), "name"):
                name = self._name(section, config)
                if name != given.get("name"):
                    # Fixed keys of the section that the chosen class does not have belong to the other choices.
                    given = {key: value for key, value in given.items() if key in self.fields(section, name)}
                given["name"] = name
            sections[section] = given
        more = {"resources.num_workers": self.resources.num_workers, "seed": self.seed}
        values = Values(sections, self._names, more)
        self._tree.apply(config, values.assign)
        return values

    def _name(self, section: str, config: Mapping[str, Scalar]) -> Any:
        if section in self.search:
            node = self.search[section]
            fixed = node.chosen(section, config).fixed if isinstance(node, Branches) else None
            return fixed.get("name") if isinstance(fixed, dict) else None
        return config.get(f"{section}.name", getattr(getattr(self, section), "name", None))

    def fields(self, section: str, name: Any = None) -> list[str]:
        """The keys of a section: of the class called `name`, or of every class that the search can choose."""
        if name is not None:
            names = [name]
        elif section in self.search:
            options = getattr(self.search[section], "options", ())
            names = [option.fixed.get("name") for option in options if isinstance(option.fixed, dict)]
        else:
            searched = self.search.get(f"{section}.name")
            names = list(searched.extremes()) if searched else [getattr(getattr(self, section), "name", None)]
        return list(dict.fromkeys(key for n in names for cls in classes_of(section, n) for key in fields_of(cls)))

    def replace(self, changes: Mapping[str, Any], options: Mapping[str, str] | None = None) -> Self:
        """A copy with dotted keys changed, validated anew. A searched key that is set is no longer searched.

        Args:
            options: key -> the option of the command line that stands for it, for messages.

        Raises:
            SpaceError: the changed space breaks a rule.
        """
        if not changes:
            return self
        return type(self).from_dict(
            self.model_dump(exclude_unset=True), changes, source=self._source.with_options(options or {})
        )

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
        """A section that is searched as a whole stands in its own place."""
        data: dict[str, Any] = handler(self)
        for section in SECTIONS:
            if section in data.get("search", {}):
                data[section] = data["search"].pop(section)
        return data

    def to_yaml(self) -> str:
        """The resolved space, every default written out; reading it gives an equal space."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, width=120)

    @property
    def source_name(self) -> str:
        """What messages call this space: its file."""
        return self._source.name
