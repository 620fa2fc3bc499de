"""All methods, with options at which each visibly does something on a network of 83 weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from samtune.sam.method import Method
from samtune.sam.rules.averaged import FSAMRule, VaSSORule
from samtune.sam.rules.base import Rule
from samtune.sam.rules.efficient import AESAMRule, ESAMRule, MESARule
from samtune.sam.rules.sam import ASAMRule, FisherSAMRule, SAMRule
from samtune.sam.rules.sparse import DynamicMaskRule, FisherMaskRule
from samtune.sam.rules.universal import DetRule, FrobRule, TraceRule, UniversalRule
from samtune.sam.rules.variants import GSAMRule, LookSAMRule, MomentumSAMRule, RWPRule, USAMRule, WSAMRule


@dataclass(frozen=True)
class Checked:
    """A method, and whether its random numbers are drawn on the device, so that each device has its own."""

    method: Method
    draws: bool = False


def _sam(rule: type[Rule], rho: float = 0.1, *, draws: bool = False, **options: Any) -> Checked:
    return Checked(Method(rule, rho=rho, m=4, **options), draws)


def _sum_of_squares(values: Tensor) -> Tensor:
    return (values * values).sum()


METHODS: dict[str, Checked] = {
    "sgd": _sam(Rule),
    "sam": _sam(SAMRule),
    "sam p=inf": _sam(SAMRule, 0.01, p=math.inf),
    "sam 3 steps": _sam(SAMRule, ascent_steps=3, step_size=0.05),
    "sam random": _sam(SAMRule, ascent="random", draws=True),
    "asam": _sam(ASAMRule, 0.3),
    "ssam_f": _sam(FisherMaskRule, num_examples=6),
    "ssam_d": _sam(DynamicMaskRule, num_examples=6, draws=True),
    "gsam": _sam(GSAMRule),
    "usam": _sam(USAMRule),
    "wsam": _sam(WSAMRule, gamma=0.6),
    "fsam": _sam(FSAMRule),
    "vasso": _sam(VaSSORule),
    "rwp": _sam(RWPRule, 0.02, mix=0.7, draws=True),
    "looksam": _sam(LookSAMRule, k=2),
    "fisher_sam": _sam(FisherSAMRule, 0.3),
    "aesam": _sam(AESAMRule),
    "esam": _sam(ESAMRule),
    "mesa": _sam(MESARule, decay=0.9),
    "momentum_sam": _sam(MomentumSAMRule),
    "trace_sam": _sam(TraceRule, num_directions=2, draws=True),
    "frob_sam": _sam(FrobRule, num_directions=3, draws=True),
    "det_sam": _sam(DetRule, draws=True),
    "universal": _sam(UniversalRule, num_directions=2, phi=_sum_of_squares, draws=True),
}
