"""The fine-tuning data sets in their authors' formats; torchvision's own classes read the same files alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import encode, random_images
from scipy.io import savemat
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor

from samtune.data import check_dataset, dataset_info, load_dataset
from samtune.data.sources.listed import LISTED
from samtune.errors import DatasetError
from samtune.spec.data import ListedImagesConfig

SIZE = 16


def write_images(folder: Path, names: list[str], seed: int = 0) -> None:
    for name, image in zip(names, random_images(len(names), (3, SIZE, SIZE), seed), strict=True):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image, "PNG"))  # lossless, and readers go by the content


def write_flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    write_images(folder / "jpg", [f"image_{number:05d}" for number in range(1, 31)])
    savemat(folder / "imagelabels.mat", {"labels": (np.arange(30) * 7 % 102 + 1)[None]})
    ids = np.random.default_rng(0).permutation(np.arange(1, 31))[None]
    savemat(folder / "setid.mat", {"trnid": ids[:, :10], "valid": ids[:, 10:20], "tstid": ids[:, 20:]})


def write_oxford_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("trainval", 20), ("test", 10)):
        names = [f"great_pet_{split}_{number}" for number in range(count)]
        write_images(folder / "images", names, count)
        lines = [f"{name} {number % 37 + 1} 1 {number}" for number, name in enumerate(names)]
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def write_stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["a", "b"], dtype=object)})
    paths = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}
    for split, path in paths.items():
        names = [f"{number:05d}" for number in range(20)]
        write_images(folder / f"cars_{split}", names, len(split))
        rows = np.array(
            [(f"{name}.jpg", number * 9 % 196 + 1) for number, name in enumerate(names)],
            dtype=[("fname", object), ("class", object)],
        )
        savemat(path, {"annotations": rows[None]})


def write_fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    variants = [f"A {number} B" for number in range(100)]
    (data / "variants.txt").write_text("\n".join(variants) + "\n")
    for split, first in (("trainval", 1000), ("test", 2000)):
        names = [str(first + number) for number in range(20)]
        write_images(data / "images", names, first)
        lines = [f"{name} {variants[number * 13 % 100]}" for number, name in enumerate(names)]
        (data / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")


def write_food101(root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split in ("train", "test"):
        by_class = {name: [f"{name}/{split}{number}" for number in range(10)] for name in ("pie", "apple", "soup")}
        write_images(folder / "images", [image for images in by_class.values() for image in images], len(split))
        (folder / "meta" / f"{split}.json").write_text(json.dumps(by_class))


WRITERS: dict[str, Callable[[Path], None]] = {
    "flowers102": write_flowers102,
    "oxford_pets": write_oxford_pets,
    "stanford_cars": write_stanford_cars,
    "fgvc_aircraft": write_fgvc_aircraft,
    "food101": write_food101,
}
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
