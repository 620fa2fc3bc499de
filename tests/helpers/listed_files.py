"""Writers of the fine-tuning data sets, tiny, in their authors' formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from helpers.dataset_files import encode, random_images

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
