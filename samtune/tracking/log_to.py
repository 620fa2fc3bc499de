"""Other trackers beside MLflow, each through its own library."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from samtune.errors import UsageError
from samtune.storage import is_remote
from samtune.study import Callback

CHOICES = ("tensorboard", "wandb")


def loggers(names: Sequence[str], storage: str) -> list[Callback]:
    """A callback for each of these trackers.

    Args:
        names: of `CHOICES`.
        storage: the folder or URI of all studies.

    Raises:
        UsageError: there is no such tracker, its library is not installed, or it cannot write there.
    """
    found: list[Callback] = []
    for name in dict.fromkeys(names):
        if name not in CHOICES:
            raise UsageError(f"must be one of {', '.join(CHOICES)}", argument="log_to", value=name)
        if find_spec(name) is None:
            raise UsageError(f"needs a library: pip install 'samtune[{name}]'", argument="log_to", value=name)
        if name == "tensorboard":
            if is_remote(storage):
                problem = f"writes into a folder of this machine, and the studies are in {storage}"
                raise UsageError(problem, argument="log_to", value=name)
            from samtune.tracking.tensorboard import TensorBoardLogger

            found.append(TensorBoardLogger())
        else:
            from samtune.tracking.wandb import WandbLogger, check_login

            check_login()
            found.append(WandbLogger())
    return found
