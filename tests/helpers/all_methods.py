"""A configuration of every method, some of them in several."""

from __future__ import annotations

import math
from typing import Any

from samtune.config.efficient_methods import AESAMConfig, ESAMConfig, FisherSAMConfig, MESAConfig
from samtune.config.method import (
    ASAMConfig,
    BaseOptimizerConfig,
    DetSAMConfig,
    FrobSAMConfig,
    FSAMConfig,
    GSAMConfig,
    LookSAMConfig,
    MomentumSAMConfig,
    RWPConfig,
    SAMConfig,
    SSAMDConfig,
    SSAMFConfig,
    TraceSAMConfig,
    UniversalConfig,
    USAMConfig,
    VaSSOConfig,
    WSAMConfig,
)

METHODS: dict[str, Any] = {
    "sgd": BaseOptimizerConfig(),
    "sam": SAMConfig(rho=0.1),
    "sam_inf": SAMConfig(rho=0.01, p=math.inf),
    "sam_1": SAMConfig(rho=0.1, p=1.0),
    "sam_3": SAMConfig(rho=0.1, p=3.0),
    "sam_steps": SAMConfig(rho=0.1, ascent_steps=3, step_size=0.05),
    "sam_random": SAMConfig(rho=0.1, ascent="random"),
    "sam_second_order": SAMConfig(rho=0.1, second_order=True),
    "asam": ASAMConfig(rho=0.3),
    "asam_inf": ASAMConfig(rho=0.1, p=math.inf),
    "ssam_f": SSAMFConfig(rho=0.1, num_examples=6),
    "ssam_d": SSAMDConfig(rho=0.1, num_examples=6),
    "gsam": GSAMConfig(rho=0.1),
    "usam": USAMConfig(rho=0.1),
    "wsam": WSAMConfig(rho=0.1, gamma=0.6),
    "fsam": FSAMConfig(rho=0.1),
    "vasso": VaSSOConfig(rho=0.1),
    "rwp": RWPConfig(rho=0.02, mix=0.7),
    "aesam": AESAMConfig(rho=0.1),
    "esam": ESAMConfig(rho=0.1),
    "esam_weights": ESAMConfig(rho=0.1, gamma=1.0),
    "fisher_sam": FisherSAMConfig(rho=0.1),
    "mesa": MESAConfig(rho=0.3, decay=0.9),
    "looksam": LookSAMConfig(rho=0.1, k=2),
    "momentum_sam": MomentumSAMConfig(rho=0.1),
    "trace_sam": TraceSAMConfig(num_directions=2),
    "frob_sam": FrobSAMConfig(num_directions=3),
    "det_sam": DetSAMConfig(),
    "universal": UniversalConfig(
        rho=0.1, phi="helpers.sam_functions:phi", psi="helpers.sam_functions:psi", num_directions=2
    ),
}
