"""A trained network as a model of MLflow's: loads and serves without samtune."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from typing import TYPE_CHECKING

from samtune.errors import RunError, one_line
from samtune.formatting import first_line
from samtune.tracking.store import used_by_mlflow
from samtune.tracking.uris import store_error

if TYPE_CHECKING:
    from torch import Tensor, nn

ARTIFACT = "model"
_PACKAGES = ("torch", "torchvision", "numpy")


class ModelNotLoggedError(RunError):
    """A network cannot be kept as a model of MLflow's; its weights are kept all the same."""


def log_model(
    tracking_uri: str,
    run_id: str,
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    registered_name: str | None = None,
) -> str:
    """Logs a network to a run, as an exported graph (`torch.export`) that needs none of our classes.

    Args:
        tracking_uri: absolute.
        model: in evaluation mode, maps float32 or int64 [N, *input_shape] to [N, num_classes].
        registered_name: also makes a new version of this registered model.

    Returns:
        The model's URI, for `mlflow.pytorch.load_model`.

    Raises:
        TrackingError: the store refuses it or does not answer.
        ModelNotLoggedError: the network is none that MLflow can keep as a model.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import infer_signature

    example, outputs = _example(model, input_shape)
    problem: Exception | None = None
    try:
        with _silence(), used_by_mlflow(tracking_uri), mlflow.start_run(run_id=run_id):
            try:
                info = mlflow.pytorch.log_model(
                    model,
                    name=ARTIFACT,
                    signature=infer_signature(example.numpy(), outputs.numpy()),
                    input_example=example.numpy(),
                    # Said here: to find them out, MLflow would import the model in a process of its own.
                    pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
                    registered_model_name=registered_name,
                )
            except (MlflowException, OSError):
                raise
            except Exception as error:  # of torch.export; raised in here, it would make the run a failed one
                problem = error
    except MlflowException as error:
        raise store_error(tracking_uri, first_line(str(error))) from error
    if problem is not None:
        raise ModelNotLoggedError(f"torch.export cannot export it: {one_line(problem, 200)}") from problem
    return str(info.model_uri)


def _example(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs that the network takes, floats or else whole numbers (token ids), and what it makes of them."""
    import torch

    floats = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
    problem: Exception | None = None
    for example in (floats, torch.zeros(2, *input_shape, dtype=torch.int64)):
        try:
            with torch.no_grad():
                outputs = model(example)
        except Exception as error:  # of a network of the user's, which may raise anything
            problem = problem or error
            continue
        if isinstance(outputs, torch.Tensor):
            return example, outputs
        raise ModelNotLoggedError(f"it returns no tensor, but {type(outputs).__name__}")
    raise ModelNotLoggedError(f"it fails on made-up inputs: {one_line(problem, 200)}") from problem


@contextmanager
def _silence() -> Iterator[None]:
    """MLflow and torch.export talk while they work: on both streams, through loggers, and in warnings."""
    unheard = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(unheard), redirect_stderr(unheard), warnings.catch_warnings():
            for category in (UserWarning, DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(logging.NOTSET)
