"""Data sets whose Parquet files are in S3."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from PIL import Image

from samtune.config.data import Cifar10Config, ParquetConfig
from samtune.data import check_dataset, dataset_info, load_dataset
from samtune.errors import DatasetError
from samtune.storage import open_storage


def put_split(uri: str, split: str, count: int, seed: int) -> np.ndarray:
    """Random images of 32x32 in the hub's layout; returns them, uint8 [N, 32, 32, 3]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    rows = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": "x.png"})
    filesystem, folder = open_storage(uri)
    filesystem.create_dir(folder, recursive=True)
    table = pa.table({"img": rows, "label": np.arange(count) % 10})
    pq.write_table(table, f"{folder}/{split}-00000-of-00001.parquet", filesystem=filesystem)
    return pixels


@pytest.mark.parametrize("config_class", [Cifar10Config, ParquetConfig])
def test_parquet_in_s3_is_the_same_data_set_as_on_disk(
    s3: str, config_class: type[Cifar10Config] | type[ParquetConfig]
) -> None:
    train = put_split(s3, "train", 60, seed=1)
    put_split(s3, "test", 20, seed=2)
    columns = {"image_column": "img"} if config_class is ParquetConfig else {}
    config = config_class(name=config_class.model_fields["name"].default, root=s3, **columns)
    check_dataset(config)
    info = dataset_info(config)
    assert info.num_train + info.num_validation == 60
    data = load_dataset(config)
    seen = {bytes(image) for split in (data.train, data.validation) for image in split.images.numpy()}
    assert seen == {image.transpose(2, 0, 1).tobytes() for image in train}


def test_files_are_copied_once_and_again_when_they_change(s3: str, tmp_path: Path) -> None:
    put_split(s3, "train", 30, seed=1)
    config = ParquetConfig(name="parquet", root=s3, image_column="img")
    check_dataset(config)
    (copy,) = (tmp_path / "cache" / "parquet").glob("*/train-*.parquet")
    first = copy.stat().st_ino
    check_dataset(config)
    assert copy.stat().st_ino == first
    put_split(s3, "train", 50, seed=3)
    check_dataset(config)
    assert copy.stat().st_ino != first
    assert pq.read_metadata(copy).num_rows == 50


@pytest.mark.parametrize("where", ["there/is/nothing", "../nowhere/x"])
def test_what_is_not_there_is_said(s3: str, where: str) -> None:
    root = s3.replace("?", f"/{where}?") if where.startswith("there") else s3.replace("studies", "nowhere")
    with pytest.raises(DatasetError, match=r"no Parquet data set in s3://.*: no file there is named|cannot be read"):
        check_dataset(ParquetConfig(name="parquet", root=root))


def test_copies_follow_what_is_removed(s3: str, tmp_path: Path) -> None:
    put_split(s3, "train", 30, seed=1)
    put_split(s3, "test", 30, seed=2)
    config = ParquetConfig(name="parquet", root=s3, image_column="img")
    check_dataset(config)
    filesystem, folder = open_storage(s3)
    assert isinstance(filesystem, pafs.S3FileSystem)
    filesystem.delete_file(f"{folder}/test-00000-of-00001.parquet")
    check_dataset(config)
    assert [path.name for path in (tmp_path / "cache" / "parquet").glob("*/*.parquet")] == [
        "train-00000-of-00001.parquet"
    ]
