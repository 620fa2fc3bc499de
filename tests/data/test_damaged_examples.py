"""Examples that real folders and Parquet files hold and that are no plain image with a plain label."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dataset_files import encode, random_images, write_folder
from PIL import Image
from torchvision.datasets import ImageFolder

from samtune.config.data import ImageFolderConfig, ParquetConfig
from samtune.data import check_dataset, dataset_info, load_dataset, train_batches
from samtune.data.files import ImageFiles
from samtune.data.sources.decode import DamagedImageError, Decoder
from samtune.errors import DatasetError

CLASSES = {"train/a": 4, "train/b": 4}


def folder_config(root: Path, **options: Any) -> ImageFolderConfig:
    return ImageFolderConfig(root=str(root), image_size=8, **{"validation_fraction": 0.25, **options})


def parquet_config(root: Path, **options: Any) -> ParquetConfig:
    return ParquetConfig(root=str(root), **{"validation_fraction": 0.25, **options})


def write_table(root: Path, labels: list[Any], kind: pa.DataType, images: list[bytes | None] | None = None) -> Path:
    """A training file without the hub's description of its columns."""
    images = images or [encode(image) for image in random_images(len(labels), (3, 8, 8))]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": image, "path": f"images/{row}.png"} for row, image in enumerate(images)], struct)
    root.mkdir(exist_ok=True)
    path = root / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": column, "label": pa.array(labels, kind)}), path)
    return path


# -- Parquet ---------------------------------------------------------------------------------------------


