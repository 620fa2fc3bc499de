"""The short real training: CIFAR-10's binary version is read exactly, and a network learns from it."""

from __future__ import annotations

import pytest
import torch

from samtune.errors import DatasetError
from samtune.gpucheck.training import TEST, TRAIN, read_cifar, train


def write(folder, examples=100):
    """Files in the format of cifar-10-binary.tar.gz: images of two classes, bright above or bright below."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name in TRAIN + TEST:
        labels = torch.randint(0, 2, (examples, 1), generator=generator)
        images = torch.randint(0, 128, (examples, 3, 2, 512), generator=generator)
        images[torch.arange(examples), :, labels[:, 0]] += 120
        rows = torch.cat([labels, images.flatten(1)], dim=1).to(torch.uint8)
        (folder / name).write_bytes(rows.numpy().tobytes())
    return folder


def test_rows_are_a_label_and_the_pixels_by_channel(tmp_path):
    row = torch.zeros(3073, dtype=torch.uint8)
    row[0], row[1], row[1 + 1024 + 33] = 7, 200, 9  # red of the first pixel; green of row 1, column 1
    (tmp_path / "one.bin").write_bytes(row.numpy().tobytes())
    images, labels = read_cifar(tmp_path, ["one.bin"])
    assert labels.tolist() == [7]
    assert images.shape == (1, 3, 32, 32)
    assert images[0, 0, 0, 0] == 200
    assert images[0, 1, 1, 1] == 9
    assert images.sum() == 209


def test_a_network_learns_from_it_with_sam(tmp_path):
    found = train(write(tmp_path / "cifar-10-batches-bin").parent, torch.device("cpu"), precision="fp32", quick=True)
    assert found.images == 500
    assert found.epochs == 1
    assert found.test_loss < found.test_loss_before
    assert found.test_accuracy > 0.45
    assert "test accuracy" in found.line()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 3072, "must have 3073 bytes per example (has 3,072)"),
        (b"", "must have 3073 bytes per example (has 0)"),
        (bytes([12]) + bytes(3072), "labels must be 0 to 9 (one is 12)"),
    ],
)
def test_another_format_is_refused(tmp_path, content, message):
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DatasetError) as error:
        read_cifar(tmp_path, ["data_batch_1.bin"])
    assert message in str(error.value)


def test_a_missing_file_says_what_is_wanted(tmp_path):
    with pytest.raises(DatasetError, match=r"cifar-10-binary\.tar\.gz, unpacked"):
        read_cifar(tmp_path, TRAIN)
