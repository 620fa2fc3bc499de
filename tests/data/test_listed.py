"""The fine-tuning data sets in their authors' formats; torchvision's own classes read the same files alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.listed_files import SIZE, WRITERS
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor

from samtune.config.data import ListedImagesConfig
from samtune.data import check_dataset, dataset_info, load_dataset
from samtune.data.sources.listed import LISTED
from samtune.errors import DatasetError

TRAIN_SPLITS = {"flowers102": ["train", "val"], "stanford_cars": ["train"], "food101": ["train"]}


@pytest.fixture(params=list(WRITERS))
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ListedImagesConfig:
    WRITERS[request.param](tmp_path)
    return ListedImagesConfig(name=request.param, root=str(tmp_path), image_size=SIZE)


def as_torchvision_reads(config: ListedImagesConfig, splits: list[str]) -> list[tuple[bytes, int]]:
    read = getattr(datasets, LISTED[config.name].torchvision)
    examples = [example for split in splits for example in read(config.root, split=split)]
    return sorted((pil_to_tensor(image).numpy().tobytes(), label) for image, label in examples)


def test_examples_are_those_that_torchvision_reads(config: ListedImagesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)  # of the real files' checksums
    check_dataset(config)
    dataset = load_dataset(config)
    assert dataset.num_classes == LISTED[config.name].num_classes
    images = torch.cat([dataset.train.images, dataset.validation.images])
    labels = torch.cat([dataset.train.labels, dataset.validation.labels])
    ours = sorted((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    assert ours == as_torchvision_reads(config, TRAIN_SPLITS.get(config.name, ["trainval"]))
    test = dataset.load_test()
    ours = sorted((image.numpy().tobytes(), int(label)) for image, label in zip(test.images, test.labels, strict=True))
    assert ours == as_torchvision_reads(config, ["test"])


def test_missing_image_is_named(config: ListedImagesConfig) -> None:
    next(Path(config.root).rglob("*.jpg")).unlink()
    with pytest.raises(DatasetError, match=r"\.jpg: missing \(1 of \d+ images are not there\)"):
        check_dataset(config)


def test_missing_annotations_are_named(config: ListedImagesConfig) -> None:
    for path in Path(config.root).rglob("*"):
        if path.suffix in (".mat", ".txt", ".json"):
            path.unlink()
    with pytest.raises(DatasetError, match=r"annotations of \w+ cannot be read|not a readable MATLAB file") as caught:
        check_dataset(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(WRITERS))
def test_missing_data_set(name: str, tmp_path: Path) -> None:
    config = ListedImagesConfig(name=name, root=str(tmp_path))
    with pytest.raises(DatasetError, match=rf"{name} is not in .* is not there; put it there, or set data\.download"):
        check_dataset(config)
    info = dataset_info(config.model_copy(update={"download": True}))
    assert (info.num_classes, info.input_shape) == (LISTED[name].num_classes, (3, 224, 224))
    assert info.num_train + info.num_validation == LISTED[name].num_train


def test_downloads_are_classes_of_torchvision() -> None:
    assert all(hasattr(datasets, description.torchvision) for description in LISTED.values())
