"""`data.download: true`, through torchvision's own code, from a server on this machine."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.dataset_files import write_cifar10_python
from torchvision.datasets import CIFAR10

from samtune.config.data import Cifar10Config
from samtune.data import check_dataset, load_dataset
from samtune.data.download import download
from samtune.errors import DatasetError


class CountingHandler(SimpleHTTPRequestHandler):
    requests: list[str]

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.requests.append(self.path)

    def log_message(self, format: str, *args: object) -> None:
        pass


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves a small CIFAR-10 archive where torchvision looks for the real one; gives the paths asked for."""
    published = tmp_path / "published"
    write_cifar10_python(published)
    batches = published / "cifar-10-batches-py"
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(number) for number in range(10)]}))
    archive = published / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, batches.name)
    for name in ("train_list", "test_list"):
        files = [[file, md5(batches / file)] for file, _ in getattr(CIFAR10, name)]
        monkeypatch.setattr(CIFAR10, name, files)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(batches / "batches.meta")})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    shutil.rmtree(batches)

    seen: list[str] = []
    handler = partial(type("Handler", (CountingHandler,), {"requests": seen}), directory=str(published))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        yield seen
        server.shutdown()
        thread.join()


def test_downloads_what_is_missing_and_only_once(requests: list[str], tmp_path: Path) -> None:
    config = Cifar10Config(root=str(tmp_path / "data"), download=True)
    check_dataset(config)
    assert requests == []
    assert len(load_dataset(config).train) == 90
    assert requests
    num_requests = len(requests)
    assert len(load_dataset(config.model_copy(update={"num_train": 50})).train) == 45
    assert len(requests) == num_requests


def test_completes_a_half_extracted_archive(requests: list[str], tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    config = Cifar10Config(root=str(tmp_path / "data"), download=True)
    check_dataset(config)
    assert len(load_dataset(config).train) == 90


def test_nothing_is_fetched_without_being_asked(requests: list[str], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"set data\.download: true"):
        load_dataset(Cifar10Config(root=str(tmp_path / "data")))
    assert requests == []


def test_failed_download_is_one_clear_line(
    requests: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "url", CIFAR10.url + ".gone")
    with pytest.raises(DatasetError, match=r"cifar10 could not be downloaded into .*404"):
        load_dataset(Cifar10Config(root=str(tmp_path / "data"), download=True))


def test_workers_that_start_together_download_once(requests: list[str], tmp_path: Path) -> None:
    config = Cifar10Config(root=str(tmp_path / "data"), download=True)
    with ThreadPoolExecutor(3) as workers:
        list(workers.map(download, [config] * 3))
    assert len(requests) <= 2  # torchvision asks for the headers first
    assert len(load_dataset(config).train) == 90
