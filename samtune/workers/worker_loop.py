"""What every worker of a group runs, from the group's start to the search's end: ask, train, report, ask again."""

from __future__ import annotations

import gc
import os
import pickle
from dataclasses import dataclass
from typing import Any

from samtune.errors import one_line, safe_text
from samtune.raylib.environment import GROUP_GENERATION
from samtune.storage import parent
from samtune.user_code import accept_functions
from samtune.user_path import add_user_folders, importing_user_code
from samtune.workers.protocol import Assignment, Failure, Reply, WorkerId
from samtune.workers.torch_globals import TorchGlobals
from samtune.workers.trial_errors import failure_of, forget_peak, is_about_a_peer, ruins_the_device
from samtune.workers.trial_host import LeaveQuestion, LoopConfig, RestartGroupError, TrialHost
from samtune.workers.trial_output import TrialOutput, listen, output_file
from samtune.workers.worker_endings import error_file, kernel_kills, note_calls_of_exit


def worker_loop(config: dict[str, LoopConfig]) -> None:
    """The train function of a group's `GroupTrainer`: trains what the coordinator says until the search is over."""
    import ray

    loop = config["loop"]
    try:
        worker = _start(loop)
    except Exception as error:  # would fail again and again: the group ends in order instead
        ray.get(loop.coordinator.group_lost.remote(loop.group, failure_of(error)))
        return
    finished, settings = -1, TorchGlobals()
    # Pickled: the coordinator would import Ray Train to know what it is a handle of, a second in which trials wait.
    process = pickle.dumps(ray.get_runtime_context().current_actor)
    while True:
        answer = ray.get(loop.coordinator.next_assignment.remote(worker.id, finished, process))
        if answer is Reply.END:
            return
        if answer is Reply.RESTART:
            raise RestartGroupError
        if isinstance(answer, Assignment):
            _run(answer, loop, worker)
            settings.restore()
            gc.collect()  # a trial's graph holds cycles; its memory must be free before the next
            if finished == -1:
                gc.freeze()  # all that is there now stays: going through torch's objects again costs 0.2 s a trial
            finished = answer.number


@dataclass(frozen=True)
class _Worker:
    id: WorkerId
    num_workers: int
    device: Any
    leave: LeaveQuestion


def _start(loop: LoopConfig) -> _Worker:
    """Imports what training needs (here, since the Train controller loads this module too) and finds its worker."""
    import ray.train.torch
    import torch

    import samtune.train.loops  # noqa: F401  # paid for here, once

    note_calls_of_exit()
    listen()  # before code of the user's is imported, which may hold on to stdout
    add_user_folders(loop.user_folders)
    if loop.parts is not None:
        with importing_user_code():  # to unpickle them
            accept_functions(ray.get(loop.parts))
    torch.set_num_threads(loop.threads)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if loop.gpu_share < 1:  # else one trial takes the memory of the others on its card
            torch.cuda.set_per_process_memory_fraction(loop.gpu_share, device)
    node = ray.get_runtime_context().get_node_id()
    generation = os.environ[GROUP_GENERATION]
    worker = WorkerId(loop.group, context.get_world_rank(), generation, node, error_file(), kernel_kills())
    return _Worker(worker, context.get_world_size(), device, LeaveQuestion(loop.coordinator, worker))


def _run(assignment: Assignment, loop: LoopConfig, worker: _Worker) -> None:
    """Trains one trial; its errors fail the trial, not the group, unless other ranks may be waiting for this one."""
    import ray

    from samtune.train.loops import train_trial
    from samtune.train.session import Place
    from samtune.train.trial import DivergedError

    place = Place(worker.id.rank, worker.num_workers, worker.device)
    output = output_file(parent(loop.checkpoint_root), assignment.key, worker.id.rank)
    forget_peak()
    try:
        with TrialOutput(output), TrialHost(assignment, loop, worker.id, place, worker.leave) as host:
            train_trial(assignment.spec, place, host)
    except DivergedError as error:  # seen by all ranks alike: the group stays
        failure = Failure(safe_text(error), diverged=True)
        ray.get(loop.coordinator.trial_failed.remote(worker.id, assignment.number, failure, False))
    except RestartGroupError:
        raise
    except BaseException as error:  # sys.exit in a trial's code would end the worker without a word
        if is_about_a_peer(error):
            ray.get(loop.coordinator.peer_lost.remote(worker.id, assignment.number, failure_of(error).error))
            raise
        # The other ranks may wait in a collective forever: raising makes Ray Train replace them all.
        alone = worker.num_workers == 1 and not ruins_the_device(error)
        ray.get(loop.coordinator.trial_failed.remote(worker.id, assignment.number, failure_of(error), not alone))
        if not alone:
            raise RestartGroupError(one_line(error)) from None
