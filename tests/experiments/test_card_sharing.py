"""How many trials share a card: what is timed, what is chosen, and what is said where nothing can be timed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest
import ray
from helpers.bad_parts import divides, in_one_process

from samtune import SearchSpace
from samtune.config.search import ResourcesConfig
from samtune.experiments.card_sharing import CardSharing, best_count, share_cards, useful_counts
from samtune.experiments.child_request import pack
from samtune.experiments.plan import Plan, make_plan, search_summary, search_variants
from samtune.experiments.side_by_side import NotTimedError, time_side_by_side
from samtune.raylib.cluster import Node
from samtune.terminal.plan import format_plan

SHARE = ResourcesConfig(gpus_per_worker="share")


def space(*settings: str) -> SearchSpace:
    return SearchSpace.from_yaml("digits.yaml", ["resources={num_workers: 1, gpus_per_worker: share}", *settings])


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 109.0, 4: 109.0}, 1),
        ({1: 100.0, 2: 109.0, 4: 111.0}, 4),  # of one alone, not of two
        ({1: 100.0, 2: 150.0, 4: 160.0}, 2),
        ({1: 100.0, 2: 150.0, 4: 166.0}, 4),
        ({1: 100.0, 2: 60.0, 4: 50.0}, 1),
    ],
)
def test_more_trials_on_a_card_must_be_a_tenth_faster_together(rates: dict[int, float], best: int) -> None:
    assert best_count(rates) == best


@pytest.mark.parametrize(
    ("nodes", "cpus", "at_once", "counts"),
    [
        ([Node(16, 2)], 1, 100, [1, 2, 4]),
        ([Node(6, 2)], 1, 100, [1, 2]),  # three CPUs for each card
        ([Node(16, 2)], 8, 100, [1]),
        ([Node(64, 0), Node(16, 2)], 1, 100, [1, 2, 4]),
        ([Node(16, 2)], 1, 2, [1]),  # a card for each
        ([Node(16, 2)], 1, 3, [1, 2]),
        ([Node(16, 2)], 1, 4, [1, 2]),
        ([Node(16, 2)], 1, 5, [1, 2, 4]),
    ],
)
def test_what_no_trial_or_cpu_is_left_for_is_not_timed(
    nodes: list[Node], cpus: float, at_once: int, counts: list[int]
) -> None:
    resources = ResourcesConfig(gpus_per_worker="share", cpus_per_worker=cpus)
    assert useful_counts(resources, nodes, at_once) == counts


def test_a_part_that_fails_is_named() -> None:
    spec = space(f"training.loss={divides.__module__}:{divides.__name__}").trial({})
    with pytest.raises(NotTimedError, match="ZeroDivisionError: division by zero"):
        time_side_by_side(pack([spec], threads=1), [1])


def test_what_the_memory_does_not_hold_side_by_side_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_PROCESS", str(tmp_path / "first"))
    spec = space(f"training.loss={in_one_process.__module__}:{in_one_process.__name__}").trial({})
    timed = time_side_by_side(pack([spec], threads=1), [1, 2], seconds=0.1, rounds=1)
    assert list(timed.rates) == [1]
    assert timed.rates[1] > 0
    assert timed.most == 1


@pytest.mark.cluster
def test_it_is_measured_on_a_card_of_the_cluster_which_is_then_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    variants = list(search_variants(space()))
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        given_up = share_cards(SHARE, variants, [Node(2, 1)], at_once=8, is_given_up=lambda: True)
        found = share_cards(SHARE, variants, [Node(2, 1)], at_once=8, is_given_up=lambda: False)
        deadline = time.monotonic() + 120
        while ray.available_resources().get("GPU") != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not [process for process in psutil.Process().children(recursive=True) if is_timed(process)]
    finally:
        ray.shutdown()
    assert given_up is not None
    assert given_up.trials_per_card == 1
    assert found is not None
    assert found.trials_per_card in (1, 2)
    rates = re.fullmatch(r"share: .* are ([\d.]+) with 1, ([\d.]+) with 2 \(CPU\)", found.reason)  # there is no card
    assert rates, found.reason


def is_timed(process: psutil.Process) -> bool:
    try:
        return "side_by_side_child.py" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    ("settings", "nodes", "at_once", "reason"),
    [
        ([], [Node(8, 0)], 8, None),
        (["resources.gpus_per_worker=auto"], [Node(8, 1)], 8, None),
        ([], [Node(8, 4)], 2, "share: 1 trial on a card: 2 trials for 4 cards"),
        ([], [Node(3, 2)], 8, "no node has CPUs for two on each of its cards"),
        (["train=helpers.train_functions:by_step"], [Node(8, 1)], 8, "only helpers.train_functions:by_step knows"),
    ],
)
def test_nothing_is_timed_where_nothing_is_to_be_chosen(
    settings: list[str], nodes: list[Node], at_once: int, reason: str | None
) -> None:
    given = space(*settings)
    variants = list(search_variants(given))
    sharing = share_cards(given.resources, variants, nodes, at_once=at_once, is_given_up=lambda: False)
    if reason is None:
        assert sharing is None
    else:
        assert sharing is not None
        assert sharing.trials_per_card == 1
        assert reason in sharing.reason


def plan(sharing: CardSharing | None, nodes: list[Node]) -> Plan:
    given = space("num_trials=40")
    variants = list(search_variants(given))
    return make_plan(given, variants, search_summary(given), nodes, layouts=lambda: None, sharing=sharing)


def test_the_plan_follows_the_measurement_and_shows_it() -> None:
    measured = plan(CardSharing(4, "share: 4 trials on a card: they are 3 times as fast"), [Node(64, 2)])
    assert (measured.num_groups, measured.gpus_per_worker) == (8, 0.25)
    assert "share: 4 trials on a card: they are 3 times as fast" in [value for _, value in format_plan(measured)]
    before = plan(None, [Node(64, 2)])
    assert (before.num_groups, before.gpus_per_worker) == (2, 1)
    assert before.card_sharing.endswith("measured when the search begins")
    assert plan(None, [Node(2, 0)]).card_sharing == "share: there is no card"
