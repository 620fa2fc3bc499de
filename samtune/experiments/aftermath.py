"""What is still done for a study whose driver was ended from outside: by `kill -9`, or by Ray's core.

A driver that ends in order ends its MLflow runs. One that is ended cannot; a small process beside it (`watcher.py`)
sees it go, says how the study continues, and ends the runs. Everything else is on disk already.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from samtune.experiments.watcher import IN_ORDER

_SCRIPT = Path(__file__).with_name("watcher.py")
_ROOT = Path(__file__).parents[2]


class Watcher:
    """The process beside the driver. Around the body, or until `dismiss`; a driver that is gone meanwhile was ended.

    Args:
        folder: of the study's journal, on this machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with suppress(OSError):  # a search without it is a search
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(_ROOT), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and a closed terminal are for the driver
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """The driver ends in order."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(BrokenPipeError):  # somebody has killed it
                process.communicate(IN_ORDER)
