"""The further data sets, each through files in its real format, and one contract for all of them."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dataset_files import (
    cycling_labels,
    encode,
    random_images,
    write_cifar10_parquet,
    write_cifar10_python,
    write_cifar100_python,
    write_folder,
    write_idx,
    write_parquet,
    write_svhn,
)

from samtune.config.data import (
    Cifar10Config,
    Cifar100Config,
    DataConfig,
    DigitsConfig,
    FashionMnistConfig,
    ImageFolderConfig,
    MnistConfig,
    ParquetConfig,
    SvhnConfig,
)
from samtune.data import check_dataset, dataset_info, eval_batches, load_dataset, train_batches
from samtune.data.sources import base
from samtune.errors import DatasetError


def _digits(root: Path) -> DataConfig:
    return DigitsConfig()


def _cifar10(root: Path) -> DataConfig:
    write_cifar10_python(root)
    return Cifar10Config(root=str(root))


def _cifar10_hub(root: Path) -> DataConfig:
    write_cifar10_parquet(root / "plain_text")
    return Cifar10Config(root=str(root))


def _cifar100(root: Path) -> DataConfig:
    write_cifar100_python(root)
    return Cifar100Config(root=str(root), validation_fraction=0.5)


def _cifar100_hub(root: Path) -> DataConfig:
    for split, count in (("train", 100), ("test", 10)):
        images, labels = random_images(count, (3, 32, 32)), cycling_labels(count, 100)
        write_parquet(root / f"{split}-00000-of-00001.parquet", images, labels, label="fine_label")
    return Cifar100Config(root=str(root), validation_fraction=0.5)


def _mnist(root: Path) -> DataConfig:
    write_idx(root / "MNIST" / "raw")
    return MnistConfig(root=str(root))


def _fashion_mnist_compressed(root: Path) -> DataConfig:
    write_idx(root / "FashionMNIST" / "raw", compressed=True)
    return FashionMnistConfig(root=str(root))


def _mnist_hub(root: Path) -> DataConfig:
    for split in ("train", "test"):
        path = root / "mnist" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, random_images(40, (1, 28, 28)), cycling_labels(40), image="image")
    return MnistConfig(root=str(root))


def _svhn(root: Path) -> DataConfig:
    write_svhn(root, {"train": 40, "test": 20})
    return SvhnConfig(root=str(root))


def _svhn_extra(root: Path) -> DataConfig:
    write_svhn(root, {"train": 40, "test": 20, "extra": 60})
    return SvhnConfig(root=str(root), extra=True)


def _folder(root: Path) -> DataConfig:
    write_folder(root, {"train/cat": 20, "train/dog": 20, "test/cat": 3, "test/dog": 4})
    return ImageFolderConfig(root=str(root), image_size=16)


def _parquet(root: Path) -> DataConfig:
    for split in ("train", "validation"):
        path = root / f"{split}-00000-of-00001.parquet"
        write_parquet(path, random_images(30, (3, 12, 14)), cycling_labels(30, 3), image="picture", label="kind")
    return ParquetConfig(root=str(root), image_column="picture", label_column="kind")


MAKERS = [
    _digits,
    _cifar10,
    _cifar10_hub,
    _cifar100,
    _cifar100_hub,
    _mnist,
    _fashion_mnist_compressed,
    _mnist_hub,
    _svhn,
    _svhn_extra,
    _folder,
    _parquet,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.strip("_"))
def test_contract_of_every_data_set(make: Callable[[Path], DataConfig], tmp_path: Path) -> None:
    config = make(tmp_path / "data")
    check_dataset(config)
    info, dataset = dataset_info(config), load_dataset(config)
    test = dataset.load_test()
    assert (info.num_train, info.num_validation) == (len(dataset.train), len(dataset.validation))
    assert (info.num_classes, info.input_shape) == (dataset.num_classes, dataset.input_shape)
    for split in (dataset.train, dataset.validation, test):
        assert split.images.shape == (len(split), *dataset.input_shape)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert 0 <= split.labels.min() <= split.labels.max() < dataset.num_classes
    rows = torch.cat([dataset.train.indices, dataset.validation.indices])
    assert torch.equal(rows.sort().values, torch.arange(len(rows)))
    assert len(dataset.mean) == len(dataset.std) == dataset.input_shape[0]

    device = torch.device("cpu")
    arguments = {"batch_size": 8, "num_workers": 2, "seed": 0, "epoch": 0, "device": device}
    shares = [list(train_batches(dataset, config, rank=rank, **arguments)) for rank in range(2)]
    assert [len(share) for share in shares] == [len(dataset.train) // 8] * 2
    for inputs, targets in shares[0] + shares[1]:
        assert inputs.shape == (4, *dataset.input_shape)
        assert inputs.dtype == torch.float32
        assert inputs.abs().max() < 20  # normalised
        assert targets.shape == (4,)
    evaluated = eval_batches(dataset, test, batch_size=7, rank=0, num_workers=1, device=device)
    assert torch.equal(torch.cat([targets for _, targets in evaluated]), test.labels)


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    train, test = write_cifar100_python(tmp_path)
    dataset = load_dataset(Cifar100Config(root=str(tmp_path), validation_fraction=0.5))
    assert dataset.num_classes == 100
    np.testing.assert_array_equal(dataset.train.source.pixels.numpy(), train)
    assert torch.equal(dataset.train.labels, dataset.train.indices % 100)
    np.testing.assert_array_equal(dataset.load_test().images.numpy(), test)


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_reads_what_was_written(tmp_path: Path, compressed: bool) -> None:
    train, test = write_idx(tmp_path / "MNIST" / "raw", compressed=compressed)
    dataset = load_dataset(MnistConfig(root=str(tmp_path)))
    np.testing.assert_array_equal(dataset.train.source.pixels.numpy(), train)
    assert torch.equal(dataset.train.labels, dataset.train.indices % 10)
    np.testing.assert_array_equal(dataset.load_test().images.numpy(), test)


def test_svhn_counts_the_zero_as_class_0_and_extra_comes_last(tmp_path: Path) -> None:
    written = write_svhn(tmp_path, {"train": 40, "test": 20, "extra": 60})
    dataset = load_dataset(SvhnConfig(root=str(tmp_path), extra=True))
    expected = np.concatenate([written["train"], written["extra"]])
    np.testing.assert_array_equal(dataset.train.source.pixels.numpy(), expected)
    assert torch.equal(dataset.train.labels, dataset.train.indices % 40 % 10)  # 40 and then 60 cycling labels
    assert len(load_dataset(SvhnConfig(root=str(tmp_path))).train) == 36


def test_image_folder_numbers_classes_by_name_and_resizes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/b": 10, "train/a": 10, "val/b": 2}, shape=(3, 20, 30))
    dataset = load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8))
    assert dataset.input_shape == (3, 8, 8)
    # Files in the order of class and name: a holds the values 10..19, b 0..9; each image is of one value.
    values = dataset.train.source.pixels[:, 0, 0, 0]
    assert values.tolist() == [*range(10, 20), *range(10)]
    assert torch.equal(dataset.train.labels, (dataset.train.indices >= 10).long())
    assert dataset.load_test().labels.tolist() == [1, 1]


def test_resizing_keeps_the_centre(tmp_path: Path) -> None:
    image = np.zeros((3, 16, 32), dtype=np.uint8)
    image[:, :, 8:24] = 200  # the central square
    for name in ("train/x", "train/y"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"{number}.png").write_bytes(encode(image))
    dataset = load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=16, validation_fraction=0.5))
    assert (dataset.train.images == 200).all()


def test_statistics_of_other_data_sets_are_measured(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a": 2, "train/b": 2})  # grey values 0, 1, 2, 3
    dataset = load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8, validation_fraction=0.5))
    assert dataset.mean == pytest.approx([1.5 / 255] * 3)
    assert dataset.std == pytest.approx([1.25**0.5 / 255] * 3)  # variance (2.25 + 0.25 + 0.25 + 2.25) / 4


def test_parquet_takes_the_classes_from_the_hubs_metadata(tmp_path: Path) -> None:
    images = [{"bytes": encode(image), "path": None} for image in random_images(8, (3, 8, 8))]
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c", "d", "e"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [0, 1] * 4})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    assert dataset_info(ParquetConfig(root=str(tmp_path), validation_fraction=0.25)).num_classes == 5
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "train-00000-of-00001.parquet")
    assert dataset_info(ParquetConfig(root=str(tmp_path), validation_fraction=0.25)).num_classes == 2


def test_images_of_unequal_size_need_an_image_size(tmp_path: Path) -> None:
    images = [encode(random_images(1, (3, 8, 8 + row))[0]) for row in range(4)]
    table = pa.table({"image": [{"bytes": image, "path": None} for image in images], "label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DatasetError, match=r"row 1: image of 8x9 pixels \(expected 8x8\); all must be of one size"):
        load_dataset(ParquetConfig(root=str(tmp_path), validation_fraction=0.5))
    config = ParquetConfig(root=str(tmp_path), validation_fraction=0.5, image_size=6)
    assert load_dataset(config).train.images.shape == (2, 3, 6, 6)


def test_large_data_sets_are_decoded_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {"train/a": 6, "train/b": 6})
    monkeypatch.setattr(base, "MAX_BYTES_IN_MEMORY", 100)
    assert isinstance(base.allocate_images(2, (3, 8, 8)), np.memmap)
    dataset = load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8))
    assert dataset.train.source.pixels[:, 0, 0, 0].tolist() == list(range(12))


def test_damaged_images_are_skipped_and_counted_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, {"train/a": 6, "train/b": 6})
    (tmp_path / "train" / "a" / "002.png").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"002\.png: the image cannot be decoded"):
        load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8))
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8, on_error="skip"))
    assert "1 of 12 images were skipped; the first:" in caplog.text
    assert dataset.train.source.pixels[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert len(dataset.train) + len(dataset.validation) == 11


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a": 2, "train/b": 2}, shape=(1, 9, 9))
    for channels in (1, 3):
        config = ImageFolderConfig(root=str(tmp_path), image_size=8, channels=channels, validation_fraction=0.5)
        assert load_dataset(config).train.images.shape == (2, channels, 8, 8)


def test_data_set_without_a_test_set(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a": 4, "train/b": 4})
    dataset = load_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8))
    with pytest.raises(DatasetError, match="image_folder has no test set"):
        dataset.load_test()


def _remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def _write(path: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes(content)


@pytest.mark.parametrize(
    ("make", "damage", "message"),
    [
        (_mnist, _remove("MNIST/raw/t10k-labels-idx1-ubyte"), "t10k-labels-idx1-ubyte: missing, and so is .*gz"),
        (
            _mnist,
            _write("MNIST/raw/train-images-idx3-ubyte", b"<html>" * 9),
            "not a file of bytes in MNIST's IDX format",
        ),
        (
            _mnist,
            _write("MNIST/raw/train-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x09" + bytes(9)),
            r"images of shape \(60, 28, 28\) and labels of shape \(9,\) do not go together",
        ),
        (
            _fashion_mnist_compressed,
            _write("FashionMNIST/raw/train-images-idx3-ubyte.gz", b"no gzip at all"),
            r"train-images-idx3-ubyte\.gz: cannot be read",
        ),
        (_cifar100, _remove("cifar-100-python/test"), "cifar-100-python/test: missing"),
        (_svhn, _remove("test_32x32.mat"), r"test_32x32\.mat: missing"),
        (_svhn, _write("train_32x32.mat", b"<html>404</html>" * 20), r"train_32x32\.mat: not a readable MATLAB file"),
    ],
)
def test_damaged_files_are_found_before_any_worker_starts(
    make: Callable[[Path], DataConfig], damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    config = make(tmp_path)
    damage(tmp_path)
    with pytest.raises(DatasetError, match=message) as caught:
        check_dataset(config)
    assert "\n" not in str(caught.value)


def test_truncated_idx_data(tmp_path: Path) -> None:
    config = _mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=r"47030 bytes of data \(the header says 47040\)"):
        load_dataset(config)


def test_truncated_compressed_data(tmp_path: Path) -> None:
    config = _fashion_mnist_compressed(tmp_path)
    path = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()))[:-300])
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        load_dataset(config)


def test_truncated_matlab_file(tmp_path: Path) -> None:
    config = _svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"train_32x32\.mat: not a readable MATLAB file"):
        load_dataset(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ImageFolderConfig(root="/nowhere", image_size=8), "/nowhere/train is not there; put images into"),
        (ParquetConfig(root="/nowhere"), r"no Parquet data set in /nowhere: train-00000-of-00001\.parquet"),
        (MnistConfig(root="/nowhere"), "mnist is not in /nowhere: neither MNIST/raw .* nor train-00000"),
        (SvhnConfig(root="/nowhere"), "svhn is not in /nowhere: neither train_32x32.mat .* nor train-00000"),
        (Cifar100Config(root="/nowhere"), "cifar100 is not in /nowhere: neither cifar-100-python .* nor train-00000"),
    ],
)
def test_missing_data_sets_say_what_to_put_where(config: DataConfig, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_dataset(config)


def test_folder_of_a_class_without_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a": 4, "train/b": 0})
    with pytest.raises(DatasetError, match="train/b: no image in it"):
        check_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8))


def test_class_that_only_the_test_set_has(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/a": 4, "test/z": 1})
    with pytest.raises(DatasetError, match="test/z: no such class in"):
        check_dataset(ImageFolderConfig(root=str(tmp_path), image_size=8))


def test_extra_images_that_are_asked_for_but_not_there(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "train-00000-of-00001.parquet", random_images(4, (3, 32, 32)), cycling_labels(4), image="image"
    )
    with pytest.raises(DatasetError, match=r"extra-00000-of-0000N\.parquet: missing \(data\.extra asks for it\)"):
        check_dataset(SvhnConfig(root=str(tmp_path), extra=True))
