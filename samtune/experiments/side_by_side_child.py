"""Run as a script by `samtune.experiments.side_by_side`: trains one trial for as long as it is asked to, and counts."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

_MOST_SECONDS = 300  # of this process: a trial that hangs holds up no search
_WARM_UP, _FEWEST_STEPS = 3, 3
_ENDLESS = 1_000_000_000


def main(root: str) -> None:
    """Reads a request and then, line by line, for how many seconds to train; answers each with a JSON object."""
    signal.alarm(_MOST_SECONDS)
    sys.path.append(root)  # it may not be installed
    from samtune.experiments.child_request import answer_stream

    answers = answer_stream()

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        size = int.from_bytes(sys.stdin.buffer.read(8), "big")
        _serve(sys.stdin.buffer.read(size), answer)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}".partition("\n")[0])
    os._exit(0)  # processes that read examples, and threads of the user's, are not waited for


def _serve(request: bytes, answer: Any) -> None:
    import torch

    from samtune.experiments.child_request import become_a_worker, unpack
    from samtune.train.first_batch import begin_trial
    from samtune.train.trial import EVAL_BATCH_SIZE

    settings = unpack(request)
    become_a_worker(settings["threads"])
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    (spec,) = settings["specs"]
    run, batches = begin_trial(spec, 1, device, num_steps=_ENDLESS)

    def train(seconds: float, fewest: int) -> tuple[int, float]:
        run.model.train()
        started, steps, elapsed = time.perf_counter(), 0, 0.0
        while steps < fewest or elapsed < seconds:
            run.train_step(*next(batches))
            steps, elapsed = steps + 1, time.perf_counter() - started
        if on_gpu:
            torch.cuda.synchronize()  # steps that are on their way count with the time they take
        return steps, time.perf_counter() - started

    train(0.0, _WARM_UP)
    split = run.dataset.validation if run.evaluated == "val" else run.dataset.load_test()
    run.evaluate(split.beginning(EVAL_BATCH_SIZE))
    total = torch.cuda.get_device_properties(device).total_memory if on_gpu else 0
    peak = torch.cuda.max_memory_reserved(device) if on_gpu else 0
    answer(device=torch.cuda.get_device_name(device) if on_gpu else "CPU", peak=peak, total=total)
    for line in sys.stdin.buffer:
        steps, elapsed = train(float(line), _FEWEST_STEPS)
        answer(steps=steps, seconds=elapsed)


if __name__ == "__main__":
    main(*sys.argv[1:])
