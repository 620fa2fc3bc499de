"""The search space: one validated YAML file that says what is trained and what is searched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_serializer, field_validator, model_validator

from samtune.errors import SpaceError
from samtune.records import Scalar
from samtune.spec.base import Config
from samtune.spec.builtin import find_space
from samtune.spec.data import DataConfig
from samtune.spec.distributions import Choice, Distribution, Int, LogUniform, Uniform, parse_distribution
from samtune.spec.method import MethodConfig
from samtune.spec.model import ModelConfig
from samtune.spec.samplers import MEMORYLESS, SINGLE_OBJECTIVE, SamplerConfig, TPEConfig
from samtune.spec.search import (
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
from samtune.spec.source import (
    Source,
    config_classes,
    did_you_mean,
    fields_of,
    names_of,
    parse_value,
    parse_yaml,
    rule_of,
    translate,
)
from samtune.spec.training import TrainingConfig
from samtune.spec.trial import SECTIONS, TrialSpec, broken_rule

_MAX_LAYOUTS = 1000  # combinations of batch size and m that are checked one by one


class SearchSpace(Config):
    """What is trained, what is searched, and how. Frozen and validated; build it with `from_yaml` or `from_dict`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the study; letters, digits, '.', '_' and '-'."""
    data: DataConfig
    model: ModelConfig
    method: MethodConfig
    training: TrainingConfig = TrainingConfig()
    search: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> distribution."""
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
    """Configurations to try."""
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

    _source: Source = PrivateAttr(default_factory=lambda: Source("search space"))

    # -- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def from_yaml(cls, name_or_path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Self:
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
        overrides: Mapping[str, Any] | Sequence[str] = (),
        *,
        source: Source | None = None,
    ) -> Self:
        """Builds a space from the same nested keys that the YAML has. Raises SpaceError as `from_yaml` does."""
        source = (source or Source("search space")).overridden_by(_override_keys(overrides))
        if not isinstance(data, Mapping):
            raise source.error((), f"must be a mapping with the keys {', '.join(fields_of(cls))} (got {data!r})")
        raw = _apply_overrides(data, overrides, source)
        try:
            space = cls.model_validate(raw)
        except ValidationError as error:
            raise translate(error, cls, raw, source) from error
        space._source = source
        return space

    # -- rules -------------------------------------------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _default_names(cls, raw: Any) -> Any:
        """Where a section's `name` is searched, the section need not repeat it: the first choice stands for it."""
        if not isinstance(raw, Mapping):
            return raw
        raw = dict(raw)
        scheduler = raw.get("scheduler")
        if isinstance(scheduler, Mapping) and scheduler.get("name") in ("pbt", "pb2"):
            raw.setdefault("sampler", {"name": "random"})
        if not isinstance(raw.get("search"), Mapping):
            return raw
        for section in SECTIONS:
            searched = raw["search"].get(f"{section}.name")
            options = searched.get("choice") if isinstance(searched, Mapping) else None
            if options and isinstance(raw.get(section, {}), Mapping) and "name" not in raw.get(section, {}):
                raw[section] = {"name": options[0], **raw.get(section, {})}
        return raw

    @field_validator("search", mode="before")
    @classmethod
    def _parse_search(cls, value: Any) -> dict[str, Distribution]:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping of dotted keys to distributions (got {value!r})")
        parsed: dict[str, Distribution] = {}
        for key, distribution in value.items():
            try:
                parsed[str(key)] = parse_distribution(distribution)
            except ValidationError as error:
                detail = error.errors(include_url=False)[0]
                got = "" if detail["type"] == "value_error" else f" (got {detail['input']!r})"
                raise broken_rule(f"search.{key}", rule_of(detail) + got) from None
            except ValueError as error:
                raise broken_rule(f"search.{key}", str(error)) from None
        return parsed

    @field_serializer("objectives")
    def _dump_objectives(self, objectives: Objectives) -> Any:
        dumped = [objective.model_dump() for objective in objectives]
        return dumped if len(dumped) > 1 else dumped[0]

    @field_serializer("search")
    def _dump_search(self, search: dict[str, Distribution]) -> dict[str, Any]:
        return {key: distribution.model_dump(mode="json") for key, distribution in search.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, distribution in self.search.items():
            self._check_key(key, f"search.{key}")
            for value in distribution.extremes():
                self._check_value(key, value, f"search.{key}")
        for index, point in enumerate(self.initial):
            where = f"initial.{index}"
            for key, value in point.items():
                if key not in self.search:
                    raise broken_rule(f"{where}.{key}", f"is not a searched key{did_you_mean(key, self.search)}")
                if not self.search[key].contains(value):
                    raise broken_rule(f"{where}.{key}", f"must lie in the searched {self.search[key]} (got {value!r})")
        self._check_search()
        self._check_fixed()
        self._check_layouts()
        return self

    def _check_search(self) -> None:
        """Sampler, scheduler, objectives and repeats must fit each other."""
        scheduler, names = self.scheduler.name, [objective.metric for objective in self.objectives]
        if len(set(names)) < len(names):
            raise broken_rule("objective", f"names a metric twice (got {', '.join(names)})")
        if len(names) > 1 and scheduler != "none":
            raise broken_rule(
                "scheduler", f"{scheduler} compares trials by one metric; with several objectives it must be none"
            )
        if len(names) > 1 and self.sampler.name in SINGLE_OBJECTIVE:
            raise broken_rule(
                "sampler", f"{self.sampler.name} has one objective; for several take tpe, nsgaii, gp or random"
            )
        if isinstance(self.scheduler, PBTConfig | PB2Config):
            self._check_population(self.scheduler)

    def _check_population(self, scheduler: PBTConfig | PB2Config) -> None:
        if self.sampler.name not in MEMORYLESS:
            raise broken_rule(
                "sampler",
                f"{scheduler.name} changes what a sampler has proposed, which {self.sampler.name} would take for its "
                f"own; the first configurations must come from one of {', '.join(MEMORYLESS)}",
            )
        if self.repeats > 1:
            raise broken_rule("repeats", f"must be 1 with {scheduler.name}, whose trials copy each other")
        if self.num_trials < 2:
            raise broken_rule("num_trials", f"{scheduler.name} needs a population of at least 2 (got 1)")
        mutable = [key for key in self.search if key in MUTABLE]
        for index, key in enumerate(scheduler.mutations or ()):
            if key not in self.search:
                problem = f"is not a searched key (got {key!r}{did_you_mean(key, mutable)})"
                raise broken_rule(f"scheduler.mutations.{index}", problem)
            if key not in mutable:
                problem = f"cannot change while a trial runs (got {key!r}; {', '.join(MUTABLE)} can)"
                raise broken_rule(f"scheduler.mutations.{index}", problem)
        if not self.mutations:
            raise broken_rule("scheduler", f"{scheduler.name} needs a searched key that can change while a trial runs")
        if isinstance(scheduler, PB2Config):
            for key in self.mutations:
                if not isinstance(self.search[key], Uniform | LogUniform):
                    raise broken_rule("scheduler", f"pb2 changes real intervals only ({key} is {self.search[key]})")

    def _check_fixed(self) -> None:
        """The sections must fit each other before anything is searched."""
        try:
            self._resolve({})
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            raise broken_rule(str(detail.get("ctx", {}).get("key", "")), rule_of(detail)) from None

    def _check_key(self, key: str, where: str) -> None:
        section, _, name = key.partition(".")
        if section not in SECTIONS or not name:
            valid = [f"{s}.{field}" for s in SECTIONS for field in self._fields(s)]
            raise broken_rule(
                where, f"unknown key; a searched key is in {', '.join(SECTIONS)}{did_you_mean(key, valid)}"
            )
        fields = self._fields(section)
        if name not in fields:
            raise broken_rule(where, f"unknown key{did_you_mean(name, fields)}")

    def _check_value(self, key: str, value: Scalar, where: str) -> None:
        section, _, field = key.partition(".")
        config: dict[str, Scalar] = {key: value}
        if field != "name" and f"{section}.name" in self.search:
            owner = next(
                (n for n in self.search[f"{section}.name"].extremes() if field in self._fields(section, n)), None
            )
            config = {f"{section}.name": owner, **config}
        try:
            self._resolve(config)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            if detail["type"] in ("union_tag_invalid", "literal_error"):
                valid = names_of_section(section) if field == "name" else []
                raise broken_rule(where, f"unknown value {value!r}{did_you_mean(str(value), valid)}") from None
            raise broken_rule(where, f"{rule_of(detail)} (a bound or choice is {value!r})") from None

    def _check_layouts(self) -> None:
        """Every combination of batch size and m that the search may draw must fit the workers."""
        if _num_values(self.search, "training.batch_size", "method.name", "method.m") > _MAX_LAYOUTS:
            return  # too many to try; each trial is checked when it is drawn
        sizes = _all_values(self.search.get("training.batch_size"), self.training.batch_size)
        names = _all_values(self.search.get("method.name"), self.method.name)
        ms = _all_values(self.search.get("method.m"), getattr(self.method, "m", None))
        for size, name, m in itertools.product(sizes, names, ms):
            config: dict[str, Scalar] = {"training.batch_size": size, "method.name": name}
            if m is not None and "m" in self._fields("method", name):
                config["method.m"] = m
            try:
                self._resolve(config).layout(self.resources.num_workers)
            except ValidationError:
                continue  # reported by the key's own rule
            except ValueError as error:
                about_m = "m" in str(error).split()
                raise broken_rule("method.m" if about_m else "training.batch_size", str(error)) from None

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
        return self.scheduler.mutations or [key for key in self.search if key in MUTABLE]

    def distributions(self) -> list[tuple[str, Distribution]]:
        """The searched keys in the order of sampling: names first, since they decide which other keys exist."""
        return sorted(self.search.items(), key=lambda item: not item[0].endswith(".name"))

    def is_active(self, key: str, config: Mapping[str, Scalar]) -> bool:
        """Whether a searched key exists, given the names drawn so far (`method.rho` does not with `sgd`)."""
        section, _, field = key.partition(".")
        name = config.get(f"{section}.name", getattr(getattr(self, section), "name", None))
        return field == "name" or field in self._fields(section, name)

    def trial(self, config: Mapping[str, Scalar]) -> TrialSpec:
        """The trial that a configuration stands for: this space with the searched keys set.

        Args:
            config: dotted key -> value, for searched keys.

        Raises:
            SpaceError: the combination breaks a rule.
        """
        try:
            trial = self._resolve(config)
            trial.layout(self.resources.num_workers)
        except ValidationError as error:
            raise translate(
                error, TrialSpec, dict(config), Source(f"{self._source.name}: trial {dict(config)}")
            ) from error
        except ValueError as error:
            raise SpaceError(f"{self._source.name}: trial {dict(config)}: {error}") from error
        return trial

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy with dotted keys changed, validated anew. A searched key that is set is no longer searched.

        Raises:
            SpaceError: the changed space breaks a rule.
        """
        if not changes:
            return self
        return type(self).from_dict(self.model_dump(exclude_unset=True), changes, source=self._source)

    def _resolve(self, config: Mapping[str, Scalar]) -> TrialSpec:
        sections: dict[str, Any] = {s: getattr(self, s).model_dump(exclude_unset=True) for s in SECTIONS}
        for section in SECTIONS:
            name = getattr(getattr(self, section), "name", None)
            chosen = config.get(f"{section}.name", name)
            if name is not None:
                # Fixed keys of the section that the chosen class does not have belong to the other choices.
                fields = self._fields(section, chosen)
                kept = (
                    {k: v for k, v in sections[section].items() if k in fields} if chosen != name else sections[section]
                )
                sections[section] = {**kept, "name": chosen}
        for key, value in config.items():
            section, _, field = key.partition(".")
            sections[section][field] = value
        return TrialSpec.model_validate({**sections, "seed": self.seed})

    def _fields(self, section: str, name: Scalar = None) -> list[str]:
        """The keys of a section: of the class called `name`, or of every class that the search can choose."""
        classes = list(config_classes(TrialSpec.model_fields[section].annotation))
        if len(classes) == 1:
            return list(classes[0].model_fields)
        searched = self.search.get(f"{section}.name")
        names = [name] if name is not None else _all_values(searched, getattr(self, section).name)
        return list(dict.fromkeys(f for cls in classes if set(names_of(cls)) & set(names) for f in cls.model_fields))

    # -- text --------------------------------------------------------------------------------------------------------

    def to_yaml(self) -> str:
        """The resolved space, every default written out; reading it gives an equal space."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, width=120)

    @property
    def source_name(self) -> str:
        """What messages call this space: its file."""
        return self._source.name


def names_of_section(section: str) -> list[str]:
    """All names a section can have, e.g. of `method`: sgd, sam, …"""
    return [n for cls in config_classes(TrialSpec.model_fields[section].annotation) for n in names_of(cls)]


def _num_values(search: Mapping[str, Distribution], *keys: str) -> int:
    """How many combinations the keys can take."""
    counts = [d.high - d.low + 1 if isinstance(d, Int) else len(d.extremes()) for key in keys if (d := search.get(key))]
    return math.prod(counts)


def _all_values(distribution: Distribution | None, fixed: Any) -> list[Any]:
    """Every value a key can take, where they can be listed (ends only for real intervals)."""
    if distribution is None:
        return [fixed]
    if isinstance(distribution, Int):
        return list(range(distribution.low, distribution.high + 1))
    return distribution.choice if isinstance(distribution, Choice) else distribution.extremes()


def _apply_overrides(
    data: Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str], source: Source
) -> dict[str, Any]:
    """A copy of `data` with dotted keys set.

    Setting a key that is searched fixes it: it is no longer searched. Setting a section's `name` leaves out what the
    file says for the section that the new name does not have (`method.name=sgd` has no rho).
    """
    raw: dict[str, Any] = {key: _copy(value) for key, value in data.items()}
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for key, value in pairs:
        first, _, rest = key.partition(".")
        if first == "search" and rest:  # searched keys are dotted themselves
            raw["search"] = {**(raw.get("search") or {}), rest: value}
            continue
        node, *parts = [raw, *key.split(".")]
        for depth, part in enumerate(parts[:-1]):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise source.error(parts[: depth + 1], f"has no keys below it (--set {key}={value})")
        node[parts[-1]] = value
        if key == "objective.metric":
            node.pop("mode", None)  # the file's is of the file's metric
        _stop_searching(raw, [key])
        if key == "search":
            _stop_searching(raw, [k for k in _searched_keys(raw) if k not in (raw["search"] or {})])
        if rest == "name" and first in SECTIONS and (fields := _fields_of_name(first, value)):
            raw[first] = {k: v for k, v in raw[first].items() if k in fields}
            absent = [k for k in _searched_keys(raw) if k.startswith(f"{first}.") and k[len(first) + 1 :] not in fields]
            _stop_searching(raw, absent)
    return raw


