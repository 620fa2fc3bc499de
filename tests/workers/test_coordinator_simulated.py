"""Many searches through one coordinator, in virtual time, with losses at random moments: each ends with every trial."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from samtune.config.space import SearchSpace
from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Assignment, Progress, Reply, WorkerId

SPEC = SearchSpace.from_yaml("digits.yaml", ["training.epochs=3"]).trial({})
NUM_TRIALS = 6


class VirtualTime(asyncio.SelectorEventLoop):
    """Whoever sleeps is woken at once, in the order of time: when nothing is ready, the clock jumps to the next."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        pending: Any = self
        if not pending._ready and pending._scheduled:
            self.now = max(self.now, min(handle.when() for handle in pending._scheduled))
        super()._run_once()  # type: ignore[misc]


@dataclass
class World:
    """What processes, disks and the search have, outside of the coordinator."""

    box: Coordinator
    rng: random.Random
    num_groups: int
    num_workers: int
    checkpoints: Counter[str] = field(default_factory=Counter)  # of each key, the last epoch
    restarts: dict[int, asyncio.Event] = field(default_factory=dict)  # of each group's present generation
    nodes: dict[int, str] = field(default_factory=dict)  # that each group is on
    sizes: dict[int, int] = field(default_factory=dict)  # ranks of each group's present generation
    widened: int = 0  # trials that were given more ranks
    narrowed: int = 0  # groups that came up with fewer
    made_room: int = 0  # trials that gave ranks back
    met: dict[tuple[Any, ...], list[asyncio.Event]] = field(default_factory=lambda: defaultdict(list))

    async def all_reduce(self, worker: WorkerId, number: int, epoch: int) -> None:
        """Waits for all ranks of the generation to come to this epoch."""
        waiting = self.met[(worker.group, worker.generation, number, epoch)]
        waiting.append(own := asyncio.Event())
        if len(waiting) == self.sizes[worker.group]:
            for event in waiting:
                event.set()
        await own.wait()


async def rank(world: World, worker: WorkerId) -> None:
    """A worker, as `samtune.workers.worker_loop` is one."""
    finished = -1
    while True:
        answer = await world.box.next_assignment(worker, finished)
        if answer is Reply.END:
            return
        if answer is Reply.RESTART:
            break
        if isinstance(answer, Assignment):
            if await train(world, worker, answer) is Reply.RESTART:
                break
            finished = answer.number
    world.restarts[worker.group].set()


async def train(world: World, worker: WorkerId, work: Assignment) -> Reply:
    restored, num_sent, reply = world.checkpoints[work.key], 0, Reply.END
    for epoch in range(restored + 1, SPEC.num_epochs + 1):
        await world.all_reduce(worker, work.number, epoch)
        await asyncio.sleep(world.rng.random() / 2)
        records = [{"epoch": float(e)} for e in range(num_sent + 1, epoch + 1)] if worker.rank == 0 else None
        num_sent, saved, reply = epoch, False, Reply.ASK_AGAIN
        while reply in (Reply.ASK_AGAIN, Reply.SAVE):
            if reply is Reply.SAVE:
                assert worker.rank == 0
                world.checkpoints[work.key] = max(world.checkpoints[work.key], epoch)
                await asyncio.sleep(world.rng.random() / 10)  # it may die before it says that it has saved
                saved = True
            reply, records = await world.box.epoch_done(worker, work.number, epoch, records, saved), None
        if reply is not Reply.CONTINUE:
            break
    return reply


async def group(world: World, index: int) -> None:
    """Ray Train: whatever happens to one rank, all are replaced; the old ones may go on asking for a moment."""
    for generation in range(10_000):
        world.restarts[index], world.nodes[index] = asyncio.Event(), f"node of {index}, {generation}"
        world.sizes[index] = size = await world.box.workers_for_start(index)
        if size > world.num_workers and world.rng.random() < 0.2:
            continue  # there is no room for so many after all
        await asyncio.sleep(world.rng.random() / 2)  # until the processes are there
        places = [WorkerId(index, r, f"{index}, {generation}", world.nodes[index]) for r in range(size)]
        ranks = [asyncio.create_task(rank(world, worker)) for worker in places]
        lost = asyncio.create_task(world.restarts[index].wait())
        done = asyncio.gather(*ranks)
        await asyncio.wait([lost, done], return_when=asyncio.FIRST_COMPLETED)
        if not lost.done():
            lost.cancel()
            await done  # raises what a rank raised
            return
        await asyncio.sleep(world.rng.random())
        done.cancel()
        with suppress(asyncio.CancelledError):
            await done


