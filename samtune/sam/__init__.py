"""Sharpness-Aware Minimization for PyTorch: exact, data-parallel, with every method of the comparison.

`SAM` is an optimizer for your own training loop; `TrainStep` trains with any `Method`, a rule of `samtune.sam.rules`
with its options. This package knows the mathematics and torch; it must not import anything else, of samtune neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.sam.layout import GroupLayout
    from samtune.sam.m_group import MGroup
    from samtune.sam.method import Method, MethodLike
    from samtune.sam.optimizer import SAM
    from samtune.sam.rule_guard import RuleError
    from samtune.sam.rules.base import Rule
    from samtune.sam.train_step import TrainStep
    from samtune.sam.when import When

_MODULES = {
    "SAM": "optimizer",
    "GroupLayout": "layout",
    "MGroup": "m_group",
    "Method": "method",
    "MethodLike": "method",
    "Rule": "rules.base",
    "RuleError": "rule_guard",
    "TrainStep": "train_step",
    "When": "when",
}

__all__ = ["SAM", "GroupLayout", "MGroup", "Method", "MethodLike", "Rule", "RuleError", "TrainStep", "When"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
