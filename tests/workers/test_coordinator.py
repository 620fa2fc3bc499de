"""The coordinator's state machine, driven as workers, Trainables and the driver would."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from samtune.config.space import SearchSpace
from samtune.study import EpochRecord
from samtune.workers import coordinator as module
from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Assignment, Failure, Outcome, Progress, Reply, WorkerId

SPEC = SearchSpace.from_yaml("digits.yaml", ["training.epochs=3"]).trial({})
FAR = 1000


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def at(group: int, rank: int = 0, generation: str = "first") -> WorkerId:
    return WorkerId(group, rank, generation)


async def ask(box: Coordinator, group: int, rank: int, after: int, generation: str = "first") -> Assignment:
    answer = await box.next_assignment(at(group, rank, generation), after)
    assert isinstance(answer, Assignment)
    return answer


def record(epoch: int) -> dict[str, float]:
    return {"epoch": float(epoch), "val_accuracy": epoch / 10}


def records(*epochs: int) -> list[EpochRecord]:
    return [EpochRecord(record(epoch)) for epoch in epochs]


def upto(epoch: int) -> list[dict[str, float]]:
    """What rank 0 brings after an epoch."""
    return [record(e) for e in range(1, epoch + 1)]


async def told_to_save(box: Coordinator) -> tuple[Assignment, asyncio.Task[Any]]:
    """A trial whose only rank is to write a checkpoint after epoch 1, and who waits for it."""
    await box.assign("a", SPEC, 1)
    work = await ask(box, 0, 0, -1)
    waiting = asyncio.create_task(box.epoch_done(at(0), work.number, 1, upto(1)))
    await box.progress("a", 0, 1)
    saving = asyncio.create_task(box.save("a", 1))
    assert await waiting is Reply.SAVE
    return work, saving


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.2)


def test_two_ranks_get_the_same_trials_in_order_and_the_records_arrive_once() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
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
                assert await box.epoch_done(at(0), finished, epoch, upto(epoch)) is Reply.CONTINUE
                assert await box.epoch_done(at(0), finished, epoch, None) is Reply.CONTINUE
            rank_1 = asyncio.create_task(box.epoch_done(at(0), finished, 3, None))  # arrives before rank 0
            await asyncio.sleep(0)
            assert await box.epoch_done(at(0), finished, 3, upto(3)) is Reply.END
            assert await rank_1 is Reply.END
            progress = await box.progress(trial_id, 1, FAR)
            assert progress == Progress(records(2, 3), Outcome.COMPLETED)

    run(scenario())


def test_with_a_target_the_workers_wait_for_the_scheduler() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, 1)
        number = (await ask(box, 0, 0, -1)).number
        assert await box.epoch_done(at(0), number, 1, upto(1)) is Reply.ASK_AGAIN
        waiting = asyncio.create_task(box.epoch_done(at(0), number, 1, upto(1)))
        await asyncio.sleep(0)
        assert await box.progress("a", 0, 1) == Progress(records(1))
        assert await box.progress("a", 1, 2) is Reply.ASK_AGAIN  # nothing new yet, but epoch 2 may begin
        assert await waiting is Reply.CONTINUE

    run(scenario())


def test_every_rank_hears_the_same_although_the_trial_is_stopped_in_between() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
        await box.assign("a", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        await ask(box, 0, 1, -1)
        assert await box.epoch_done(at(0), number, 1, upto(1)) is Reply.CONTINUE
        await box.end("a")
        assert await box.epoch_done(at(0), number, 1, None) is Reply.CONTINUE  # rank 0 was told so already
        assert await box.epoch_done(at(0), number, 2, upto(2)) is Reply.END
        assert await box.epoch_done(at(0), number, 2, None) is Reply.END

    run(scenario())


def test_a_stopped_trial_frees_its_group_for_the_next() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, 1)
        await box.assign("b", SPEC, FAR)
        first = await ask(box, 0, 0, -1)
        waiting = asyncio.create_task(box.epoch_done(at(0), first.number, 1, upto(1)))
        await asyncio.sleep(0)
        await box.end("a")
        assert await waiting is Reply.END
        assert (await ask(box, 0, 0, first.number)).trial_id == "b"

    run(scenario())


def test_a_lost_group_continues_the_same_trial_and_repeated_records_are_dropped() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2, max_failures=3)
        await box.assign("a", SPEC, FAR)
        first = [await ask(box, 0, rank, -1) for rank in (0, 1)]
        assert await box.epoch_done(at(0), first[0].number, 1, upto(1)) is Reply.CONTINUE
        again = [await ask(box, 0, rank, -1, "second") for rank in (0, 1)]  # both processes are new
        assert [(w.trial_id, w.attempt) for w in again] == [("a", 2), ("a", 2)]
        assert await box.epoch_done(at(0), again[0].number, 1, upto(1)) is Reply.CONTINUE
        assert await box.epoch_done(at(0), again[0].number, 2, upto(2)) is Reply.CONTINUE
        assert await box.progress("a", 0, FAR) == Progress(records(1, 2))
        assert any("lost a worker" in line for line in await box.events(0) or [])

    run(scenario())


def test_a_trial_that_goes_on_in_a_resumed_search_brings_its_earlier_epochs_and_keeps_its_checkpoints() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.resume("new id", "old id")
        await box.assign("new id", SPEC, FAR)
        work = await ask(box, 0, 0, -1)
        assert (work.trial_id, work.key) == ("new id", "old id")
        assert await box.epoch_done(at(0), work.number, 2, upto(2)) is Reply.CONTINUE  # epoch 1 was trained before
        assert await box.epoch_done(at(0), work.number, 3, [record(3)]) is Reply.END
        assert await box.progress("new id", 0, FAR) == Progress(records(1, 2, 3), Outcome.COMPLETED)

    run(scenario())


def test_a_trial_that_keeps_losing_its_group_fails_and_the_next_one_runs() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, max_failures=2)
        await box.assign("a", SPEC, FAR)
        await box.assign("b", SPEC, FAR)
        for attempt in (1, 2, 3):
            work = await ask(box, 0, 0, -1, f"generation {attempt}")
            assert (work.trial_id, work.attempt) == ("a", attempt)
        assert (await ask(box, 0, 0, -1, "generation 4")).trial_id == "b"
        progress = await box.progress("a", 0, FAR)
        assert isinstance(progress, Progress)
        assert progress.outcome is Outcome.FAILED
        assert progress.failure == Failure("lost its workers 3 times (max_failures is 2)")

    run(scenario())


def test_a_trial_that_raises_fails_and_the_restart_it_needs_is_not_held_against_the_next() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
        await box.assign("a", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        await ask(box, 0, 1, -1)
        await box.assign("b", SPEC, FAR)
        await box.trial_failed(at(0), number, Failure("out of memory", "trace"), restarts=True)
        await box.trial_failed(at(0), number, Failure("connection closed by peer"), restarts=True)
        assert await box.next_assignment(at(0), number) is Reply.ASK_AGAIN  # this process is about to be replaced
        works = [await ask(box, 0, rank, -1, "second") for rank in (0, 1)]
        assert [(w.trial_id, w.attempt) for w in works] == [("b", 1), ("b", 1)]
        progress = await box.progress("a", 0, FAR)
        assert progress == Progress([], Outcome.FAILED, Failure("out of memory", "trace"))
        assert not any("lost" in line for line in await box.events(0) or [])

    run(scenario())


def test_a_trial_that_fails_alike_on_all_ranks_leaves_the_group_warm() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
        await box.assign("a", SPEC, FAR)
        await box.assign("b", SPEC, FAR)
        numbers = [(await ask(box, 0, rank, -1)).number for rank in (0, 1)]
        for rank in (0, 1):
            await box.trial_failed(at(0), numbers[rank], Failure("diverged"), restarts=False)
        assert [(await ask(box, 0, rank, numbers[rank])).trial_id for rank in (0, 1)] == ["b", "b"]

    run(scenario())


def test_two_groups_share_the_trials_and_a_lost_group_gets_no_more() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, num_groups=2)
        for trial_id in "abc":
            await box.assign(trial_id, SPEC, FAR)
        works = [await ask(box, group, 0, -1) for group in (0, 1)]
        assert [work.trial_id for work in works] == ["a", "b"]
        await box.group_lost(0, Failure("no GPU"))
        progress = await box.progress("a", 0, FAR)
        assert progress == Progress([], Outcome.FAILED, Failure("no GPU"))
        await box.end("b")
        assert await box.epoch_done(at(1), works[1].number, 1, upto(1)) is Reply.END
        assert (await ask(box, 1, 0, works[1].number)).trial_id == "c"
        await box.group_lost(1, Failure("no GPU either"))
        await box.assign("d", SPEC, FAR)
        progress = await box.progress("d", 0, FAR)  # nobody is left to run it
        assert progress == Progress([], Outcome.FAILED, Failure("no GPU"))

    run(scenario())


def test_close_ends_everything() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        idle = asyncio.create_task(box.next_assignment(at(1), -1))
        await asyncio.sleep(0)
        await box.close()
        assert await idle is Reply.END
        assert await box.epoch_done(at(0), number, 1, upto(1)) is Reply.END
        progress = await box.progress("a", 1, FAR)
        assert isinstance(progress, Progress)
        assert progress.outcome is Outcome.STOPPED

    run(scenario())


def test_after_the_mailbox_was_lost_trials_are_posted_again_and_workers_replaced() -> None:
    async def scenario() -> None:
        old = Coordinator(num_workers=2)
        await old.assign("a", SPEC, FAR)
        number = (await ask(old, 0, 0, -1)).number

        new = Coordinator(num_workers=2)
        assert await new.progress("a", 1, FAR) is Reply.RESTART
        await new.assign("a", SPEC, FAR)
        assert await new.epoch_done(at(0), number, 2, [record(2)]) is Reply.RESTART
        assert await new.next_assignment(at(0, 1), number) is Reply.RESTART
        await new.peer_lost(at(0), number, "connection closed")
        await new.trial_failed(at(0), number, Failure("late"), restarts=True)
        works = [await ask(new, 0, rank, -1) for rank in (0, 1)]
        assert [(w.trial_id, w.attempt) for w in works] == [("a", 1), ("a", 1)]
        assert works[0].number > number

    run(scenario())


def test_a_rank_that_only_waits_is_not_taken_for_a_new_process() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        for _ in range(3):
            assert await box.next_assignment(at(0), -1) is Reply.ASK_AGAIN
        await box.assign("a", SPEC, FAR)
        assert (await ask(box, 0, 0, -1)).attempt == 1
        assert await box.events(0) == ["group 0 is ready (1 worker)"]

    run(scenario())


def test_a_rank_that_asks_late_in_a_dying_group_does_not_take_the_next_trial() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
        await box.assign("a", SPEC, FAR)
        await box.assign("b", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        await box.trial_failed(at(0), number, Failure("boom"), restarts=True)
        assert await box.next_assignment(at(0, 1), -1) is Reply.ASK_AGAIN
        works = [await ask(box, 0, rank, -1, "second") for rank in (1, 0)]
        assert [(w.trial_id, w.attempt) for w in works] == [("b", 1), ("b", 1)]

    run(scenario())


def test_a_late_error_in_a_trial_that_ended_is_not_held_against_the_next() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
        await box.assign("a", SPEC, 1)
        await box.assign("b", SPEC, FAR)
        number = (await ask(box, 0, 0, -1)).number
        await ask(box, 0, 1, -1)
        await box.end("a")
        assert await box.epoch_done(at(0), number, 1, upto(1)) is Reply.END
        await box.trial_failed(at(0, 1), number, Failure("out of memory"), restarts=True)
        assert await box.next_assignment(at(0), number) is Reply.ASK_AGAIN
        works = [await ask(box, 0, rank, -1, "second") for rank in (0, 1)]
        assert [w.trial_id for w in works] == ["b", "b"]
        assert not any("lost" in line for line in await box.events(0) or [])

    run(scenario())


def test_new_workers_do_not_train_a_trial_that_has_ended() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, FAR)
        await ask(box, 0, 0, -1)
        await box.end("a")
        await box.assign("b", SPEC, FAR)
        assert (await ask(box, 0, 0, -1, "second")).trial_id == "b"

    run(scenario())


def test_one_lost_group_does_not_fail_trials_that_others_will_take() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, num_groups=2)
        await box.assign("a", SPEC, FAR)
        await box.group_lost(0, Failure("no GPU"))
        assert await box.progress("a", 0, FAR) is Reply.ASK_AGAIN
        assert (await ask(box, 1, 0, -1)).trial_id == "a"

    run(scenario())


def test_a_trial_is_saved_on_demand_by_rank_0_alone_while_all_wait() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2)
        await box.resume("a", "key of a")
        await box.assign("a", SPEC, 1)
        work, _ = [await ask(box, 0, rank, -1) for rank in (0, 1)]
        ranks = [
            asyncio.create_task(box.epoch_done(at(0, rank), work.number, 1, upto(1) if rank == 0 else None))
            for rank in (0, 1)
        ]
        await box.progress("a", 0, 1)
        saving = asyncio.create_task(box.save("a", 1))
        assert await ranks[0] is Reply.SAVE
        assert await ranks[1] is Reply.ASK_AGAIN
        assert await saving is Reply.ASK_AGAIN  # not written yet
        again = asyncio.create_task(box.epoch_done(at(0), work.number, 1, None, True))
        assert await box.save("a", 1) == "key of a"
        assert await again is Reply.ASK_AGAIN  # saved, and still no leave to go on

        # Paused: it leaves its group, which is free for another; later it goes on under the same key.
        await box.end("a")
        assert await box.epoch_done(at(0), work.number, 1, None, True) is Reply.END
        await box.assign("b", SPEC, 1)
        other = await ask(box, 0, 0, work.number)
        assert other.trial_id == "b"
        await box.end("b")
        assert await box.epoch_done(at(0), other.number, 1, upto(1)) is Reply.END
        await box.assign("a", SPEC, 1)
        resumed = await ask(box, 0, 0, other.number)
        assert (resumed.trial_id, resumed.key) == ("a", "key of a")
        assert resumed.number > other.number

    run(scenario())


def test_what_becomes_of_a_checkpoint_that_cannot_be_written() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        assert await box.save("unknown", 1) is Reply.RESTART
        work, saving = await told_to_save(box)
        await box.trial_failed(at(0), work.number, Failure("disk full"), False)
        assert await saving == Failure("disk full")
        await box.assign("b", SPEC, 1)
        await box.close()
        assert await box.save("b", 1) is Reply.END

    run(scenario())


def test_a_group_that_must_leave_saves_its_trial_which_goes_on_in_another() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2, num_groups=2)
        await box.assign("a", SPEC, 1)
        here = [WorkerId(0, rank, "first", "spot") for rank in (0, 1)]
        work, _ = [await box.next_assignment(worker, -1) for worker in here]
        assert isinstance(work, Assignment)
        leaving = asyncio.create_task(box.must_leave(here[0]))
        await asyncio.sleep(0)
        await box.nodes_changed(gone=set(), draining={"spot"})
        assert await leaving
        assert await box.epoch_done(here[0], work.number, 1, upto(1)) is Reply.SAVE
        rank_1 = asyncio.create_task(box.epoch_done(here[1], work.number, 1, None))
        await asyncio.sleep(0)
        assert await box.epoch_done(here[0], work.number, 1, None, True) is Reply.RESTART
        assert await rank_1 is Reply.RESTART
        assert await box.next_assignment(here[0], work.number) is Reply.RESTART

        moved = await ask(box, 1, 0, -1)
        assert (moved.trial_id, moved.key, moved.attempt) == ("a", "a", 1)  # no failure of the trial
        assert await box.epoch_done(at(1), moved.number, 1, upto(1)) is Reply.ASK_AGAIN  # the scheduler has its say
        assert await box.progress("a", 0, 2) == Progress(records(1))
        assert await box.epoch_done(at(1), moved.number, 1, None) is Reply.CONTINUE
        assert await box.events(0) == [
            "group 0 is ready (2 workers)",
            "group 0 leaves its node, which is about to be taken away",
        ]

    run(scenario())


def test_a_trial_that_waited_longer_is_taken_by_a_group_that_has_finished_a_later_one() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, num_groups=3)
        on = [WorkerId(group, 0, "first", f"node {group}") for group in range(3)]
        for trial_id in "abcd":
            await box.assign(trial_id, SPEC, FAR)
        works = [await box.next_assignment(worker, -1) for worker in on]
        assert [w.trial_id for w in works if isinstance(w, Assignment)] == ["a", "b", "c"]
        await box.nodes_changed(gone={"node 0", "node 1"}, draining=set())  # a and b wait again, beside d
        finished = works[2]
        taken = []
        for _ in range(3):
            assert isinstance(finished, Assignment)
            assert await box.epoch_done(on[2], finished.number, 3, upto(3)) is Reply.END
            finished = await box.next_assignment(on[2], finished.number)
            assert isinstance(finished, Assignment)
            taken.append(finished.trial_id)
        assert sorted(taken) == ["a", "b", "d"]

    run(scenario())


def test_a_checkpoint_whose_writer_died_before_it_said_so_counts_once_it_was_restored() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        _, saving = await told_to_save(box)
        again = await ask(box, 0, 0, -1, "second")  # it restored epoch 1, and has trained epoch 2
        assert await box.epoch_done(at(0, generation="second"), again.number, 2, upto(2)) is Reply.ASK_AGAIN
        assert await saving == "a"

    run(scenario())


def test_a_group_that_comes_up_again_waits_until_it_is_known_how_its_processes_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        known = asyncio.Event()

        async def ending_of(worker: WorkerId | None, ray_says: str) -> str:
            await known.wait()
            assert worker == at(0, 1)
            return f"ended with {ray_says}"

        monkeypatch.setattr(module, "ending_of", ending_of)
        monkeypatch.setattr(module, "POLL_SECONDS", 20)
        box = Coordinator(num_workers=2)
        await box.workers_lost(5, {0: "no group of this number has been seen"})
        await box.assign("a", SPEC, FAR)
        for rank in (0, 1):
            await ask(box, 0, rank, -1)
        examined = asyncio.create_task(box.workers_lost(0, {1: "code 3"}))
        await asyncio.sleep(0)
        again = asyncio.create_task(ask(box, 0, 0, -1, "second"))
        await asyncio.sleep(0)
        assert not any("lost a worker" in line for line in await box.events(0) or [])
        known.set()
        await asyncio.gather(examined, again)
        assert "group 0 lost a worker and was restarted: worker 1 ended with code 3" in (await box.events(0) or [])

    run(scenario())


def test_where_a_rank_has_told_why_the_trial_failed_no_loss_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def losses_among(actors: object) -> dict[int, str]:
            raise AssertionError

        monkeypatch.setattr(module, "losses_among", losses_among)
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, FAR)
        work = await ask(box, 0, 0, -1)
        await box.trial_failed(at(0), work.number, Failure("its own"), restarts=True)
        await box.workers_lost(0, {})

    run(scenario())
