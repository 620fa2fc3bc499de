"""Networks by the name in their configuration, and trained ones in files.

Knows torch and torchvision; must not import Ray, MLflow, or the data sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.models.build import build_model
    from samtune.models.saved import load_model, read_saved, save_weights, saved_input_shape

__all__ = [
    "build_model",
    "load_model",
    "read_saved",
    "save_weights",
    "saved_input_shape",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "build_model": ".build",
        "load_model": ".saved",
        "read_saved": ".saved",
        "save_weights": ".saved",
        "saved_input_shape": ".saved",
    },
)
