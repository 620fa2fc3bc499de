"""Whether a search that is started from Python shows how it goes."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pkgutil import resolve_name
from typing import Literal

from samtune.errors import UsageError
from samtune.notebook import in_notebook
from samtune.study import Callback

Progress = Literal["auto", "lines", "none"]

_CHOICES = ("auto", "lines", "none")


def display_for(progress: Progress, callbacks: Sequence[Callback]) -> list[Callback]:
    """The display that a call of `fit` gets, or none.

    Args:
        progress: `auto`: a live table where stdout is a terminal, a table in HTML in a notebook, else nothing; `lines`:
            a line per trial, on stdout; `none`: nothing.
        callbacks: of the search; a display among them is enough.

    Raises:
        UsageError: it is none of these.
    """
    if progress not in _CHOICES:
        raise UsageError(f"must be one of {', '.join(_CHOICES)}", argument="progress", value=progress)
    shown = any(type(each).__module__.startswith("samtune.terminal") for each in callbacks)
    if in_notebook():
        _hush_advice()
    # By path: the terminal is above this layer, which works without it.
    if progress == "auto" and not shown and in_notebook():
        return [resolve_name("samtune.terminal:NotebookDisplay")()]
    if progress == "none" or shown or (progress == "auto" and not _is_terminal()):
        return []
    console = resolve_name("samtune.terminal:make_console")()
    kind = "make_display" if progress == "auto" else "PlainDisplay"
    return [resolve_name(f"samtune.terminal:{kind}")(console)]


def _hush_advice() -> None:
    """Ray and tqdm each advise once, in red, to install ipywidgets; nothing here needs them."""
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("tqdm.auto")  # says so as it is imported, which MLflow or Optuna would do


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
