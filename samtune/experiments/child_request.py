"""What a process beside a study is sent, so that it can build trials: their settings, and the user's own parts."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.config.trial import TrialSpec, flatten
from samtune.user_code import accept_functions, given_functions
from samtune.user_path import add_user_folders, importing_user_code, user_folders

ROOT = Path(__file__).parents[2]
"""The folder that samtune is in, which need not be installed."""


def pack(specs: Sequence[TrialSpec], **settings: Any) -> bytes:
    """Trials and settings of the process's own, as `unpack` takes them.

    Raises:
        Exception: a part of the user's cannot be pickled.
    """
    parts = given_functions([value for spec in specs for value in flatten(spec.model_dump()).values()])
    if parts:
        from ray import cloudpickle
    return pickle.dumps(
        {
            "folders": user_folders(),
            "parts": cloudpickle.dumps(parts) if parts else None,
            "trials": pickle.dumps({"specs": list(specs), **settings}),
        }
    )


def unpack(request: bytes) -> dict[str, Any]:
    """In the process: the settings, and the trials as `specs`, whose parts of the user's can be resolved now."""
    content = pickle.loads(request)
    add_user_folders(content["folders"])
    if content["parts"] is not None:
        with importing_user_code():  # to unpickle them
            accept_functions(pickle.loads(content["parts"]))
    trials: dict[str, Any] = pickle.loads(content["trials"])
    return trials
