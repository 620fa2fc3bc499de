"""`resources.num_workers: auto`: more workers where trials are fewer than places, never another result."""

from __future__ import annotations

import pytest

from samtune import SearchSpace
from samtune.config.search import ResourcesConfig
from samtune.config.space import SpaceError
from samtune.experiments.plan import plan_search
from samtune.experiments.variants import search_layouts
from samtune.experiments.worker_choice import choose_workers
from samtune.raylib.cluster import Node
from samtune.terminal.plan import format_plan

EIGHT = [Node(8, 0)]
FREE = "method.m=8"  # of a batch of 64: up to 8 workers


def space(*overrides: str) -> SearchSpace:
    return SearchSpace.from_yaml("digits.yaml", ["resources.num_workers=auto", "initial=[]", *overrides])


@pytest.mark.parametrize(
    ("trials", "nodes", "workers", "groups"),
    [
        (40, EIGHT, 1, 8),
        (8, EIGHT, 1, 8),
        (5, EIGHT, 1, 5),
        (4, EIGHT, 2, 4),
        (3, EIGHT, 2, 3),
        (2, EIGHT, 4, 2),
        (1, EIGHT, 8, 1),
        (1, [Node(3, 0)], 2, 1),  # 3 do not divide the batch
        (1, [Node(4, 0), Node(4, 0)], 4, 1),  # a trial stays on its node
        (3, [Node(4, 0), Node(4, 0)], 2, 3),
        (1, [Node(1, 0)], 1, 1),
    ],
)
def test_places_are_shared_out_where_trials_are_few(trials: int, nodes: list[Node], workers: int, groups: int) -> None:
    plan = plan_search(space(FREE, f"num_trials={trials}"), nodes)
    assert (plan.num_workers, plan.num_groups) == (workers, groups)


def test_a_gpu_each() -> None:
    plan = plan_search(space(FREE, "num_trials=1", "resources.gpus_per_worker=auto"), [Node(16, 4)])
    assert (plan.num_workers, plan.gpus_per_worker) == (4, 1)


def test_what_runs_at_once_and_what_is_left_counts() -> None:
    assert plan_search(space(FREE, "num_trials=40", "max_concurrent=2"), EIGHT).num_workers == 4
    few = space(FREE, "num_trials=40")
    resources, layouts = few.resources, lambda: search_layouts(few)
    assert choose_workers(resources, 0, EIGHT, at_once=2, layouts=layouts).num_workers == 4


def test_a_share_of_a_card_is_one_worker_s() -> None:
    resources = ResourcesConfig(num_workers="auto", gpus_per_worker=0.25)
    choice = choose_workers(resources, 0.25, [Node(8, 1)], at_once=1, layouts=list)
    assert (choice.num_workers, choice.reason) == (1, "auto: 1 trial for 4 places, which are shares of a card")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method.m=worker"], "with m: worker the result of sam depends on their number; give m a number"),
        (["method.m=global"], "with m: global a forward has a worker's share of the batch, on which digits_cnn"),
        (["method=sgd"], "with steps of sgd without a perturbation a forward has"),
        ([FREE, "method.every=2"], "with steps of sam without a perturbation"),
        ([FREE, "search.method.rho={choice: [0.0, 0.05]}"], "with steps of sam without a perturbation"),
        ([FREE, "method.rho_schedule=warmup"], "with steps of sam without a perturbation"),
        (["model={name: mlp}", "method={name: esam, m: global}"], "with m: global a forward has"),
        (["model={name: wide_resnet, norm: none, dropout: 0.1, depth: 10}", "method.m=global"], "on which wide_resnet"),
        (["search.method.name={choice: [sgd, sam]}", FREE], "with steps of sgd"),
        (["training.batch_size=61", "method.m=global"], "on 2 workers batch_size must be a positive multiple of"),
    ],
)
def test_a_number_that_may_change_a_result_is_not_chosen(overrides: list[str], reason: str) -> None:
    plan = plan_search(space("num_trials=1", "search={}", *overrides), EIGHT)
    assert plan.num_workers == 1
    assert plan.worker_choice.startswith("auto: 1 trial for 8 places, but ")
    assert reason in plan.worker_choice
    assert plan.worker_choice in dict(format_plan(plan)).values()


@pytest.mark.parametrize(
    ("overrides", "workers"),
    [
        (["model={name: mlp}", "method=sgd"], 8),
        (["model={name: mlp}", "method.m=global"], 8),
        (["model={name: wide_resnet, norm: none, depth: 10}", "method={name: asam, m: global}"], 8),
        (["search.method.m={choice: [8, 16]}"], 4),
        (["search.training.batch_size={choice: [32, 64]}", "method.m={expr: batch_size // 8}"], 8),
        (["search.training.batch_size={choice: [32, 96]}", "method.m=16"], 2),
    ],
)
def test_every_split_that_may_be_drawn_fits(overrides: list[str], workers: int) -> None:
    plan = plan_search(space("num_trials=1", "search={}", *overrides), EIGHT)
    assert plan.num_workers == workers


def test_a_batch_that_follows_from_a_continuous_key_cannot_be_listed() -> None:
    overrides = ["search={training.lr: {uniform: [0.1, 0.9]}}", "method.m={expr: '8 if lr < 0.5 else 16'}"]
    plan = plan_search(space("num_trials=1", *overrides), EIGHT)
    assert plan.num_workers == 1
    assert plan.worker_choice.endswith("but batch size and m have too many values to check")


def test_an_expression_cannot_use_what_depends_on_the_cluster() -> None:
    with pytest.raises(SpaceError) as error:
        space("constraints=['method.m <= batch_size // num_workers']")
    (line,) = str(error.value).splitlines()
    assert "constraints.0: method.m <= batch_size // num_workers: needs resources.num_workers as a number" in line


@pytest.mark.parametrize("value", ["0", "automatic", "1.5"])
def test_anything_else_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(SpaceError) as error:
        SearchSpace.from_yaml("digits.yaml", [f"resources.num_workers={value}"])
    (line,) = str(error.value).splitlines()
    assert "resources.num_workers: must be" in line
    assert "'auto'" in line
