"""Objects of torchmetrics as a user would have them in a module."""

from __future__ import annotations

from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score
from torchmetrics.regression import MeanSquaredError

f1 = MulticlassF1Score(num_classes=2, average="macro")
auroc = MulticlassAUROC(num_classes=2)
mse = MeanSquaredError()
per_class = MulticlassF1Score(num_classes=2, average="none")
