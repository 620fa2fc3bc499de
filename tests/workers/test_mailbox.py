"""The mailbox's state machine, driven as workers, Trainables and the driver would."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from samtune.spec.space import SearchSpace
from samtune.workers import mailbox as module
from samtune.workers.mailbox import Assignment, Failure, Mailbox, Outcome, Progress, Reply

SPEC = SearchSpace.from_yaml("digits.yaml", ["training.epochs=3"]).trial({})
FAR = 1000


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


async def ask(box: Mailbox, group: int, rank: int, after: int) -> Assignment:
    answer = await box.next_assignment(group, rank, after)
    assert isinstance(answer, Assignment)
    return answer


def record(epoch: int) -> dict[str, float]:
    return {"epoch": float(epoch), "val_accuracy": epoch / 10}


def upto(epoch: int) -> list[dict[str, float]]:
    """What rank 0 brings after an epoch."""
    return [record(e) for e in range(1, epoch + 1)]


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.2)


def test_two_ranks_get_the_same_trials_in_order_and_the_records_arrive_once() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=2)
        await box.assign("a", SPEC, FAR)
        await box.assign("b", SPEC, FAR)
        await box.assign("a", SPEC, FAR)  # posted again: nothing changes
        finished = -1
        for trial_id in ("a", "b"):
            works = [await ask(box, 0, rank, finished) for rank in (0, 1)]
            assert [w.trial_id for w in works] == [trial_id, trial_id]
            assert works[0].number == works[1].number > finished
            finished = works[0].number
            for epoch in (1, 2):
                assert await box.epoch_done(0, finished, epoch, upto(epoch)) is Reply.GO_ON
                assert await box.epoch_done(0, finished, epoch, None) is Reply.GO_ON
            rank_1 = asyncio.create_task(box.epoch_done(0, finished, 3, None))  # arrives before rank 0
            await asyncio.sleep(0)
            assert await box.epoch_done(0, finished, 3, upto(3)) is Reply.END
            assert await rank_1 is Reply.END
            progress = await box.progress(trial_id, 1, FAR)
            assert progress == Progress([record(2), record(3)], Outcome.COMPLETED)

    run(scenario())


def test_with_a_target_the_workers_wait_for_the_scheduler() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=1)
        await box.assign("a", SPEC, 1)
        number = (await ask(box, 0, 0, -1)).number
        assert await box.epoch_done(0, number, 1, upto(1)) is Reply.ASK_AGAIN
        waiting = asyncio.create_task(box.epoch_done(0, number, 1, upto(1)))
        await asyncio.sleep(0)
        assert await box.progress("a", 0, 1) == Progress([record(1)])
        assert await box.progress("a", 1, 2) is None  # nothing new yet, but epoch 2 may begin
        assert await waiting is Reply.GO_ON

    run(scenario())


def test_every_rank_hears_the_same_although_the_trial_is_stopped_in_between() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=2)
        await box.assign("a", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        await ask(box, 0, 1, -1)
        assert await box.epoch_done(0, number, 1, upto(1)) is Reply.GO_ON
        await box.end("a")
        assert await box.epoch_done(0, number, 1, None) is Reply.GO_ON  # rank 0 was told so already
        assert await box.epoch_done(0, number, 2, upto(2)) is Reply.END
        assert await box.epoch_done(0, number, 2, None) is Reply.END

    run(scenario())


def test_a_stopped_trial_frees_its_group_for_the_next() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=1)
        await box.assign("a", SPEC, 1)
        await box.assign("b", SPEC, FAR)
        first = await ask(box, 0, 0, -1)
        waiting = asyncio.create_task(box.epoch_done(0, first.number, 1, upto(1)))
        await asyncio.sleep(0)
        await box.end("a")
        assert await waiting is Reply.END
        assert (await ask(box, 0, 0, first.number)).trial_id == "b"

    run(scenario())


def test_a_lost_group_continues_the_same_trial_and_repeated_records_are_dropped() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=2, max_failures=3)
        await box.assign("a", SPEC, FAR)
        first = [await ask(box, 0, rank, -1) for rank in (0, 1)]
        assert await box.epoch_done(0, first[0].number, 1, upto(1)) is Reply.GO_ON
        again = [await ask(box, 0, rank, -1) for rank in (0, 1)]  # both processes are new
        assert [(w.trial_id, w.attempt) for w in again] == [("a", 2), ("a", 2)]
        assert await box.epoch_done(0, again[0].number, 1, upto(1)) is Reply.GO_ON
        assert await box.epoch_done(0, again[0].number, 2, upto(2)) is Reply.GO_ON
        assert await box.progress("a", 0, FAR) == Progress([record(1), record(2)])
        assert any("lost a worker" in line for line in await box.events(0))

    run(scenario())


def test_a_trial_that_goes_on_in_a_resumed_search_brings_its_earlier_epochs_and_keeps_its_checkpoints() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=1)
        await box.go_on("new id", "old id")
        await box.assign("new id", SPEC, FAR)
        work = await ask(box, 0, 0, -1)
        assert (work.trial_id, work.key) == ("new id", "old id")
        assert await box.epoch_done(0, work.number, 2, upto(2)) is Reply.GO_ON  # epoch 1 was trained before
        assert await box.epoch_done(0, work.number, 3, [record(3)]) is Reply.END
        assert await box.progress("new id", 0, FAR) == Progress(upto(3), Outcome.COMPLETED)

    run(scenario())


def test_a_trial_that_keeps_losing_its_group_fails_and_the_next_one_runs() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=1, max_failures=2)
        await box.assign("a", SPEC, FAR)
        await box.assign("b", SPEC, FAR)
        for attempt in (1, 2, 3):
            work = await ask(box, 0, 0, -1)
            assert (work.trial_id, work.attempt) == ("a", attempt)
        assert (await ask(box, 0, 0, -1)).trial_id == "b"
        progress = await box.progress("a", 0, FAR)
        assert progress is not None
        assert progress.outcome is Outcome.FAILED
        assert progress.failure == Failure("lost its workers 3 times (max_failures is 2)")

    run(scenario())


def test_a_trial_that_raises_fails_and_the_restart_it_needs_is_not_held_against_the_next() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=2)
        await box.assign("a", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        await ask(box, 0, 1, -1)
        await box.assign("b", SPEC, FAR)
        await box.trial_failed(0, number, Failure("out of memory", "trace"), restarts=True)
        await box.trial_failed(0, number, Failure("connection closed by peer"), restarts=True)
        assert await box.next_assignment(0, 0, number) is Reply.ASK_AGAIN  # this process is about to be replaced
        works = [await ask(box, 0, rank, -1) for rank in (0, 1)]
        assert [(w.trial_id, w.attempt) for w in works] == [("b", 1), ("b", 1)]
        progress = await box.progress("a", 0, FAR)
        assert progress == Progress([], Outcome.FAILED, Failure("out of memory", "trace"))
        assert not any("lost" in line for line in await box.events(0))

    run(scenario())


def test_a_trial_that_fails_alike_on_all_ranks_leaves_the_group_warm() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=2)
        await box.assign("a", SPEC, FAR)
        await box.assign("b", SPEC, FAR)
        numbers = [(await ask(box, 0, rank, -1)).number for rank in (0, 1)]
        for rank in (0, 1):
            await box.trial_failed(0, numbers[rank], Failure("diverged"), restarts=False)
        assert [(await ask(box, 0, rank, numbers[rank])).trial_id for rank in (0, 1)] == ["b", "b"]

    run(scenario())


def test_two_groups_share_the_trials_and_a_lost_group_gets_no_more() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=1)
        for trial_id in "abc":
            await box.assign(trial_id, SPEC, FAR)
        assert {(await ask(box, group, 0, -1)).trial_id for group in (0, 1)} == {"a", "b"}
        await box.group_lost(0, Failure("no GPU"))
        progress = await box.progress("a", 0, FAR)
        assert progress == Progress([], Outcome.FAILED, Failure("no GPU"))
        await box.end("b")
        assert await box.epoch_done(1, 2, 1, upto(1)) is Reply.END
        assert (await ask(box, 1, 0, 2)).trial_id == "c"
        await box.group_lost(1, Failure("no GPU either"))
        await box.assign("d", SPEC, FAR)
        progress = await box.progress("d", 0, FAR)  # nobody is left to run it
        assert progress == Progress([], Outcome.FAILED, Failure("no GPU"))

    run(scenario())


def test_close_ends_everything() -> None:
    async def scenario() -> None:
        box = Mailbox(num_workers=1)
        await box.assign("a", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        idle = asyncio.create_task(box.next_assignment(1, 0, -1))
        await asyncio.sleep(0)
        await box.close()
        assert await idle is Reply.END
        assert await box.epoch_done(0, number, 1, upto(1)) is Reply.END
        progress = await box.progress("a", 1, FAR)
        assert progress is not None
        assert progress.outcome is Outcome.STOPPED

    run(scenario())
