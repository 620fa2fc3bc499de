"""Trials that give workers back for one that has lost its own: who, when, and what if something happens meanwhile."""

from __future__ import annotations

import pytest
from helpers.coordinated import FAR, run, spec_of

from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Assignment, Failure, Outcome, Progress, Reply, WorkerId

SPEC = spec_of(3)

pytestmark = pytest.mark.usefixtures("impatient")


class Group:
    """All ranks of a group, which do the same one after the other."""

    def __init__(self, box: Coordinator, index: int, size: int, generation: str = "first") -> None:
        self.box, self.node = box, f"node of {index}, {generation}"
        self.ranks = [WorkerId(index, rank, f"{index}, {generation}", self.node) for rank in range(size)]
        self.work: Assignment | None = None

    @classmethod
    async def started(cls, box: Coordinator, index: int, generation: str) -> Group:
        """With as many ranks as the coordinator says; they take what it has for them."""
        group = cls(box, index, await box.workers_for_start(index), generation)
        await group.ask()
        return group

    async def ask(self) -> Reply | Assignment:
        after = self.work.number if self.work else -1
        answers = [await self.box.next_assignment(rank, after) for rank in self.ranks]
        if isinstance(answers[0], Reply):  # the others were not there yet
            answers = [await self.box.next_assignment(rank, after) for rank in self.ranks]
        kinds = {answer if isinstance(answer, Reply) else answer.number for answer in answers}
        assert len(kinds) == 1, answers
        self.work = answers[0] if isinstance(answers[0], Assignment) else self.work
        return answers[0]

    async def epoch(self, epoch: int) -> Reply:
        """Trains an epoch; what all of its ranks are told, once rank 0 has saved if it must."""
        assert self.work is not None
        number = self.work.number
        reply = await self.box.epoch_done(self.ranks[0], number, epoch, [{"epoch": float(epoch)}])
        if reply is Reply.SAVE:
            reply = await self.box.epoch_done(self.ranks[0], number, epoch, None, saved=True)
        others = {await self.box.epoch_done(rank, number, epoch, None) for rank in self.ranks[1:]}
        assert others in ({reply}, {Reply.END}), (reply, others)  # END: the trial is another group's already
        return reply


async def two_wide_trials(starting: int | None = 2) -> tuple[Coordinator, Group, str, str]:
    """Two trials of four workers each, and the node of the second is lost: its group is starting with some workers.

    Returns:
        The coordinator, the group that is left, its trial, and the trial that waits.
    """
    box = Coordinator(num_workers=4, num_groups=2)
    await box.assign("a", SPEC, FAR)
    await box.assign("b", SPEC, FAR)
    stays, goes = Group(box, 0, 4), Group(box, 1, 4)
    first, second = await stays.ask(), await goes.ask()
    assert isinstance(first, Assignment)
    assert isinstance(second, Assignment)
    assert {first.trial_id, second.trial_id} == {"a", "b"}
    await stays.epoch(1)
    await goes.epoch(1)
    await box.nodes_changed(gone={goes.node}, draining=set())
    if starting is not None:
        assert await box.narrow(starting) == [1]
        assert await box.workers_for_start(1) == starting
    return box, stays, first.trial_id, second.trial_id


async def outcome(box: Coordinator, trial: str, known: int = 0) -> Outcome | None:
    progress = await box.progress(trial, known, FAR)
    assert isinstance(progress, Progress)
    return progress.outcome


def test_after_its_epoch_a_trial_continues_with_fewer_workers_and_the_other_has_the_places() -> None:
    async def scenario() -> None:
        box, wide, mine, waiting = await two_wide_trials()
        assert await box.make_room({mine: 2}) == [mine]
        assert await box.make_room({mine: 1}) == []  # it is leaving already
        assert not await box.must_leave(wide.ranks[0])  # not in the middle of the epoch
        assert await wide.epoch(2) is Reply.RESTART
        narrow, other = await Group.started(box, 0, "second"), await Group.started(box, 1, "second")
        assert [len(group.ranks) for group in (narrow, other)] == [2, 2]
        assert narrow.work is not None
        assert other.work is not None
        assert {narrow.work.trial_id, other.work.trial_id} == {"a", "b"}
        assert await box.workers_of_trials() == {"a": 2, "b": 2}
        attempts = {group.work.trial_id: group.work.attempt for group in (narrow, other) if group.work}
        assert attempts == {mine: 1, waiting: 2}  # the move is no attempt, the lost node is one
        for group in (narrow, other):
            first = 3 if group.work and group.work.trial_id == mine else 2
            assert [await group.epoch(epoch) for epoch in range(first, 4)][-1] is Reply.END
        assert await outcome(box, "a") is await outcome(box, "b") is Outcome.COMPLETED
        assert not [line for line in await box.events(0) or [] if "lost a worker" in line]

    run(scenario())