def _override_keys(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    return list(overrides) if isinstance(overrides, Mapping) else [text.partition("=")[0].strip() for text in overrides]


def _searched_keys(raw: Mapping[str, Any]) -> set[str]:
    """The keys of the search and of the initial points."""
    search, initial = raw.get("search"), raw.get("initial")
    keys = set(search) if isinstance(search, dict) else set()
    points = initial if isinstance(initial, list) else []
    return keys.union(*(point for point in points if isinstance(point, dict)))


def _stop_searching(raw: dict[str, Any], gone: Sequence[str]) -> None:
    """Takes keys out of the search and of the initial points."""
    if isinstance(raw.get("search"), dict):
        raw["search"] = {key: value for key, value in raw["search"].items() if key not in gone}
    if isinstance(raw.get("initial"), list):
        raw["initial"] = [
            {key: value for key, value in point.items() if key not in gone} if isinstance(point, dict) else point
            for point in raw["initial"]
        ]


def _fields_of_name(section: str, name: Any) -> list[str]:
    """The keys of the section's class of that name; empty where there is none."""
    for cls in config_classes(TrialSpec.model_fields[section].annotation):
        if name in names_of(cls):
            return list(cls.model_fields)
    return []


def parse_override(text: str) -> tuple[str, Any]:
    """`training.lr=1e-3` -> ("training.lr", 0.001).

    Raises:
        SpaceError: there is no `=`, or the value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SpaceError(f"--set {text}: must be dotted.key=value, e.g. --set training.epochs=5")
    try:
        return key.strip(), parse_value(value)
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"--set {text}: the value is not valid YAML: {' '.join(str(error).split())}") from error


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
