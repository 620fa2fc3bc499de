"""How sharp a minimum is: curvature, neighbourhood loss, bounds and pictures of any PyTorch model.

This package knows the measures and torch; it must import nothing else but `samtune.sam` and `samtune.errors`.

Every measure is a function `measure(model, loss_fn, batches, ...)`:

* `loss_fn(outputs, targets)` is a mean over the examples of a batch.
* `batches` is a re-iterable of (inputs, targets), e.g. a list or a DataLoader. They are gone through one at a time, so
  memory does not grow with the number of examples.
* The model is in eval mode meanwhile, with BatchNorm's statistics fixed, and is afterwards as it was.
* With `group`, a process group of torch.distributed, every rank calls the function with its own share of the batches
  and gets the answer over all of them.
* The answer says what it cost in passes, 1 being a forward and backward of all examples, and how uncertain it is.

Example:
    >>> from samtune.sharpness import lambda_max, trace
    >>> lambda_max(model, torch.nn.CrossEntropyLoss(), loader)
    Estimate(value=11.3, standard_error=0.008, passes=54.0, num_samples=18)
    >>> trace(model, torch.nn.CrossEntropyLoss(), loader, target_error=2.0).value
    205.1
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.sharpness.bound import Bound, pac_bayes_bound, zero_one_loss
    from samtune.sharpness.estimate import Estimate
    from samtune.sharpness.hutchinson import frobenius_squared, trace, trace_and_frobenius_squared
    from samtune.sharpness.landscape import Curve, Surface, loss_along, loss_surface
    from samtune.sharpness.loss import MeanLoss, NotTwiceDifferentiableError
    from samtune.sharpness.neighbourhood import adaptive_sharpness, m_sharpness
    from samtune.sharpness.prediction import OrderInformation, least_order_information, order_information
    from samtune.sharpness.spectrum import Eigenvalues, SpectralDensity, lambda_max, spectral_density, top_eigenvalues
    from samtune.sharpness.universal import named_universal_measure, universal_measure

__all__ = [
    "Bound",
    "Curve",
    "Eigenvalues",
    "Estimate",
    "MeanLoss",
    "NotTwiceDifferentiableError",
    "OrderInformation",
    "SpectralDensity",
    "Surface",
    "adaptive_sharpness",
    "frobenius_squared",
    "lambda_max",
    "least_order_information",
    "loss_along",
    "loss_surface",
    "m_sharpness",
    "named_universal_measure",
    "order_information",
    "pac_bayes_bound",
    "spectral_density",
    "top_eigenvalues",
    "trace",
    "trace_and_frobenius_squared",
    "universal_measure",
    "zero_one_loss",
]

_MODULES = {
    "bound": ("Bound", "pac_bayes_bound", "zero_one_loss"),
    "estimate": ("Estimate",),
    "landscape": ("Curve", "Surface", "loss_along", "loss_surface"),
    "loss": ("MeanLoss", "NotTwiceDifferentiableError"),
    "neighbourhood": ("adaptive_sharpness", "m_sharpness"),
    "prediction": ("OrderInformation", "least_order_information", "order_information"),
    "spectrum": ("Eigenvalues", "SpectralDensity", "lambda_max", "spectral_density", "top_eigenvalues"),
    "hutchinson": ("frobenius_squared", "trace", "trace_and_frobenius_squared"),
    "universal": ("named_universal_measure", "universal_measure"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
