"""The shared file of decoded images: built once, never read half-written, rebuilt when anything changed."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.dataset_files import write_cifar10_parquet

from samtune.config.data import Cifar10Config
from samtune.data import cache, load_dataset
from samtune.data.cache import load_arrays
from samtune.data.dataset import forget_loaded
from samtune.data.sources import open_source
from samtune.data.sources.base import DataSource
from samtune.errors import DatasetError, RunError
from samtune.workers.trial_errors import is_fault


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_cifar10_parquet(tmp_path / "cifar")
    return tmp_path / "cifar"


@pytest.fixture
def source(root: Path) -> DataSource:
    return open_source(Cifar10Config(root=str(root)))


def replace(path: Path, content: bytes) -> None:
    """A new file in the place of one that may still be mapped."""
    path.unlink()
    path.write_bytes(content)


def arrow_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def test_second_load_reads_the_file_and_not_the_source(
    source: DataSource, root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_arrays(source, "train", "cifar10")
    monkeypatch.setattr(source, "read", lambda split: pytest.fail("decoded a second time"))
    second = load_arrays(source, "train", "cifar10")
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert (first.mean, first.std) == (second.mean, second.std)
    assert [path.suffix for path in cache_folder.iterdir() if path.suffix != ".lock"] == [".arrow"]
    assert arrow_files(root) == []


def test_images_are_pages_of_the_file(source: DataSource, cache_folder: Path) -> None:
    images = load_arrays(source, "train", "cifar10").images
    (path,) = arrow_files(cache_folder)
    mappings = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    ranges = [tuple(int(end, 16) for end in mapping.split("-")) for mapping in mappings]
    assert any(low <= images.data_ptr() and images.data_ptr() + images.nbytes <= high for low, high in ranges)


def test_a_cache_that_vanishes_is_made_again_with_a_line(
    source: DataSource, root: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A user may delete it while a search runs: what is mapped stays valid, and the next process decodes again."""
    first = load_arrays(source, "train", "cifar10")
    before = first.images.clone()
    shutil.rmtree(cache_folder)
    assert torch.equal(first.images, before)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="samtune"):
        again = load_arrays(source, "train", "cifar10")
    assert torch.equal(again.images, before)
    assert arrow_files(cache_folder)
    assert any(re.match(r"decoding the \d+ images of the train set, once", line) for line in caplog.messages)


def test_writing_to_a_tensor_does_not_reach_the_file(source: DataSource, cache_folder: Path) -> None:
    images = load_arrays(source, "train", "cifar10").images
    before = arrow_files(cache_folder)[0].read_bytes()
    images.fill_(7)
    assert arrow_files(cache_folder)[0].read_bytes() == before
    assert not torch.equal(load_arrays(source, "train", "cifar10").images, images)


def test_changed_source_is_decoded_again(root: Path, cache_folder: Path) -> None:
    load_dataset(Cifar10Config(root=str(root)))
    new, _ = write_cifar10_parquet(root, num_train=40)
    forget_loaded()
    dataset = load_dataset(Cifar10Config(root=str(root)))
    np.testing.assert_array_equal(dataset.train.source.pixels.numpy(), new)
    assert len(arrow_files(cache_folder)) == 2


