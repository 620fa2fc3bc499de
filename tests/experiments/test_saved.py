"""Saved networks: what normalises their images can be exported, which MLflow's models need."""

from __future__ import annotations

import torch

from samtune.models.saved import _normalise


def test_the_normalisation_of_colour_images_is_exact_and_can_be_exported() -> None:
    mean, std = [0.5, 0.25, 0.75], [0.25, 0.5, 0.0]  # a channel of one value everywhere
    layer = _normalise(mean, std).eval()
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(layer(images), expected)
    exported = torch.export.export(layer, (images,))
    torch.testing.assert_close(exported.module()(images), expected)
