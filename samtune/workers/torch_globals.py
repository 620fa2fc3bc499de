"""Settings of torch that hold for a whole process, so that a trial's own code cannot change them for the next trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class TorchGlobals:
    """The settings as they are when this is made; `restore` brings them back."""

    def __init__(self) -> None:
        import torch

        backends = torch.backends
        self._settings: list[tuple[Any, Callable[[Any], object]]] = [
            (torch.get_default_dtype(), torch.set_default_dtype),
            (torch.get_num_threads(), torch.set_num_threads),
            (torch.is_grad_enabled(), torch.set_grad_enabled),
            (torch.is_anomaly_enabled(), torch.autograd.set_detect_anomaly),
            (torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision),
            (torch.get_deterministic_debug_mode(), torch.set_deterministic_debug_mode),
            (backends.cudnn.benchmark, lambda value: setattr(backends.cudnn, "benchmark", value)),
            (backends.cudnn.allow_tf32, lambda value: setattr(backends.cudnn, "allow_tf32", value)),
            (backends.cudnn.deterministic, lambda value: setattr(backends.cudnn, "deterministic", value)),
        ]

    def restore(self) -> None:
        """Brings the settings back, and ends a default device."""
        import torch

        for value, set_to in self._settings:
            set_to(value)
        torch.set_default_device(None)