def test_a_file_of_another_version_is_removed_when_this_one_decodes(
    source: DataSource, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_arrays(source, "train", "cifar10")
    load_arrays(source, "test", "cifar10")
    unnumbered = cache_folder / "cifar10-train-0123456789abcdef0123.arrow"  # as the first version named it
    unnumbered.touch()
    other = cache_folder / "cifar10_hd-train-v1-0123456789abcdef0123.arrow"
    other.touch()
    monkeypatch.setattr(cache, "_VERSION", cache._VERSION + 1)
    load_arrays(source, "train", "cifar10")
    names = {path.name.rpartition("-")[0] for path in arrow_files(cache_folder)}
    assert names == {f"cifar10-train-v{cache._VERSION}", f"cifar10-test-v{cache._VERSION - 1}", "cifar10_hd-train-v1"}


@pytest.mark.parametrize("keep", [0, 100, -1000])
def test_damaged_file_is_built_again(source: DataSource, cache_folder: Path, keep: int) -> None:
    expected = load_arrays(source, "train", "cifar10").images.clone()
    (path,) = arrow_files(cache_folder)
    content = path.read_bytes()
    path.unlink()  # a new file: the one above is still mapped
    path.write_bytes(content[:keep])
    assert torch.equal(load_arrays(source, "train", "cifar10").images, expected)
    assert path.read_bytes() == content


@pytest.mark.parametrize("where", ["first pixel", "last pixel", "label", "mean"])
def test_one_changed_bit_is_noticed_and_told_once(
    source: DataSource, cache_folder: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = load_arrays(source, "train", "cifar10")
    expected = arrays.images.clone()
    (path,) = arrow_files(cache_folder)
    content = bytearray(path.read_bytes())
    pixels = content.find(expected.numpy().tobytes())
    labels = content.find(arrays.labels.numpy().tobytes())
    mean = content.rfind(str(arrays.mean[0]).encode()) + 5  # Arrow reads the schema at the end
    assert min(pixels, labels, mean) > 5
    places = {"first pixel": pixels, "last pixel": pixels + expected.nbytes - 1, "label": labels + 8, "mean": mean}
    content[places[where]] ^= 1
    replace(path, content)
    assert torch.equal(load_arrays(source, "train", "cifar10").images, expected)
    assert [record.message for record in caplog.records] == [
        f"{path} is damaged and is built again (its checksum is wrong)"
    ]
    assert torch.equal(load_arrays(source, "train", "cifar10").images, expected)
    assert len(caplog.records) == 1


def test_no_changed_bit_of_the_description_is_read_as_data(source: DataSource, cache_folder: Path) -> None:
    """The file without its pixels: every bit of Arrow's own headers, and of the description in them."""
    good = load_arrays(source, "train", "cifar10")
    (path,) = arrow_files(cache_folder)
    content, pixels = path.read_bytes(), good.images.numpy().tobytes()
    first = content.find(pixels)
    bits = [8 * byte + bit for byte in range(len(content)) if not 0 <= byte - first < len(pixels) for bit in range(8)]
    noticed = 0
    for bit in np.random.default_rng(0).choice(bits, 400, replace=False):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        replace(path, changed)
        found = cache._map(path, (3, 32, 32))
        if found is None:
            noticed += 1
        else:
            assert found[0].tobytes() == pixels
            assert found[1].tolist() == good.labels.tolist()
            assert found[2] == (good.mean, good.std)
    assert noticed > 100


def test_the_driver_finds_the_damage_and_mends_it_without_torch(root: Path, cache_folder: Path) -> None:
    code = f"""
import sys
from samtune.config.data import Cifar10Config
from samtune.data import prepare_dataset
prepare_dataset(Cifar10Config(root={str(root)!r}))
print("torch" in sys.modules)
"""

    def prepare() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (prepare().stdout, prepare().stderr) == ("False\n", "")
    (path,) = arrow_files(cache_folder)
    content = path.read_bytes()
    path.write_bytes(content[:-2000] + b"x" + content[-1999:])
    assert prepare().stderr.startswith(f"{path} is damaged and is built again (")
    assert path.read_bytes() == content


def test_leftovers_of_a_killed_builder_are_removed_and_not_read(source: DataSource, cache_folder: Path) -> None:
    path = cache.cache_path(source, "train", "cifar10")
    assert path is not None
    cache_folder.mkdir()
    leftover = cache_folder / f"{path.name}.4711.tmp"
    leftover.write_bytes(b"half")
    load_arrays(source, "train", "cifar10")
    assert not leftover.exists()


def test_failed_build_leaves_nothing_behind(
    source: DataSource, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    message = f"{re.escape(str(cache_folder))}: the decoded images cannot be kept there .*No space left.*SAMTUNE_CACHE"
    with pytest.raises(RunError, match=message):
        load_arrays(source, "train", "cifar10")
    assert [path.suffix for path in cache_folder.iterdir()] == [".lock"]


def test_cache_in_an_impossible_place(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAMTUNE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DatasetError, match="set the environment variable SAMTUNE_CACHE"):
        load_arrays(source, "train", "cifar10")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE])
def test_a_fault_of_the_disk_is_no_mistake_of_the_user_s(number: int, source: DataSource, cache_folder: Path) -> None:
    def read(split: str) -> Any:
        raise OSError(number, os.strerror(number))

    source.read = read  # type: ignore[method-assign]
    with pytest.raises(
        RunError, match=rf"\({re.escape(os.strerror(number))}, .*B free\); set .* SAMTUNE_CACHE"
    ) as caught:
        load_arrays(source, "train", "cifar10")
    assert caught.value.exit_code == 1
    assert is_fault(caught.value)  # in a worker too: the search ends before the next trial meets the same


def _load_in_process(root: str, log: str, results: multiprocessing.Queue[int]) -> None:
    source = open_source(Cifar10Config(root=root))
    read = source.read

    def counted(split: str) -> object:
        with open(log, "a") as file:
            file.write("decoded\n")
        return read(split)

    source.read = counted
    images = load_arrays(source, "train", "cifar10").images
    results.put(int(images.long().sum()))


@pytest.mark.slow
def test_workers_that_start_together_decode_once(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    log = tmp_path / "log"
    workers = [context.Process(target=_load_in_process, args=(str(root), str(log), results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = Counter(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert log.read_text() == "decoded\n"
    assert list(sums.values()) == [3]
