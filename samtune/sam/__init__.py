"""Sharpness-Aware Minimization for PyTorch: exact, data-parallel, with every method of the comparison.

`TrainStep` trains with any method of `samtune.config.method`; `SAM` is an optimizer for your own training loop. This
package needs torch alone, and `samtune.sam.layout` not even that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.sam.layout import GroupLayout
    from samtune.sam.optimizer import SAM
    from samtune.sam.train_step import TrainStep

_MODULES = {"SAM": "optimizer", "GroupLayout": "layout", "TrainStep": "train_step"}

__all__ = ["SAM", "GroupLayout", "TrainStep"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
