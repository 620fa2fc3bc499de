"""Each data set through files in its real format: found, counted, checked, read."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dataset_files import (
    cycling_labels,
    random_images,
    write_cifar10_parquet,
    write_cifar10_python,
    write_parquet,
)

from samtune.config.data import Cifar10Config, DigitsConfig
from samtune.data import DatasetInfo, check_dataset, dataset_info, load_dataset
from samtune.errors import DatasetError


def test_cifar10_in_the_python_format(tmp_path: Path) -> None:
    train, test = write_cifar10_python(tmp_path)
    config = Cifar10Config(root=str(tmp_path))
    check_dataset(config)
    assert dataset_info(config) == DatasetInfo(10, (3, 32, 32), num_train=90, num_validation=10)
    dataset = load_dataset(config)
    rows = torch.cat([dataset.train.indices, dataset.validation.indices])
    images = torch.cat([dataset.train.images, dataset.validation.images])
    assert torch.equal(rows.sort().values, torch.arange(100))
    np.testing.assert_array_equal(images[rows.argsort()].numpy(), train)
    assert torch.equal(dataset.train.labels, dataset.train.indices % 20 % 10)
    np.testing.assert_array_equal(dataset.load_test().images.numpy(), test)


def test_cifar10_batches_of_python_3_are_read_too(tmp_path: Path) -> None:
    train, _ = write_cifar10_python(tmp_path)
    for path in (tmp_path / "cifar-10-batches-py").iterdir():
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps(content, protocol=2))
    source = load_dataset(Cifar10Config(root=str(tmp_path))).train.source
    np.testing.assert_array_equal(source.pixels.numpy(), train)


def test_cifar10_in_the_parquet_layout(tmp_path: Path) -> None:
    train, test = write_cifar10_parquet(tmp_path)
    config = Cifar10Config(root=str(tmp_path))
    check_dataset(config)
    assert dataset_info(config) == DatasetInfo(10, (3, 32, 32), num_train=90, num_validation=10)
    dataset = load_dataset(config)
    np.testing.assert_array_equal(dataset.train.source.pixels.numpy(), train)
    assert torch.equal(dataset.train.labels, dataset.train.indices % 10)
    np.testing.assert_array_equal(dataset.load_test().images.numpy(), test)


def test_shards_are_read_in_their_order(tmp_path: Path) -> None:
    images = random_images(30, (3, 32, 32))
    for number in range(3):
        part = slice(10 * number, 10 * number + 10)
        write_parquet(tmp_path / f"train-0000{number}-of-00003.parquet", images[part], cycling_labels(10))
    dataset = load_dataset(Cifar10Config(root=str(tmp_path)))
    np.testing.assert_array_equal(dataset.train.source.pixels.numpy(), images)


def test_digits_hold_out_a_fifth_as_test_set() -> None:
    config = DigitsConfig()
    check_dataset(config)
    assert dataset_info(config) == DatasetInfo(10, (1, 8, 8), num_train=1294, num_validation=144)
    dataset = load_dataset(config)
    assert (len(dataset.train), len(dataset.validation), len(dataset.load_test())) == (1294, 144, 359)
    from sklearn.datasets import load_digits

    everything = [dataset.train.images, dataset.validation.images, dataset.load_test().images]
    ours = torch.cat(everything).flatten(1).numpy()
    theirs = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
    assert sorted(ours.sum(axis=1)) == sorted(theirs.sum(axis=1, dtype=np.uint64))
    assert torch.bincount(dataset.load_test().labels).min() >= 34  # of 36 a class


def test_digits_normalisation_is_that_of_their_training_pixels() -> None:
    dataset = load_dataset(DigitsConfig())
    pixels = dataset.train.source.pixels.double() / 255
    assert abs(pixels.mean() - dataset.mean[0]) < 2e-3
    assert abs(pixels.std() - dataset.std[0]) < 2e-3


def test_missing_dataset_says_what_was_looked_for_and_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        check_dataset(Cifar10Config(root=str(tmp_path / "nowhere")))
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path / "nowhere"), "cifar-10-batches-py", "train-00000-of-00001.parquet", "data.download"):
        assert part in message


def test_missing_batch_is_named(tmp_path: Path) -> None:
    write_cifar10_python(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DatasetError, match="data_batch_4: missing"):
        check_dataset(Cifar10Config(root=str(tmp_path)))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", random_images(4, (3, 32, 32)), cycling_labels(4))
    with pytest.raises(DatasetError, match=r"train-00001-of-00002.parquet: missing \(1 of the 2 train files"):
        check_dataset(Cifar10Config(root=str(tmp_path)))


def test_parquet_without_the_columns(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "train-00000-of-00001.parquet", random_images(4, (3, 32, 32)), cycling_labels(4), image="picture"
    )
    with pytest.raises(DatasetError, match=r"no column 'img' \(expected 'img' and 'label', found 'picture', 'label'\)"):
        check_dataset(Cifar10Config(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"img": [b"x"], "label": [0]}), "column 'img' must be a struct with the field 'bytes'"),
        (pa.table({"img": [{"bytes": b"x"}], "label": ["cat"]}), "column 'label' must hold integers"),
    ],
)
def test_parquet_with_columns_of_other_types(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DatasetError, match=message):
        check_dataset(Cifar10Config(root=str(tmp_path)))


def test_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_text("<html>404</html>")
    with pytest.raises(DatasetError, match=r"train-00000-of-00001\.parquet: not a readable Parquet file"):
        check_dataset(Cifar10Config(root=str(tmp_path)))


def test_truncated_batch(tmp_path: Path) -> None:
    write_cifar10_python(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DatasetError, match="data_batch_2: not a batch in CIFAR's Python format"):
        check_dataset(Cifar10Config(root=str(tmp_path)))


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_cifar10_python(tmp_path)
    marker = tmp_path / "executed"
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(f"cos\nsystem\n(Vtouch {marker}\ntR.".encode())
    with pytest.raises(DatasetError, match=r"test_batch: not a batch .*os\.system"):
        check_dataset(Cifar10Config(root=str(tmp_path)))
    assert not marker.exists()


def test_label_out_of_range(tmp_path: Path) -> None:
    labels = np.array([0, 1, 10, 3])
    write_parquet(tmp_path / "train-00000-of-00001.parquet", random_images(4, (3, 32, 32)), labels)
    with pytest.raises(DatasetError, match=r"labels must be in 0\.\.9 \(found 10\)"):
        load_dataset(Cifar10Config(root=str(tmp_path)))


def test_image_of_another_size(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", random_images(4, (3, 28, 32)), cycling_labels(4))
    with pytest.raises(DatasetError, match=r"row 0: image of 28x32 pixels \(expected 32x32\)"):
        load_dataset(Cifar10Config(root=str(tmp_path)))


def test_damaged_image_is_named(tmp_path: Path) -> None:
    table = pa.table({"img": [{"bytes": b"\xff\xd8\xff not a JPEG", "path": "x.jpg"}] * 4, "label": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DatasetError, match=r"train-00000-of-00001.parquet: row 0: the image cannot be decoded"):
        load_dataset(Cifar10Config(root=str(tmp_path)))


def test_download_is_taken_on_trust_until_a_worker_does_it(tmp_path: Path) -> None:
    config = Cifar10Config(root=str(tmp_path), download=True, num_train=1000)
    check_dataset(config)
    assert dataset_info(config) == DatasetInfo(10, (3, 32, 32), num_train=900, num_validation=100)
    assert list(tmp_path.iterdir()) == []


def test_checks_import_neither_torch_nor_sklearn(tmp_path: Path) -> None:
    write_cifar10_parquet(tmp_path / "parquet", 20, 10)
    write_cifar10_python(tmp_path / "python", 10)
    code = f"""
import sys
from samtune.data import check_dataset, dataset_info
from samtune.config.data import Cifar10Config, DigitsConfig
for config in (DigitsConfig(), Cifar10Config(root={str(tmp_path / "parquet")!r}),
               Cifar10Config(root={str(tmp_path / "python")!r})):
    check_dataset(config)
    dataset_info(config)
print({{"torch", "torchvision", "sklearn", "PIL"}} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "set()", run.stderr
