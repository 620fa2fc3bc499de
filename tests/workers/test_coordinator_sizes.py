"""Groups that restart with more workers: when, what becomes of the others, and what if that does not work."""

from __future__ import annotations

import pytest
from helpers.coordinated import FAR, run, spec_of

from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Assignment, Failure, Outcome, Progress, Reply, WorkerId

SPEC = spec_of(9)

pytestmark = pytest.mark.usefixtures("impatient")


def at(group: int, rank: int = 0, generation: str = "first") -> WorkerId:
    return WorkerId(group, rank, f"{generation} of {group}", f"node of {generation}")


async def take(box: Coordinator, worker: WorkerId) -> Assignment:
    answer = await box.next_assignment(worker, -1)
    assert isinstance(answer, Assignment), answer
    return answer


async def widened(num_groups: int = 2) -> tuple[Coordinator, Assignment]:
    """A trial that has left its one worker after its first epoch, for two of them."""
    box = Coordinator(num_workers=1, num_groups=num_groups, max_failures=0)
    await box.assign("a", SPEC, FAR)
    work = await take(box, at(0))
    assert await box.next_assignment(at(1), -1) is Reply.ASK_AGAIN
    assert await box.widen({"a": 2}) == ["a"]
    assert not await box.must_leave(at(0))  # not in the middle of the epoch
    assert await box.epoch_done(at(0), work.number, 1, [{"epoch": 1.0}]) is Reply.SAVE
    assert await box.epoch_done(at(0), work.number, 1, None, saved=True) is Reply.RESTART
    return box, work


async def outcome(box: Coordinator) -> Outcome | None:
    progress = await box.progress("a", 0, FAR)
    assert isinstance(progress, Progress)
    return progress.outcome


def test_after_its_epoch_a_trial_continues_with_more_workers_and_the_idle_group_ends() -> None:
    async def scenario() -> None:
        box, work = await widened()
        assert await box.workers_for_start(0) == 2
        assert await box.next_assignment(at(1), -1) is Reply.END
        ranks = [at(0, rank, "second") for rank in (0, 1)]
        first, second = [await take(box, rank) for rank in ranks]
        assert (first.trial_id, first.attempt, first.number) == ("a", 1, second.number)
        assert first.number > work.number
        assert await box.workers_of_trials() == {"a": 2}
        for rank, records in zip(ranks, ([{"epoch": 2.0}], None), strict=True):
            assert await box.epoch_done(rank, first.number, 2, records) is Reply.CONTINUE
        assert await box.events(0) == [
            "group 0 is ready (1 worker)",
            "group 1 is ready (1 worker)",
            "group 0 is ready (2 workers)",
        ]
        usage = await box.usage()
        assert "retired_at" in usage[1]
        assert "retired_at" not in usage[0]
        # It has trained on two: a lost worker is replaced as ever.
        assert await box.workers_for_start(0) == 2

    run(scenario())


def test_a_group_that_does_not_come_up_with_more_workers_gets_its_first_number_back() -> None:
    async def scenario() -> None:
        box, _ = await widened()
        assert await box.workers_for_start(0) == 2
        assert await box.workers_for_start(0) == 1
        assert await box.workers_for_start(0) == 1
        again = await take(box, at(0, 0, "third"))
        assert (again.trial_id, again.attempt) == ("a", 1)
        assert "group 0 did not train on 2 workers: it goes back to 1" in (await box.events(0) or [])

    run(scenario())


def test_a_group_whose_workers_are_lost_before_an_epoch_goes_back_and_so_does_one_whose_trial_raises() -> None:
    async def scenario(raises: bool) -> None:
        box, _ = await widened()
        assert await box.workers_for_start(0) == 2
        ranks = [at(0, rank, "second") for rank in (0, 1)]
        work = [await take(box, rank) for rank in ranks]
        if raises:
            await box.trial_failed(ranks[1], work[1].number, Failure("no memory for two"), True)
            assert await box.epoch_done(ranks[0], work[0].number, 2, [{"epoch": 2.0}]) is Reply.END
        assert await box.workers_for_start(0) == 1
        again = await take(box, at(0, 0, "third"))
        assert (again.trial_id, again.attempt) == ("a", 1)
        await box.trial_failed(at(0, 0, "third"), again.number, Failure("no memory at all"), True)
        assert await outcome(box) is Outcome.FAILED  # on its first number of workers an error is the trial's

    run(scenario(raises=True))
    run(scenario(raises=False))


def test_nothing_changes_while_a_trial_waits_or_a_group_is_not_whole() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=2, num_groups=1)
        await box.assign("a", SPEC, FAR)
        await take(box, at(0, 0))
        assert await box.widen({"a": 4}) == []  # a rank is missing
        await take(box, at(0, 1))
        assert await box.widen({"a": 2}) == await box.widen({"a": 1}) == await box.widen({"b": 4}) == []
        await box.assign("b", SPEC, FAR)
        assert await box.widen({"a": 4}) == []  # the other waits for its place
        await box.end("b")
        assert await box.widen({"a": 4}) == ["a"]
        assert await box.widen({"a": 8}) == []  # it is leaving already

    run(scenario())


def test_a_trial_fails_where_the_one_group_is_lost_that_has_not_ended() -> None:
    async def scenario() -> None:
        box, _ = await widened(num_groups=3)
        await box.group_lost(0, Failure("no GPU"))
        assert await outcome(box) is Outcome.FAILED

    run(scenario())


def test_a_node_that_is_about_to_go_is_left_in_the_middle_of_the_epoch_all_the_same() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=1)
        await box.assign("a", SPEC, FAR)
        await take(box, at(0))
        assert await box.widen({"a": 2}) == ["a"]
        await box.nodes_changed(gone=set(), draining={"node of first"})
        assert await box.must_leave(at(0))

    run(scenario())


def test_a_group_whose_node_is_gone_comes_up_with_as_many_workers_as_there_is_room_for() -> None:
    async def scenario() -> None:
        box = Coordinator(num_workers=4)
        await box.assign("a", SPEC, FAR)
        assert await box.narrow(1) == []  # it has not come up yet: nodes may be about to come
        for rank in range(4):
            await take(box, at(0, rank))
        assert await box.narrow(1) == []  # it is whole
        await box.nodes_changed(gone={"node of first"}, draining=set())
        assert await box.workers_for_start(0) == 4  # for which there is no room
        assert await box.narrow(2) == [0]
        assert await box.narrow(2) == []
        assert await box.workers_for_start(0) == 2
        ranks = [at(0, rank, "second") for rank in range(2)]
        work = [await take(box, rank) for rank in ranks]
        await box.epoch_done(ranks[0], work[0].number, 1, [{"epoch": 1.0}])
        # When nodes are added it gets more, and where these do not come up, what it had last.
        assert await box.widen({"a": 4}) == ["a"]
        assert await box.workers_for_start(0) == 4
        assert await box.workers_for_start(0) == 2

    run(scenario())
