"""Images that are read while training: the same bits with any number of processes and ranks, damage, resume."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.dataset_files import encode, random_images
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from samtune.config.data import ImageFolderConfig, ImageNetConfig
from samtune.data import check_dataset, dataset_info, eval_batches, load_dataset, train_batches
from samtune.data.augment import draw_box, draw_boxes
from samtune.data.files import ImageFiles
from samtune.data.stream import StreamedImages, keyed_randomness
from samtune.errors import DatasetError

CPU = torch.device("cpu")
PLACE: dict[str, Any] = {"rank": 0, "num_workers": 1, "device": CPU}


def write_photographs(root: Path, *, num_train: int = 24, num_test: int = 10) -> None:
    """Smooth images of many sizes, as JPEG files, in three classes."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        for number in range(count):
            folder = root / split / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            coarse = numbers.integers(0, 256, (3, 4, 4), dtype=np.uint8)
            size = (int(numbers.integers(30, 60)), int(numbers.integers(30, 60)))
            image = Image.fromarray(coarse.transpose(1, 2, 0)).resize(size, Image.Resampling.BICUBIC)
            image.save(folder / f"{number:02d}.jpg", quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photographs")
    return tmp_path / "photographs"


def config_of(root: Path, **options: Any) -> ImageFolderConfig:
    defaults: dict[str, Any] = {"augmentation": "resized_crop", "loader_processes": 0, "validation_fraction": 0.25}
    return ImageFolderConfig(name="image_folder", root=str(root), image_size=16, stream=True, **{**defaults, **options})


def epochs_of(config: ImageFolderConfig, epochs: list[int], num_workers: int = 1) -> list[tuple[Tensor, Tensor]]:
    """The global batches of these epochs, put together from all ranks."""
    dataset, batches = load_dataset(config), []
    for epoch in epochs:
        where: dict[str, Any] = {"batch_size": 6, "seed": 3, "epoch": epoch, "device": CPU}
        ranks = [
            list(train_batches(dataset, config, rank=rank, num_workers=num_workers, **where))
            for rank in range(num_workers)
        ]
        batches += [tuple(map(torch.cat, zip(*shares, strict=True))) for shares in zip(*ranks, strict=True)]
    return batches  # type: ignore[return-value]


def assert_same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> None:
    assert len(first) == len(second) > 0
    for (inputs, targets), (other_inputs, other_targets) in zip(first, second, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes")  # on fewer cores
@pytest.mark.parametrize("processes", [1, 8])
def test_batches_are_the_same_bits_with_any_number_of_processes(root: Path, processes: int) -> None:
    """Two epochs through the same processes, an evaluation between them, and an epoch that is given up halfway."""
    alone, config = config_of(root), config_of(root, loader_processes=processes, augmentation="randaugment")
    alone = alone.model_copy(update={"augmentation": "randaugment"})
    dataset = load_dataset(config)
    given_up = train_batches(dataset, config, batch_size=6, seed=3, epoch=7, **PLACE)
    next(given_up)
    validated = list(eval_batches(dataset, dataset.validation, batch_size=4, **PLACE))  # in the middle of an epoch
    assert next(given_up) is not None
    given_up.close()
    assert_same(validated, list(eval_batches(dataset, dataset.validation, batch_size=4, **PLACE)))
    assert_same(epochs_of(config, [0]), epochs_of(alone, [0]))
    evaluated = list(eval_batches(dataset, dataset.load_test(), batch_size=4, **PLACE))
    here = load_dataset(alone)
    assert_same(evaluated, list(eval_batches(here, here.load_test(), batch_size=4, **PLACE)))
    assert_same(epochs_of(config, [1]), epochs_of(alone, [1]))


@pytest.mark.parametrize("change", [{}, {"mixup": 0.5}, {"augmentation": "autoaugment", "cutout": 4}], ids=str)
def test_batches_are_the_same_bits_with_any_number_of_ranks(root: Path, change: dict[str, Any]) -> None:
    config = config_of(root, **change)
    assert_same(epochs_of(config, [0, 1]), epochs_of(config, [0, 1], num_workers=3))
    first, second = epochs_of(config, [0]), epochs_of(config, [1])
    assert not torch.equal(first[0][0], second[0][0])


def test_an_epoch_is_the_same_without_those_before_it(root: Path) -> None:
    """What a resumed trial needs."""
    config = config_of(root)
    assert_same(epochs_of(config, [0, 1])[3:], epochs_of(config, [1]))


def test_each_example_comes_once_with_its_own_label(root: Path) -> None:
    config = config_of(root, augmentation="none", eval_crop=1.0, validation_fraction=0.0)
    dataset = load_dataset(config)
    batches = list(train_batches(dataset, config, batch_size=6, seed=0, epoch=0, **PLACE))
    plain = next(iter(eval_batches(dataset, dataset.train, batch_size=24, **PLACE)))
    found = [int((plain[0] == image).flatten(1).all(1).nonzero()) for inputs, _ in batches for image in inputs]
    assert sorted(found) == list(range(24))
    assert torch.cat([targets for _, targets in batches]).tolist() == plain[1][found].tolist()
    assert dataset.train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8


def test_the_box_of_one_example_is_that_of_a_batch() -> None:
    examples = torch.arange(3000)
    boxes = draw_boxes(examples, 11, 37, 90).tolist()
    assert [list(draw_box(example, 11, 37, 90)) for example in examples.tolist()] == boxes


def test_crops_are_close_to_torchvision_s(root: Path) -> None:
    """The same box, resized by Pillow there as here; the centre as resize and centre crop, up to a pixel's rounding."""
    names = sorted(path.relative_to(root).as_posix() for path in (root / "train").rglob("*.jpg"))
    files = ImageFiles(root, names, size=16, channels=3, centre=0.875)
    for row, name in enumerate(names):
        with Image.open(root / name) as image:
            image.load()
        top, left, height, width = draw_boxes(torch.tensor([row]), 5, image.height, image.width)[0].tolist()
        expected = v2.functional.resized_crop(image, top, left, height, width, [16, 16], antialias=True)
        assert torch.equal(files.read(row, 5), v2.functional.pil_to_tensor(expected))
        side = 0.875 * min(image.size)
        resized = v2.functional.resize(image, [round(16 / 0.875)], antialias=True)
        centre = v2.functional.pil_to_tensor(v2.functional.center_crop(resized, [16, 16]))
        assert side > 16
        assert (files.read(row, None).float() - centre.float()).abs().mean() < 12


@pytest.mark.parametrize("batches", [4, 1], ids=["long epoch", "epoch shorter than the processes are many"])
def test_no_semaphore_keeps_its_name(root: Path, batches: int) -> None:
    """As /proc tells of the process itself: others on the machine have semaphores too."""
    config = config_of(root, loader_processes=2)
    dataset = load_dataset(config)
    requests = [torch.arange(6 * n, 6 * n + 6) % len(dataset.train) for n in range(batches)]

    def read_epoch() -> int:
        return len(list(dataset.train.batches(requests, CPU, crop=0, replace=True)))

    assert read_epoch() == batches
    if batches == 1:  # the second process may not have been started yet
        assert read_epoch() == batches
    lines = Path("/proc/self/maps").read_text().splitlines()
    semaphores = {line.split(maxsplit=5)[5] for line in lines if "/dev/shm/sem." in line}
    assert len(semaphores) >= 5
    assert all(name.endswith("(deleted)") for name in semaphores)
    assert read_epoch() == batches  # they work without


# -- damage ----------------------------------------------------------------------------------------------


def damage(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:150])


def test_a_damaged_image_is_an_error(root: Path) -> None:
    damage(root, "train/class1/04.jpg")
    with pytest.raises(DatasetError, match=r"04\.jpg: the image cannot be decoded.*data\.on_error: skip"):
        epochs_of(config_of(root, validation_fraction=0.0), [0])


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_others_take_the_places_of_damaged_images_in_training(
    root: Path, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(root, "train/class1/04.jpg", "train/class2/05.jpg")
    options: dict[str, Any] = {"on_error": "skip", "loader_processes": processes, "augmentation": "none"}
    config = config_of(root, **options, validation_fraction=0.0)
    dataset = load_dataset(config)
    with caplog.at_level(logging.WARNING):
        found = epochs_of(config, [0])
    assert "2 images could not be decoded and others took their places; the first: " in caplog.text
    assert sum(len(inputs) for inputs, _ in found) == 24
    whole = next(iter(eval_batches(dataset, dataset.train, batch_size=24, **PLACE)))
    assert len(whole[0]) == 22  # an evaluation leaves them out
    labels = {image.numpy().tobytes(): int(label) for image, label in zip(*whole, strict=True)}
    assert len(labels) == 22
    for inputs, targets in found:
        assert [labels[image.numpy().tobytes()] for image in inputs] == targets.tolist()
    assert_same(found, epochs_of(config, [0], num_workers=2))


def test_nothing_but_damaged_images_is_an_error(root: Path) -> None:
    damage(root, *(path.relative_to(root).as_posix() for path in (root / "train").rglob("*.jpg")))
    with pytest.raises(DatasetError, match="9 images in a row cannot be decoded"):
        epochs_of(config_of(root, on_error="skip"), [0])


# -- data sets by name -----------------------------------------------------------------------------------


def test_imagenet_has_a_thousand_classes(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "train"
    config = ImageNetConfig(root=str(tmp_path))
    with pytest.raises(DatasetError, match=r"no imagenet in .*imagenet/train is not there; put images into"):
        check_dataset(config)
    image = encode(random_images(1, (3, 20, 20))[0])
    for number in range(999):
        (folder / f"n{number:08d}").mkdir(parents=True)
        (folder / f"n{number:08d}" / "0.JPEG").write_bytes(image)
    with pytest.raises(DatasetError, match="imagenet has 1000 classes, a folder each \\(found 999\\)"):
        check_dataset(config)
    (folder / "n99999999").mkdir()
    with pytest.raises(DatasetError, match="n99999999: no image in it"):
        check_dataset(config)
    (folder / "n99999999" / "0.JPEG").write_bytes(image)
    check_dataset(config)
    info = dataset_info(config)
    assert (info.num_classes, info.input_shape, info.num_train) == (1000, (3, 224, 224), 900)


# -- small parts -----------------------------------------------------------------------------------------


def test_paths_survive_their_packing(tmp_path: Path) -> None:
    names = ["a/ü 1.jpg", "b/2.jpg", os.fsdecode(b"c/\xff.jpg")]
    files = ImageFiles(tmp_path, names, size=8, channels=1, centre=1.0)
    assert [files.path(row) for row in range(3)] == [tmp_path / name for name in names]


def test_keyed_randomness_leaves_the_callers_generators_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    expected = draw()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    with keyed_randomness(1, 2):
        first = draw()
    with keyed_randomness(1, 2):
        assert draw() == first
    with keyed_randomness(2, 1):
        assert draw() != first
    assert draw() == expected


def test_configurations_share_a_stream_and_its_processes(root: Path) -> None:
    first, second = load_dataset(config_of(root)), load_dataset(config_of(root, label_noise=0.5))
    assert isinstance(first.train.source, StreamedImages)
    assert first.train.source is second.train.source is second.load_test().source