async def trial(world: World, trial_id: str) -> int:
    """A Trainable under a scheduler that looks at each epoch, and now and then pauses the trial. Returns its epochs."""
    known, posted = 0, False
    while True:
        if not posted:
            await world.box.assign(trial_id, SPEC, known + 1)
            posted = True
        progress = await world.box.progress(trial_id, known, known + 1)
        if not isinstance(progress, Progress):
            continue
        assert [record.epoch for record in progress.epochs] == [known + 1 + i for i in range(len(progress.epochs))]
        known += len(progress.epochs)
        if progress.outcome is not None:
            await world.box.end(trial_id)
            return known
        if world.rng.random() < 0.3:
            while (key := await world.box.save(trial_id, known)) is Reply.ASK_AGAIN:
                pass
            assert key == trial_id
            assert world.checkpoints[trial_id] >= known
            await world.box.end(trial_id)
            await asyncio.sleep(world.rng.random() * 2)
            posted = False


async def losses(world: World) -> None:
    for _ in range(8):
        await asyncio.sleep(world.rng.random() * 1.5)
        index = world.rng.randrange(world.num_groups)
        what = world.rng.choice(["drain", "die", "die together", "lose a rank"])
        hit = range(world.num_groups) if what == "die together" else [index]
        nodes = {world.nodes[i] for i in hit}
        if what == "drain":
            await world.box.nodes_changed(gone=set(), draining=nodes)
        elif what != "lose a rank":
            await world.box.nodes_changed(gone=nodes, draining=set())
        if what != "drain":
            for i in hit:
                world.restarts[i].set()
            if world.rng.random() < 0.5:
                await make_room(world)


async def make_room(world: World) -> None:
    """Groups that start have one rank only, and the trials that have more give them back."""
    world.narrowed += len(await world.box.narrow(1))
    for _ in range(5):
        await asyncio.sleep(world.rng.random() / 2)
        world.made_room += len(await world.box.make_room({f"trial {i}": 1 for i in range(NUM_TRIALS)}))


async def widening(world: World) -> None:
    """Asks for more ranks now and then, also at moments when the coordinator must refuse."""
    while True:
        await asyncio.sleep(world.rng.random() * 2)
        sizes = {f"trial {i}": world.num_workers * world.rng.choice([1, 2, 3]) for i in range(NUM_TRIALS)}
        world.widened += len(await world.box.widen(sizes))
        if world.rng.random() < 0.3:
            world.narrowed += len(await world.box.narrow(world.rng.choice([1, 2, 3])))


async def search(seed: int) -> tuple[list[int], World]:
    rng = random.Random(seed)
    num_workers, num_groups = rng.choice([1, 2, 3]), rng.choice([1, 2, 3])
    box = Coordinator(num_workers, num_groups=num_groups, max_failures=1000)
    world = World(box, rng, num_groups, num_workers)
    groups = [asyncio.create_task(group(world, index)) for index in range(num_groups)]
    trials = [asyncio.create_task(trial(world, f"trial {i}")) for i in range(NUM_TRIALS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(3000):  # of virtual time: no trial waits for ever
        wider = asyncio.create_task(widening(world))
        await losses(world)
        lengths = await asyncio.gather(*trials)
        wider.cancel()
        await box.close()
        await asyncio.gather(*groups)
    return lengths, world


@pytest.mark.parametrize("first", range(0, 500, 100))
def test_no_loss_keeps_a_search_from_its_end(first: int) -> None:
    widened = narrowed = made_room = 0
    for seed in range(first, first + 100):
        loop = VirtualTime()
        try:
            lengths, world = loop.run_until_complete(search(seed))
        except TimeoutError:
            pytest.fail(f"seed {seed}: a trial waits for ever")
        finally:
            loop.close()
        assert lengths == [SPEC.num_epochs] * NUM_TRIALS, f"seed {seed}"
        widened, narrowed = widened + world.widened, narrowed + world.narrowed
        made_room += world.made_room
    assert widened > 50
    assert narrowed > 10
    assert made_room > 3
