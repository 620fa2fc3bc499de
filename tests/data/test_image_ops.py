"""The batched image operations and policies against torchvision's, image by image."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms import (
    AutoAugment,
    AutoAugmentPolicy,
    InterpolationMode,
    RandAugment,
    RandomResizedCrop,
    TrivialAugmentWide,
)
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import resized_crop

from samtune.data.augment import draw_boxes
from samtune.data.autoaugment import AUTOAUGMENT
from samtune.data.image_ops import GEOMETRIC, PIXELWISE, enlarge_boxes
from samtune.data.policies import ActionTable, find_policy


def pictures(count: int, channels: int, height: int = 32, width: int = 32) -> Tensor:
    """Smooth images with noise, some channels of one value: uint8 [count, channels, height, width]."""
    generator = torch.manual_seed(0)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images = (255 * smooth + 12 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    images[0, 0] = 77
    images[1] = 0
    images[2] = 255
    return images


def apply_with_torchvision(image: Tensor, name: str, magnitude: float) -> Tensor:
    return _apply_op(image, name, magnitude, interpolation=InterpolationMode.NEAREST, fill=None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*PIXELWISE, "TranslateX", "TranslateY"])
def test_operation_is_torchvisions_to_the_bit(name: str, channels: int) -> None:
    images = pictures(20, channels)
    magnitudes = {
        "Posterize": [8.0, 7.0, 4.0, 2.0],
        "Solarize": [255.0, 170.0, 8.5, 0.0],
        "TranslateX": [0.0, 3.9, -14.5, 32.0],
        "TranslateY": [0.0, 3.9, -14.5, 32.0],
    }.get(name, [-0.99, -0.3, 0.0, 0.9])
    table = ActionTable([(name, magnitude) for magnitude in magnitudes], 32, 32)
    actions = torch.arange(20) % 4
    result = table.apply(images, actions)
    for row in range(20):
        expected = apply_with_torchvision(images[row], name, magnitudes[row % 4])
        assert torch.equal(result[row], expected), row


@pytest.mark.parametrize("size", [(32, 32), (28, 20)])
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "Rotate"])
def test_geometry_is_torchvisions_but_for_ties(name: str, size: tuple[int, int]) -> None:
    images = pictures(40, 3, *size)
    strongest = 135.0 if name == "Rotate" else 0.99
    magnitudes = [strongest * (number - 19.5) / 20 for number in range(40)]
    result = ActionTable([(name, magnitude) for magnitude in magnitudes], *size).apply(images, torch.arange(40))
    expected = torch.stack([apply_with_torchvision(images[row], name, magnitudes[row]) for row in range(40)])
    # Where a place is half-way between two pixels, torchvision's float32 may round to the other one.
    assert (result != expected).double().mean() < 2e-3


def test_enlarged_boxes_are_torchvisions_resized_crop() -> None:
    images = pictures(40, 3, 32, 24)
    boxes = draw_boxes(torch.arange(40), 0, 32, 24)
    boxes[:4] = torch.tensor([[0, 0, 32, 24], [31, 23, 1, 1], [3, 5, 7, 11], [0, 0, 2, 24]])
    result = enlarge_boxes(images, boxes)
    for row, box in enumerate(boxes.tolist()):
        expected = resized_crop(images[row], *box, [32, 24], InterpolationMode.BILINEAR, antialias=False)
        # torchvision's float32 places differ in the last digits, and so may what is rounded.
        assert (result[row].int() - expected.int()).abs().max() <= 1, box
        assert (result[row] != expected).double().mean() < 0.02, box
    assert torch.equal(result[0], images[0])


def test_boxes_have_torchvisions_distribution() -> None:
    boxes = draw_boxes(torch.arange(4000), 7, 64, 48)
    torch.manual_seed(0)
    parameters = [
        RandomResizedCrop.get_params(torch.empty(3, 64, 48), [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)
    ]
    theirs = torch.tensor(parameters)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 64).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 48).all()
    for column in range(4):
        ours, reference = boxes[:, column].double(), theirs[:, column].double()
        assert abs(ours.mean() - reference.mean()) < 5 * reference.std() * (2 / 4000) ** 0.5
        assert abs(ours.std() / reference.std() - 1) < 0.06


def test_operations_do_not_touch_their_input() -> None:
    images = pictures(28, 3)
    before = images.clone()
    actions = [(name, 4.0 if name == "Posterize" else 0.3) for name in (*GEOMETRIC, *PIXELWISE)]
    ActionTable(actions, 32, 32).apply(images, torch.arange(28) % len(actions))
    assert torch.equal(images, before)


def test_sharpness_of_images_too_small_to_blur() -> None:
    images = pictures(4, 3, 2, 2)
    assert torch.equal(PIXELWISE["Sharpness"](images, torch.full((4,), 0.5, dtype=torch.float64)), images)


@pytest.mark.parametrize("learned_on", ["cifar10", "svhn", "imagenet"])
def test_sub_policies_and_magnitudes_of_autoaugment(learned_on: str) -> None:
    theirs = AutoAugment(AutoAugmentPolicy(learned_on))
    assert [
        tuple((name, p, number or 0) for name, p, number in sub_policy) for sub_policy in theirs.policies
    ] == AUTOAUGMENT[learned_on]
    assert len(AUTOAUGMENT[learned_on]) == 25
    policy = find_policy("autoaugment", learned_on, 32, 24)
    for name, (magnitudes, _) in theirs._augmentation_space(10, (32, 24)).items():
        for number in range(10):
            expected = float(magnitudes[number]) if magnitudes.ndim else 0.0
            assert policy.range.magnitude(name, number) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("randaugment", RandAugment()._augmentation_space(31, (32, 24))),
        ("trivialaugment", TrivialAugmentWide()._augmentation_space(31)),
    ],
)
def test_actions_are_torchvisions(name: str, space: dict[str, tuple[Tensor, bool]]) -> None:
    policy = find_policy(name, "cifar10", 32, 24)
    numbers = range(31) if name == "trivialaugment" else [9]
    expected = set()
    for operation, (magnitudes, signed) in space.items():
        for number in numbers:
            magnitude = float(magnitudes[number]) if magnitudes.ndim else 0.0
            expected |= {(operation, magnitude), (operation, -magnitude if signed else magnitude)}
    chosen = policy.choose(torch.arange(60_000), 3).unique().tolist()
    ours = {(policy.table.names[action], policy.table.magnitudes[action]) for action in chosen}
    assert {operation for operation, _ in ours} == set(space)
    assert sorted(ours) == [(operation, pytest.approx(value, rel=1e-6)) for operation, value in sorted(expected)]


def test_operations_are_drawn_uniformly() -> None:
    policy = find_policy("randaugment", "cifar10", 32, 32)
    slots = policy.choose(torch.arange(28_000), 5)
    assert slots.shape == (2, 28_000)
    for actions in slots:
        counts = Counter(policy.table.names[action] for action in actions.tolist())
        assert len(counts) == 14
        # Mean 2,000, standard deviation 43.
        assert all(abs(count - 2000) < 220 for count in counts.values())
    assert abs(torch.corrcoef(slots.double())[0, 1]) < 0.03


def test_autoaugment_applies_each_operation_with_its_probability() -> None:
    policy = find_policy("autoaugment", "cifar10", 32, 32)
    first, second = policy.choose(torch.arange(100_000), 1)
    # The first sub-policy: Invert with probability 0.1, Contrast with 0.2, each sub-policy with 1/25.
    invert, contrast = (first <= 2) & (first > 0), (second <= 4) & (second > 2)
    assert policy.table.names[1:5] == ["Invert", "Invert", "Contrast", "Contrast"]
    assert abs(int(invert.sum()) - 400) < 100  # standard deviation 20
    assert abs(int(contrast.sum()) - 800) < 140  # standard deviation 28
    mean_probability = sum(sub_policy[0][1] for sub_policy in AUTOAUGMENT["cifar10"]) / 25
    assert abs((first > 0).double().mean() - mean_probability) < 0.01


def test_policy_augments_an_example_alike_in_any_batch() -> None:
    images = pictures(64, 3)
    for name in ("autoaugment", "randaugment", "trivialaugment"):
        policy = find_policy(name, "cifar10", 32, 32)
        whole = policy(images, torch.arange(64), 9)
        rows = torch.tensor([60, 3, 17])
        assert torch.equal(policy(images[rows], rows, 9), whole[rows])
        assert not torch.equal(policy(images, torch.arange(64), 10), whole)
