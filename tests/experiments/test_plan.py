"""What fits on a cluster, and what a search will cost."""

from __future__ import annotations

import pytest

from samtune import SearchSpace
from samtune.config.search import ResourcesConfig
from samtune.errors import ResourceError, SpaceError
from samtune.experiments.plan import plan_search
from samtune.raylib.cluster import Node, group_capacity
from samtune.terminal.plan import format_plan

TWO_CPUS = [Node(cpus=2, gpus=0)]


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "nodes", "groups"),
    [
        (2, 1.0, 0.0, [Node(2, 0)], 1),
        (2, 0.5, 0.0, [Node(2, 0)], 2),
        (1, 1.0, "auto", [Node(8, 4)], 4),  # a GPU each: the CPUs would hold 8
        (1, 1.0, "auto", [Node(8, 0)], 8),
        (4, 1.0, 1.0, [Node(16, 2), Node(16, 2), Node(16, 1)], 1),  # 5 places, a group spans nodes
        (1, 0.1, 0.5, [Node(4, 1)], 2),
        (1, 1.0, 0.25, [Node(32, 2)], 8),
        (1, 1.0, 0.25, [Node(6, 2)], 6),  # the cards would hold 8
        (1, 1.0, 0.4, [Node(32, 2)], 4),  # two on each card: a worker is on one, so it is not 2 / 0.4
        (1, 1.0, 0.1, [Node(32, 1)], 10),
        (1, 1.0, 2.0, [Node(32, 5)], 2),
        (3, 1.5, 0.0, [Node(4, 0), Node(4, 0)], 1),  # two workers fit on each, not 5 of 8 CPUs / 1.5
    ],
)
def test_groups_are_counted_by_what_each_node_holds(
    workers: int, cpus: float, gpus: float | str, nodes: list[Node], groups: int
) -> None:
    resources = ResourcesConfig(num_workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)  # type: ignore[arg-type]
    assert group_capacity(resources, nodes) == groups


def test_several_trials_on_a_card_are_planned_and_said() -> None:
    space = SearchSpace.from_yaml("digits.yaml", ["resources={num_workers: 1, gpus_per_worker: 0.25}", "num_trials=40"])
    plan = plan_search(space, [Node(64, 2)])
    assert (plan.num_groups, plan.gpus_per_worker) == (8, 0.25)
    assert dict(format_plan(plan))["workers"] == "8 groups side by side, each 1 x 1 CPU + 0.25 GPU, 4 on a card"


@pytest.mark.parametrize(
    ("precision", "nodes", "said"),
    [
        ("auto", [Node(8, 1)], "bf16 on cards that have it, else fp32"),
        ("fp16", [Node(8, 1)], "fp16"),
        ("auto", [Node(8, 0)], None),  # on a CPU auto changes nothing
    ],
)
def test_the_plan_says_the_precision_on_gpus(precision: str, nodes: list[Node], said: str | None) -> None:
    changes = [f"training.precision={precision}", "resources={num_workers: 1}"]
    plan = plan_search(SearchSpace.from_yaml("digits.yaml", changes), nodes)
    assert dict(format_plan(plan)).get("precision") == said


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        (
            "{num_workers: 2, gpus_per_worker: 0.25}",
            "gpus_per_worker 0.25 needs num_workers 1 (got 2): two workers of",
        ),
        ("{num_workers: 1, gpus_per_worker: 1.5}", "gpus_per_worker must be whole above 1 (got 1.5)"),
    ],
)
def test_cards_that_cannot_be_shared_so_are_refused_in_one_line(resources: str, problem: str) -> None:
    with pytest.raises(SpaceError) as error:
        SearchSpace.from_yaml("digits.yaml", [f"resources={resources}"])
    (line,) = str(error.value).splitlines()
    assert "resources: " in line
    assert problem in line


def test_what_can_never_be_placed_says_what_to_change() -> None:
    with pytest.raises(ResourceError, match=r"4 workers of 1 CPU each .* has 2 CPU, room for 2; lower num_workers"):
        group_capacity(ResourcesConfig(num_workers=4), TWO_CPUS)
    with pytest.raises(ResourceError, match=r"1 worker of 1 CPU and 1 GPU each .* lower resources\.gpus_per_worker"):
        group_capacity(ResourcesConfig(gpus_per_worker=1.0), TWO_CPUS)


def test_costs_range_over_what_may_be_drawn() -> None:
    space = SearchSpace.from_yaml(
        "digits.yaml",
        ["search.method.name={choice: [sgd, sam]}", "search.training.epochs={choice: [2, 20]}", "num_trials=10"],
    )
    plan = plan_search(space, TWO_CPUS)
    assert plan.passes_per_step == (1.0, 2.0)
    assert plan.epochs == (2, 20)
    assert plan.passes_per_trial == (2.0, 40.0)
    assert plan.total_passes == (20.0, 400.0)
    assert plan.num_groups == 1


def test_a_range_is_right_however_many_other_keys_are_searched() -> None:
    many = [f"search.training.{key}={{uniform: [0.1, 0.2]}}" for key in ("lr", "weight_decay", "label_smoothing")]
    many += [f"search.training.{key}={{uniform: [0.5, 0.6]}}" for key in ("momentum", "decay_factor")]
    space = SearchSpace.from_yaml("digits.yaml", ["initial=[]", *many, "search.training.epochs={choice: [2, 20]}"])
    assert plan_search(space, TWO_CPUS).epochs == (2, 20)


def test_searched_data_is_checked_too() -> None:
    space = SearchSpace.from_yaml("digits.yaml", ["search.data.num_train={choice: [40, 400]}"])
    with pytest.raises(SpaceError, match=r"training\.batch_size: must not exceed the training examples \(64 > 36"):
        plan_search(space, TWO_CPUS)
