"""What `samtune --version` shows, and with --debug what a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("ray", "torch", "torchvision", "optuna", "mlflow", "pyarrow", "pydantic", "numpy")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RAY_ADDRESS", "RAY_TMPDIR", "SAMTUNE_CACHE")


def about(debug: bool) -> str:
    """The version; with `debug` the libraries', the machine and the variables that change what samtune does.

    Imports none of the libraries. Variables that may hold a password are left out.
    """
    first = f"samtune {version('samtune')}"
    if not debug:
        return first
    lines = {"python": f"{platform.python_version()} ({sys.executable})", "platform": platform.platform()}
    lines |= {package: _installed(package) for package in PACKAGES} | _machine()
    lines |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    width = max(map(len, lines))
    return "\n".join([first, *(f"{name:{width}}  {text}" for name, text in lines.items())])


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, str]:
    from samtune.raylib.cluster import local_node

    node = local_node()
    return {"cpus": f"{node.cpus:g}", "gpus": f"{node.gpus:g}"}