@pytest.mark.parametrize("starting", [None, 4])
def test_nobody_gives_places_back_to_a_group_that_would_take_more_than_it_leaves(starting: int | None) -> None:
    """A group that starts with four would take all four places, before the one that left them is up with two."""

    async def scenario() -> None:
        box, wide, mine, _ = await two_wide_trials(None)
        if starting is not None:
            assert await box.workers_for_start(1) == starting
        assert await box.make_room({mine: 2}) == []
        assert await wide.epoch(2) is Reply.CONTINUE

    run(scenario())


def test_nothing_changes_without_a_trial_that_waits_or_a_group_that_is_starting() -> None:
    async def scenario() -> None:
        box, wide, mine, waiting = await two_wide_trials()
        assert await box.make_room({}) == await box.make_room({mine: 4}) == await box.make_room({mine: 9}) == []
        await box.end(waiting)
        assert await box.make_room({mine: 2}) == []
        assert await wide.epoch(2) is Reply.CONTINUE

    run(scenario())


def test_where_the_group_of_the_waiting_trial_cannot_start_any_more_nobody_moves() -> None:
    async def scenario() -> None:
        box, _, mine, _ = await two_wide_trials()
        await box.group_lost(1, Failure("no GPU"))
        assert await box.make_room({mine: 2}) == []

    run(scenario())


def test_a_trial_that_ends_before_its_move_leaves_all_its_workers_to_the_one_that_waits() -> None:
    """Its group need not restart: it is warm, and has as many workers as there are places."""

    async def scenario() -> None:
        box, wide, mine, waiting = await two_wide_trials()
        assert await wide.epoch(2) is Reply.CONTINUE
        assert await box.make_room({mine: 2}) == [mine]
        assert await wide.epoch(3) is Reply.END  # its last
        answer = await wide.ask()
        assert isinstance(answer, Assignment)
        assert answer.trial_id == waiting
        assert await box.workers_of_trials() == {waiting: 4}
        assert await wide.epoch(2) is Reply.CONTINUE  # nor does the next trial leave it
        assert await box.workers_for_start(0) == 4  # its size is as before, should it lose a worker

    run(scenario())


def test_a_trial_that_is_stopped_before_its_move_does_so_too() -> None:
    async def scenario() -> None:
        box, wide, mine, waiting = await two_wide_trials()
        assert await box.make_room({mine: 2}) == [mine]
        await box.end(mine)
        assert await wide.epoch(2) is Reply.END
        answer = await wide.ask()
        assert isinstance(answer, Assignment)
        assert answer.trial_id == waiting

    run(scenario())


def test_a_node_that_is_lost_during_the_move_costs_an_attempt_and_no_trial() -> None:
    async def scenario(left_already: bool) -> None:
        box, wide, mine, waiting = await two_wide_trials()
        assert await box.make_room({mine: 2}) == [mine]
        if left_already:
            assert await wide.epoch(2) is Reply.RESTART
        await box.nodes_changed(gone={wide.node}, draining=set())
        other = await Group.started(box, 1, "second")
        again = await Group.started(box, 0, "second")
        assert [len(group.ranks) for group in (again, other)] == [2, 2]
        attempts = {group.work.trial_id: group.work.attempt for group in (again, other) if group.work}
        assert attempts == {waiting: 2, mine: 1 if left_already else 2}

    run(scenario(left_already=False))
    run(scenario(left_already=True))


def test_what_was_given_back_can_be_had_again() -> None:
    """4 -> 2 -> 4, when the other trial has ended."""

    async def scenario() -> None:
        box, wide, mine, waiting = await two_wide_trials()
        await box.end(waiting)
        await box.assign("c", SPEC, FAR)
        assert await box.make_room({mine: 2}) == [mine]
        assert await wide.epoch(2) is Reply.RESTART
        await box.end("c")
        narrow = await Group.started(box, 0, "second")
        other = await Group.started(box, 1, "second")
        assert narrow.work is not None
        assert other.work is None
        assert await box.widen({mine: 4}) == [mine]
        assert await other.ask() is Reply.END
        assert await narrow.epoch(3) is Reply.END

    run(scenario())
