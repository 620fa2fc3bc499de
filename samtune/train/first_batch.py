"""One batch through everything that a trial is made of: finds mistakes in the user's parts before any worker starts."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from samtune.config.model import OwnModelConfig
from samtune.config.training import metric_name
from samtune.config.trial import TrialSpec
from samtune.data import batches_of_steps, load_dataset, stream_reader, training_examples
from samtune.errors import DatasetError, SamtuneError, UsageError, is_machine_fault, one_line
from samtune.sam import tree
from samtune.train.bootstrap import check_classes
from samtune.train.loss import training_loss
from samtune.train.network import widened
from samtune.train.stateful_metrics import is_stateful
from samtune.train.trial import EVAL_BATCH_SIZE, TrialRun
from samtune.user_code import resolve_function
from samtune.user_path import causes_of, place_of, place_of_function


class FirstBatchError(Exception):
    """What went wrong, as a line.

    Attributes:
        traceback: the whole of it.
        certain: whether a worker would meet it too; it may have what this process lacks, memory or a card.
    """

    def __init__(self, line: str, text: str, certain: bool) -> None:
        super().__init__(line)
        self.traceback, self.certain = text, certain


def try_first_batch(spec: TrialSpec, num_workers: int, device: torch.device) -> None:
    """Sends the first batch of one worker through network, loss, method and metrics; one rank, no process group.

    Raises:
        FirstBatchError: one of them raises, or returns what a trial cannot use.
    """
    if device.type == "cpu":  # which need not have what the workers' cards have
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "fp32"})})
    training = spec.training
    data = _function_of(spec.data.name, "data.name")
    network = _function_of(spec.model.name, "model.name") if isinstance(spec.model, OwnModelConfig) else None
    with _within("the data", data, device):
        load_dataset(spec.examples)  # is kept
    with _within("the construction of its parts", network, device):
        run, batches = begin_trial(spec, num_workers, device)
        if training.bootstrap:
            check_classes(run.dataset)
    with _within("the data", data, device):
        inputs, targets = next(batches)
    with _within("the network", network, device):
        outputs = tree.call(run.model, inputs)
    with _within("the loss", _function_of(training.loss, "training.loss"), device):
        check_scalar(
            training_loss(training)(outputs, tree.for_loss(inputs, targets)), "training.loss", differentiable=True
        )
    with _within(f"a step of {spec.method.name}", _function_of(spec.method.name, "method.name"), device):
        run.train_step(inputs, targets)
        while run.train_step.num_steps == 0:  # more of the batch is to come
            run.train_step(*next(batches))
    split = run.dataset.validation if run.evaluated == "val" else run.dataset.load_test()
    first = split.beginning(EVAL_BATCH_SIZE)
    outputs = tree.map_tensors(lambda tensor: widened(tensor.detach()), outputs)
    with torch.no_grad():
        run.model.eval()
        for path in (path for path in training.metrics if ":" in path):
            function = resolve_function(path, "training.metrics")
            if is_stateful(function):
                continue  # the evaluation below updates and computes it
            with _within(f"the metric {metric_name(path)}", function, device):
                check_scalar(function(outputs, tree.for_loss(inputs, targets)), f"training.metrics: {path}")
    with _within("the evaluation", None, device):
        run.evaluate(first)


def begin_trial(
    spec: TrialSpec, num_workers: int, device: torch.device, *, num_steps: int | None = None
) -> tuple[TrialRun, Iterator[tuple[Any, Any]]]:
    """A trial at its first step, as one of its workers would train it, and the batches of so many steps.

    Args:
        num_steps: None: those of the first epoch.
    """
    share = _share_of_a_worker(spec, num_workers)
    run = TrialRun(share, rank=0, num_workers=1, device=device)
    run.model.train()
    examples = partial(training_examples, run.dataset, device=device)
    run.train_step.begin_epoch(0, share.num_epochs, steps_per_epoch=run.steps_per_epoch, examples=examples)
    batches = batches_of_steps(
        run.dataset,
        share.data,
        0,
        run.steps_per_epoch if num_steps is None else num_steps,
        batch_size=share.training.batch_size,
        rank=0,
        num_workers=1,
        seed=share.seed,
        reader=stream_reader(run.dataset, run.dataset.train, seed=share.seed),
        device=device,
        accumulate=share.training.accumulate,
    )
    return run, batches


def check_scalar(value: Any, name: str, *, differentiable: bool = False) -> None:
    """Makes sure that a loss or metric returned one number, as a tensor.

    Raises:
        UsageError: it did not; of a loss, also where nothing can be differentiated.
    """
    if not isinstance(value, Tensor):
        raise UsageError(f"{name}: must return a tensor, the mean over the batch (it returned {type(value).__name__})")
    if value.numel() != 1:
        raise UsageError(
            f"{name}: must return one number, the mean over the batch (it returned a tensor {tuple(value.shape)})"
        )
    if differentiable and not value.requires_grad:
        raise UsageError(f"{name}: must return what depends on the outputs (the tensor it returned has no gradient)")


def _share_of_a_worker(spec: TrialSpec, num_workers: int) -> TrialSpec:
    """The trial with the batch that one worker sees, and nothing that only a longer training needs."""
    data = spec.model_dump(exclude_unset=True)
    batch = spec.training.batch_size // num_workers
    data["training"] = {**data.get("training", {}), "batch_size": batch, "compile": False}
    m = getattr(spec.method, "m", "worker")
    if isinstance(m, int) and m > batch // spec.training.accumulate:
        data["method"]["m"] = "worker"
    data.get("data", {}).pop("relabel", None)
    return TrialSpec.model_validate(data)


def _function_of(path: str, key: str) -> Callable[..., Any] | None:
    return resolve_function(path, key) if ":" in path else None


@contextmanager
def _within(where: str, function: Callable[..., Any] | None, device: torch.device) -> Iterator[None]:
    """Names the line of the user's file that an error in the body passed, else where the function begins.

    Args:
        where: in what part of the trial the body is.
    """
    try:
        yield
    except Exception as error:
        place = place_of(error) or place_of_function(function)
        text = one_line(error) if isinstance(error, SamtuneError) else one_line(f"{type(error).__name__}: {error}")
        line = f"{where}: {f'{place}: ' if place else ''}{text}"
        raise FirstBatchError(line, "".join(traceback.format_exception(error)), _is_certain(error, device)) from error


def _is_certain(error: Exception, device: torch.device) -> bool:
    for cause in causes_of(error):
        if isinstance(cause, torch.OutOfMemoryError | MemoryError | DatasetError) or is_machine_fault(cause):
            return False
        if device.type == "cpu" and any(
            word in str(cause) for word in ("CUDA", "cuda", "NVIDIA", "can't allocate memory")
        ):
            return False
    return True
