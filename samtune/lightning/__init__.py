"""A LightningModule as a trial: `samtune.lightning.fit` runs it in a `lightning.Trainer` on the workers of a group.

Knows Lightning and the training functions of `samtune.train`; must not import Ray or MLflow.
"""

from __future__ import annotations

from samtune.lightning.run import fit

__all__ = ["fit"]
