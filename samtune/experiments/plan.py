"""What a search is going to do, worked out before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from samtune.config.notes import notes_on
from samtune.config.search import ObjectiveConfig, ResourcesConfig
from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec, flatten
from samtune.data import DatasetInfo
from samtune.experiments.card_sharing import CardSharing
from samtune.experiments.plan_checks import check_trials
from samtune.experiments.variants import search_layouts, search_variants
from samtune.experiments.worker_choice import choose_workers
from samtune.formatting import counted
from samtune.html_table import html_table
from samtune.raylib.cluster import Node, count_workers, gpus_per_worker, group_capacity
from samtune.raylib.runtime_env import own_files
from samtune.study import Scalar
from samtune.user_source import named_functions


class Layout(Protocol):
    """How the trials of a study are laid out on a cluster."""

    @property
    def name(self) -> str: ...
    @property
    def source_name(self) -> str:
        """The file that it is from, or its name; for messages."""

    @property
    def num_trials(self) -> int: ...
    @property
    def max_concurrent(self) -> int | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def resources(self) -> ResourcesConfig: ...
    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]: ...
    def model_dump(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Summary:
    """How a study finds its trials, for its plan.

    Attributes:
        searched: dotted key -> its distribution, as text.
        initial: the points tried first.
        budget: what ends it early, e.g. `seconds 3600`; empty: nothing does.
        given: the keys that the space sets or searches.
        notes: what is hardly what was meant, each as a line.
    """

    sampler: str
    scheduler: str = "none"
    budget: str = ""
    repeats: int = 1
    searched: dict[str, str] = field(default_factory=dict)
    initial: list[dict[str, Scalar]] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class Plan:
    """The resolved plan of a search. Ranges are (least, most) over the configurations that may be drawn.

    Attributes:
        num_groups: trials that run at once; each is a group of `num_workers` workers.
        worker_choice: with `num_workers: auto`, why as many as that.
        card_sharing: with `gpus_per_worker: share`, how many trials are on a card, and why.
        num_waiting: how many of the groups wait until the cluster has started nodes for them.
        train: the training function; it knows what the data and the network are.
        num_train, num_validation, steps_per_epoch: None where a function of the user's would have to be called, and of
            an iterable.
        num_test: where trials are evaluated on the test set instead.
        is_stream: whether the training set is an iterable.
        functions: of the user's, by import path, that the search imports: key, path and file.
        files: what travels to the nodes of a cluster for them.
        steps_per_epoch: of full batches; the shuffled remainder of an epoch is left out.
        passes_per_step: forward+backward passes of the whole batch per step.
        passes_per_trial, total_passes: passes over the training set when no trial is stopped early.
        given: the keys that the space sets or searches; MLflow has these as parameters.
    """

    name: str
    num_trials: int
    num_groups: int
    num_waiting: int
    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    train: str | None
    data: str
    num_train: int | None
    num_validation: int | None
    model: str
    method: str
    batch_size: tuple[int, int]
    batch_per_worker: tuple[int, int]
    group_size: str
    precision: str
    repeats: int
    folds: tuple[int, int]
    epochs: tuple[int, int]
    steps_per_epoch: tuple[int, int] | None
    passes_per_step: tuple[float, float]
    passes_per_trial: tuple[float, float]
    total_passes: tuple[float, float]
    sampler: str
    scheduler: str
    objective: str
    searched: dict[str, str]
    initial: list[dict[str, Scalar]]
    seed: int
    num_test: int | None = None
    is_stream: bool = False
    given: list[str] = field(default_factory=list)
    worker_choice: str = ""
    card_sharing: str = ""
    budget: str = ""
    functions: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        groups = f"{counted(self.num_groups, 'group')} of {counted(self.num_workers, 'worker')}"
        return f"Plan({self.name!r}, {counted(self.num_trials, 'trial')}, {groups}, {self.objective})"

    def _repr_html_(self) -> str:
        shown = {key: value for key, value in self.to_dict().items() if value not in ([], {}, "")}
        rows = [(key.replace("_", " "), _text(value)) for key, value in shown.items()]
        return html_table(repr(self), (), rows)


def _text(value: Any) -> str:
    """A value of a plan in a notebook: a range whose ends are alike is one number."""
    if isinstance(value, tuple):
        return " to ".join(f"{end:,.6g}" for end in dict.fromkeys(value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def make_plan(
    layout: Layout,
    variants: Sequence[TrialSpec],
    summary: Summary,
    nodes: list[Node],
    addable: Sequence[Node] = (),
    *,
    layouts: Callable[[], Sequence[TrialSpec] | None],
    num_left: int | None = None,
    import_code: bool = True,
    sharing: CardSharing | None = None,
) -> Plan:
    """Resolves a study against a cluster's nodes.

    Args:
        variants: trials at the ends of all that decides about the shape or the cost of one.
        layouts: a trial for each way in which a batch may be split; None where these cannot be listed.
        num_left: trials that have not ended yet; None: all.
        addable: nodes that the cluster does not have yet and starts when they are asked for.
        import_code: whether the user's functions may be imported, and that of the data be called.
        sharing: how many trials share a card, once that is measured.

    Raises:
        DatasetError: the data are not there or malformed.
        UsageError: the network's weights, or a part of the user's, are not there or do not fit.
        ResourceError: the workers of one trial can never be placed.
        SpaceError: a batch is larger than the training set.
    """
    info = check_trials(layout.source_name, variants, import_code=import_code)
    every = [*nodes, *addable]
    gpus = gpus_per_worker(layout.resources, every) if sharing is None else sharing.gpus_per_worker
    group_capacity(layout.resources, every)
    slots = count_workers(layout.resources.cpus_per_worker, gpus, every)
    at_once = min(layout.num_trials if num_left is None else max(1, num_left), layout.max_concurrent or slots)
    choice = choose_workers(layout.resources, gpus, every, at_once=at_once, layouts=layouts)
    workers = choice.num_workers
    groups = min(slots // workers, at_once)
    placed = count_workers(layout.resources.cpus_per_worker, gpus, nodes) // workers
    passes = _range(v.num_passes for v in variants)
    return Plan(
        name=layout.name,
        num_trials=layout.num_trials,
        num_groups=groups,
        num_waiting=max(0, groups - placed),
        num_workers=workers,
        cpus_per_worker=layout.resources.cpus_per_worker,
        gpus_per_worker=gpus,
        train=variants[0].train,
        data=", ".join(dict.fromkeys(v.data.name for v in variants)),
        num_train=info.num_train if info else None,
        is_stream=info is not None and info.num_train is None,
        num_validation=info.num_validation if info else None,
        num_test=info.num_test if info else None,
        model=", ".join(dict.fromkeys(v.model.name for v in variants)),
        method=", ".join(dict.fromkeys(v.method.name for v in variants)),
        batch_size=_range(v.training.batch_size for v in variants),
        batch_per_worker=_range(v.training.batch_size // workers for v in variants),
        group_size=", ".join(dict.fromkeys(_group_size(v) for v in variants)),
        precision=", ".join(dict.fromkeys(v.training.precision for v in variants)),
        repeats=summary.repeats,
        folds=_range(v.data.folds or 1 for v in variants),
        epochs=_range(v.num_epochs for v in variants),
        steps_per_epoch=_steps_per_epoch(variants, info),
        passes_per_step=_range(v.passes_per_step for v in variants),
        passes_per_trial=passes,
        total_passes=(passes[0] * layout.num_trials, passes[1] * layout.num_trials),
        sampler=summary.sampler,
        scheduler=summary.scheduler,
        budget=summary.budget,
        objective=", ".join(f"{objective.mode} {objective.metric}" for objective in layout.objectives),
        searched=summary.searched,
        initial=summary.initial,
        seed=layout.seed,
        worker_choice=choice.reason,
        card_sharing=_card_sharing(layout.resources, gpus, sharing),
        functions=[str(function) for function in named_functions(layout.model_dump())],
        given=summary.given,
        notes=summary.notes,
        files=[str(file) for file in own_files(flatten(layout.model_dump()).values())],
    )


def _card_sharing(resources: ResourcesConfig, gpus: float, sharing: CardSharing | None) -> str:
    if resources.gpus_per_worker != "share" or sharing is not None:
        return sharing.reason if sharing else ""
    return "share: 1, 2 or 4 trials on a card, measured when the search begins" if gpus else "share: there is no card"


def _steps_per_epoch(variants: Sequence[TrialSpec], info: DatasetInfo | None) -> tuple[int, int] | None:
    """Of an epoch, or from one evaluation to the next; None where only the data tell."""
    counts = [
        v.training.evaluation_interval or ((info and info.num_train) or 0) // v.training.batch_size for v in variants
    ]
    return _range(counts) if all(counts) else None


def plan_search(space: SearchSpace, nodes: list[Node], addable: Sequence[Node] = ()) -> Plan:
    """The plan of a search; see `make_plan`."""
    layouts = partial(search_layouts, space)
    return make_plan(space, list(search_variants(space)), search_summary(space), nodes, addable, layouts=layouts)


def _group_size(spec: TrialSpec) -> str:
    """How many examples share one ε̂, as text."""
    m = getattr(spec.method, "m", None)
    return "-" if m is None else str(m)


def search_summary(space: SearchSpace) -> Summary:
    """How a search finds its trials."""
    return Summary(
        sampler=space.sampler.name,
        scheduler=space.scheduler.name,
        budget=", ".join(f"{key} {value:,g}" for key, value in space.budget.model_dump(exclude_none=True).items()),
        repeats=space.repeats,
        searched={key: str(distribution) for key, distribution in space.distributions()},
        initial=space.initial,
        given=space.given_keys,
        notes=notes_on(space),
    )


def _range(values: Any) -> tuple[Any, Any]:
    values = list(values)
    return min(values), max(values)
