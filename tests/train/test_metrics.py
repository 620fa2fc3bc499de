"""The metrics that come with samtune."""

from __future__ import annotations

import torch

from samtune.config.training import metric_name
from samtune.train.metrics import top5_accuracy
from samtune.user_code import resolve_function


def test_top5_accuracy_by_hand() -> None:
    """Outputs fall from class 0 to class 6: the classes 0 to 4 are among the five largest."""
    outputs = -torch.arange(7.0).repeat(3, 1)
    assert float(top5_accuracy(outputs, torch.tensor([0, 4, 5]))) == torch.tensor(2 / 3)
    assert float(top5_accuracy(outputs[:, :3], torch.tensor([0, 1, 2]))) == 1.0


def test_it_is_found_by_the_path_in_the_spaces_of_imagenet() -> None:
    path = "samtune.train.metrics:top5_accuracy"
    assert resolve_function(path, "training.metrics") is top5_accuracy
    assert metric_name(path) == "top5_accuracy"
