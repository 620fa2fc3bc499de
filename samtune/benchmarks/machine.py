"""What a benchmark's figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version


def print_machine(packages: Sequence[str]) -> None:
    """Prints the processor, the number of cores, and the versions of Python and of some packages."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in packages), flush=True)
