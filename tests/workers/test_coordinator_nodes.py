"""What the coordinator makes of nodes that go, or are about to."""

from __future__ import annotations

import pytest
from helpers.coordinated import FAR, run, spec_of

from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Assignment, Failure, Outcome, Progress, Reply, WorkerId

SPEC = spec_of(3)

pytestmark = pytest.mark.usefixtures("impatient")


def at(group: int, rank: int, node: str, generation: str = "first") -> WorkerId:
    return WorkerId(group, rank, f"{generation} of {group}", node)


async def take(box: Coordinator, worker: WorkerId, after: int = -1) -> Assignment:
    answer = await box.next_assignment(worker, after)
    assert isinstance(answer, Assignment), answer
    return answer


def record(epoch: int) -> dict[str, float]:
    return {"epoch": float(epoch)}


def test_a_trial_whose_node_is_gone_goes_on_in_the_next_idle_group_and_old_ranks_get_nothing() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2, num_groups=2)
        for name in "ab":
            await box.assign(name, SPEC, FAR)
        first = [await take(box, at(0, rank, f"node {rank}")) for rank in (0, 1)]
        second = [await take(box, at(1, rank, "node 2")) for rank in (0, 1)]
        assert await box.epoch_done(at(0, 0, "node 0"), first[0].number, 1, [record(1)]) is Reply.CONTINUE
        await box.nodes_changed(gone={"node 1"}, draining=set())
        assert await box.epoch_done(at(0, 0, "node 0"), first[0].number, 2, [record(2)]) is Reply.END
        assert await box.next_assignment(at(0, 0, "node 0"), first[0].number) is Reply.ASK_AGAIN
        await box.end("b")
        assert await box.epoch_done(at(1, 0, "node 2"), second[0].number, 1, [record(1)]) is Reply.END
        moved = await take(box, at(1, 0, "node 2"), second[0].number)
        assert (moved.trial_id, moved.attempt) == ("a", 2)
        assert moved.number > second[0].number
        for epoch in (2, 3):
            await box.epoch_done(at(1, 0, "node 2"), moved.number, epoch, [record(epoch)])
        progress = await box.progress("a", 0, FAR)
        assert isinstance(progress, Progress)
        assert [r.epoch for r in progress.epochs] == [1, 2, 3]
        assert progress.outcome is Outcome.COMPLETED
        assert "group 0 lost its node; it restarts where there is room" in (await box.events(0) or [])

    run(scenario())


def test_the_lost_group_takes_its_trial_again_where_it_is_the_first_to_be_back() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, FAR)
        await take(box, at(0, 0, "node 0"))
        await box.nodes_changed(gone={"node 0"}, draining=set())
        again = await take(box, at(0, 0, "node 1", "second"))
        assert (again.trial_id, again.attempt) == ("a", 2)
        await box.nodes_changed(gone={"node 0"}, draining=set())  # heard of late: it is elsewhere already
        assert await box.epoch_done(at(0, 0, "node 1", "second"), again.number, 1, [record(1)]) is Reply.CONTINUE

    run(scenario())


def test_a_trial_that_keeps_losing_nodes_fails() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, max_failures=1)
        await box.assign("a", SPEC, FAR)
        for generation in range(2):
            await take(box, at(0, 0, f"node {generation}", str(generation)))
            await box.nodes_changed(gone={f"node {generation}"}, draining=set())
        progress = await box.progress("a", 0, FAR)
        assert isinstance(progress, Progress)
        assert progress.outcome is Outcome.FAILED

    run(scenario())


def test_before_its_node_is_taken_away_a_trial_is_saved_once_and_then_moves_without_a_lost_attempt() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2, max_failures=0)
        await box.assign("a", SPEC, FAR)
        work = [await take(box, at(0, rank, f"node {rank}")) for rank in (0, 1)]
        ranks = [at(0, rank, f"node {rank}") for rank in (0, 1)]
        assert await box.epoch_done(ranks[0], work[0].number, 1, [record(1)]) is Reply.CONTINUE
        await box.nodes_changed(gone=set(), draining={"node 1"})
        # Epoch 1 was granted before: the other rank goes on too, or the first would wait for it for ever.
        assert await box.epoch_done(ranks[1], work[1].number, 1, None) is Reply.CONTINUE
        assert await box.epoch_done(ranks[1], work[1].number, 2, None) is Reply.ASK_AGAIN  # until rank 0 has saved
        assert await box.epoch_done(ranks[0], work[0].number, 2, [record(2)]) is Reply.SAVE
        assert await box.epoch_done(ranks[0], work[0].number, 2, None, saved=True) is Reply.RESTART
        assert await box.epoch_done(ranks[1], work[1].number, 2, None) is Reply.END
        assert await box.next_assignment(ranks[1], work[1].number) is Reply.RESTART
        again = await take(box, at(0, 0, "node 2", "second"))
        assert (again.trial_id, again.attempt) == ("a", 1)
        assert (await box.events(0) or [])[-1] == "group 0 leaves its node, which is about to be taken away"

    run(scenario())


def test_an_idle_group_leaves_such_a_node_at_once_and_gets_no_trial_on_it() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        assert await box.next_assignment(at(0, 0, "node 0"), -1) is Reply.ASK_AGAIN
        await box.nodes_changed(gone=set(), draining={"node 0"})
        await box.assign("a", SPEC, FAR)
        assert await box.next_assignment(at(0, 0, "node 0"), -1) is Reply.RESTART
        assert (await take(box, at(0, 0, "node 1", "second"))).trial_id == "a"

    run(scenario())


def test_a_trial_that_ends_just_then_is_complete() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, FAR)
        work = await take(box, at(0, 0, "node 0"))
        await box.nodes_changed(gone=set(), draining={"node 0"})
        assert await box.epoch_done(at(0, 0, "node 0"), work.number, 3, [record(e) for e in (1, 2, 3)]) is Reply.END
        progress = await box.progress("a", 0, FAR)
        assert isinstance(progress, Progress)
        assert progress.outcome is Outcome.COMPLETED
        assert await box.next_assignment(at(0, 0, "node 0"), work.number) is Reply.RESTART

    run(scenario())


def test_groups_that_are_added_count() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, num_groups=1)
        await box.expect(2)
        await box.assign("a", SPEC, FAR)
        await box.group_lost(0, Failure("no GPU"))
        assert await box.progress("a", 0, FAR) is Reply.ASK_AGAIN  # the other may come
        assert (await take(box, at(1, 0, "node 1"))).trial_id == "a"

    run(scenario())


def test_in_the_middle_of_an_epoch_the_group_hears_of_it_and_its_trial_moves_without_a_lost_attempt() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1, num_groups=2)
        await box.assign("a", SPEC, FAR)
        first = await take(box, at(0, 0, "node 0"))
        assert not await box.must_leave(at(0, 0, "node 0"))
        await box.nodes_changed(gone=set(), draining={"node 0"})
        assert await box.must_leave(at(0, 0, "node 0"))
        assert not await box.must_leave(at(0, 0, "node 0", generation="an earlier"))
        await box.left(at(0, 0, "node 0"), first.number)
        await box.left(at(0, 0, "node 0"), first.number)  # every rank says so
        moved = await take(box, at(1, 0, "node 1"))
        assert (moved.trial_id, moved.attempt) == ("a", 1)
        await box.left(at(1, 0, "node 1"), first.number)  # of an assignment that is over: the trial stays
        assert (await take(box, at(1, 0, "node 1"))).number == moved.number

    run(scenario())
