"""The multi-layer perceptron of the universal-class experiments on MNIST: six layers, ReLU, width 128."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn


def mlp(depth: int, width: int, num_classes: int, input_shape: tuple[int, ...]) -> nn.Sequential:
    """`depth` linear layers with ReLU between them, on the flattened image; weights of He's variance, biases 0."""
    sizes = [math.prod(input_shape), *[width] * (depth - 1), num_classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