def test_parquet_without_metadata_is_the_first_thing_that_a_process_reads(tmp_path: Path) -> None:
    write_table(tmp_path, [0, 1, 2, 1], pa.int64())
    code = f"""
from samtune.config.data import ParquetConfig
from samtune.data import dataset_info
print(dataset_info(ParquetConfig(root={str(tmp_path)!r}, validation_fraction=0.25)).num_classes)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "3", run.stderr


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()], ids=str
)
def test_labels_may_be_of_every_integer_type(tmp_path: Path, kind: pa.DataType) -> None:
    write_table(tmp_path, [0, 1, 2, 1], kind)
    dataset = load_dataset(parquet_config(tmp_path))
    labels = torch.cat([dataset.train.labels, dataset.validation.labels])
    rows = torch.cat([dataset.train.indices, dataset.validation.indices])
    assert dataset.num_classes == 3
    assert labels[rows.argsort()].tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64()], ids=str)
def test_a_row_without_a_label_is_named_and_can_be_skipped(tmp_path: Path, kind: pa.DataType) -> None:
    path = write_table(tmp_path, [0, 1, None, 1], kind)
    expected = f"{path}: row 2, column 'label': no label (null) (data.on_error: skip leaves such images out)"
    with pytest.raises(DatasetError) as caught:
        load_dataset(parquet_config(tmp_path))
    assert str(caught.value) == expected
    dataset = load_dataset(parquet_config(tmp_path, on_error="skip"))
    assert dataset.train.source.pixels.shape == (3, 3, 8, 8)
    assert sorted([*dataset.train.labels.tolist(), *dataset.validation.labels.tolist()]) == [0, 1, 1]


@pytest.mark.parametrize("row", [0, 2])
def test_a_row_with_the_path_alone_is_named_and_can_be_skipped(tmp_path: Path, row: int) -> None:
    images: list[bytes | None] = [encode(image) for image in random_images(4, (3, 8, 8))]
    images[row] = None
    path = write_table(tmp_path, [0, 1, 0, 1], pa.int64(), images)
    with pytest.raises(DatasetError) as caught:
        load_dataset(parquet_config(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"{path}: row {row}, column 'image': no image (bytes is null; ")
    assert message.endswith("(data.on_error: skip leaves such images out)")
    dataset = load_dataset(parquet_config(tmp_path, on_error="skip"))
    assert dataset.train.source.pixels.shape == (3, 3, 8, 8)


def test_a_label_out_of_range_is_named_by_its_row(tmp_path: Path) -> None:
    path = write_table(tmp_path, [0, 1, -1, 1], pa.int64())
    with pytest.raises(DatasetError) as caught:
        load_dataset(parquet_config(tmp_path, on_error="skip"))
    assert str(caught.value) == f"{path}: row 2, column 'label': labels must be in 0..1 (found -1)"


# -- folders ---------------------------------------------------------------------------------------------


def test_names_that_begin_with_a_dot_are_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path, {**CLASSES, "test/a": 2, "test/b": 2})
    image = encode(random_images(1, (3, 9, 9))[0])
    for folder in ("train/.ipynb_checkpoints", "test/.ipynb_checkpoints", "train/a/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "000-checkpoint.png").write_bytes(image)
    (tmp_path / "train" / "b" / "._000.png").write_bytes(b"\0\5\x16\7")
    dataset = load_dataset(folder_config(tmp_path))
    assert dataset.num_classes == 2
    assert dataset.train.source.pixels[:, 0, 0, 0].tolist() == list(range(8))
    assert len(dataset.load_test()) == 4


def test_images_in_folders_below_a_class_are_found_in_torchvisions_order(tmp_path: Path) -> None:
    root = tmp_path / "train"
    write_folder(tmp_path, {"train/a": 2, "train/a/z/y": 2, "train/a/b": 2, "train/b/only/below": 3})
    source = load_dataset(folder_config(tmp_path)).train.source
    theirs = [np.asarray(Image.open(path))[0, 0, 0] for path, _ in ImageFolder(str(root)).samples]
    assert source.pixels[:, 0, 0, 0].tolist() == theirs
    assert len(theirs) == 9


def test_a_link_to_a_folder_above_it_is_not_followed(tmp_path: Path) -> None:
    write_folder(tmp_path, CLASSES)
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(encode(np.full((3, 9, 9), 99, dtype=np.uint8)))
    (tmp_path / "train" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    source = load_dataset(folder_config(tmp_path)).train.source
    assert source.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 99, 4, 5, 6, 7]


def test_a_link_to_nowhere_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path, CLASSES)
    (tmp_path / "train" / "a" / "zz.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DatasetError, match=r"a/zz\.png: cannot be read \(.*\(data\.on_error: skip leaves such"):
        load_dataset(folder_config(tmp_path))
    assert len(load_dataset(folder_config(tmp_path, on_error="skip")).train.source.pixels) == 8


@pytest.mark.parametrize("stream", [False, True], ids=["cached", "streamed"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"<html>404</html>", "not in a format that Pillow knows")],
    ids=["empty", "web page"],
)
def test_the_way_past_a_damaged_image_is_offered(tmp_path: Path, stream: bool, content: bytes, reason: str) -> None:
    write_folder(tmp_path, CLASSES)
    (tmp_path / "train" / "a" / "002.png").write_bytes(content)
    config = folder_config(tmp_path, stream=stream, loader_processes=0, validation_fraction=0.0)
    with pytest.raises(DatasetError) as caught:
        list(
            train_batches(
                load_dataset(config),
                config,
                batch_size=8,
                rank=0,
                num_workers=1,
                seed=0,
                epoch=0,
                device=torch.device("cpu"),
            )
        )
    expected = f"train/a/002.png: the image cannot be decoded ({reason}) (data.on_error: skip leaves such images out)"
    assert str(caught.value) == f"{tmp_path}/{expected}"


# -- pixels of more than eight bits ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight_and_are_not_clipped(tmp_path: Path, suffix: str, channels: int) -> None:
    """257 = 65535 / 255 levels of sixteen bits are one of eight; the nearest is taken."""
    levels = np.array([0, 128, 129, 25_000, 40_000, 65_535], dtype=np.uint16)
    Image.fromarray(np.broadcast_to(levels, (6, 6)).copy()).save(tmp_path / f"x.{suffix}")
    decoder = Decoder((channels, 6, 6))
    expected = [0, 0, 1, 97, 156, 255]
    assert decoder.one((tmp_path / f"x.{suffix}").read_bytes(), "x")[:, 0].tolist() == [expected] * channels
    streamed = ImageFiles(tmp_path, [f"x.{suffix}"], size=6, channels=channels, centre=1.0).read(0, None)
    assert streamed[:, 0].tolist() == [expected] * channels


@pytest.mark.parametrize(("kind", "name"), [(np.int32, "integers"), (np.float32, "floats")])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, kind: type, name: str) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.full((6, 6), 1000, dtype=kind)).save(path)
    with pytest.raises(DamagedImageError, match=f"x: the image cannot be decoded .its pixels are 32-bit {name}; 8 or"):
        Decoder((3, 6, 6)).one(path.read_bytes(), "x")


def test_checks_find_nested_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a/below": 4, "train/b": 4})
    check_dataset(folder_config(tmp_path))
    assert dataset_info(folder_config(tmp_path)).num_train == 6
