"""Examples that are read, decoded and cropped when they are needed, ahead of the step, by processes of their own.

What a process makes of an example is a function of (seed, epoch, example), so that the batches are the same bits with
any number of processes and of workers. At most `processes x prefetch` batches are in memory.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from samtune.data.counter_rng import fold
from samtune.data.images import ImageSource, joined
from samtune.data.semaphores import SemaphoreNames
from samtune.data.sources.decode import DamagedImageError
from samtune.data.sources.own_split import split_example, tensors_of
from samtune.errors import DatasetError
from samtune.sam import tree
from samtune.user_path import add_user_folders, importing_user_code, user_folders

NUM_SUBSTITUTES = 8
"""Images that are tried, one after another, in place of a damaged one."""

_log = logging.getLogger(__name__)


class Reader(ABC):
    """Reads one example. Goes to the loader processes, so it must be picklable, and should be small."""

    @abstractmethod
    def read(self, row: int, crop: int | None) -> Any:
        """The input of an example.

        Args:
            crop: the key (of seed and epoch) of its augmentation; None: without.

        Raises:
            DamagedImageError: it cannot be read.
        """


@dataclass(frozen=True)
class ReadRequest:
    """One batch.

    Attributes:
        rows: int64 [b, 1 + k]: the examples, each followed by those that take its place if it is damaged.
        crop: as for `Reader.read`.
    """

    rows: Tensor
    crop: int | None


@dataclass(frozen=True)
class ReadReply:
    """What became of a request.

    Attributes:
        inputs: [b', ...], possibly nested; None when all are damaged.
        taken: int64 [b]: which column of `rows` was read; -1: none could be.
        damaged: what was wrong with each that could not be read.
    """

    inputs: Any
    taken: Tensor
    damaged: list[str]

    def pin_memory(self) -> ReadReply:
        """For DataLoader: page-locked, so that the copy to the accelerator does not wait."""
        return ReadReply(tree.map_tensors(lambda tensor: tensor.pin_memory(), self.inputs), self.taken, self.damaged)


class _Requests(Dataset[ReadReply]):
    """A batch for every request, as DataLoader wants it."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitem__(self, request: ReadRequest) -> ReadReply:
        inputs, taken, damaged = [], [], []
        for candidates in request.rows.tolist():
            taken.append(-1)
            for column, row in enumerate(candidates):
                try:
                    inputs.append(self.reader.read(row, request.crop))
                except DamagedImageError as error:
                    damaged.append(str(error))
                else:
                    taken[-1] = column
                    break
        return ReadReply(joined(inputs) if inputs else None, torch.tensor(taken), damaged)


class _Queue:
    """What DataLoader takes for its sampler: the requests of the epoch that is under way."""

    requests: Iterable[ReadRequest] = ()

    def __iter__(self) -> Iterator[ReadRequest]:
        return iter(self.requests)


class StreamedImages(ImageSource):
    """Examples that a reader reads, in processes that live as long as this does.

    Args:
        processes: how many; 0 reads in this process, when a batch is asked for.
        prefetch: batches that each process is ahead.
        skip_damaged: whether a damaged image may be left out; if not, it is an error.
    """

    def __init__(self, reader: Reader, *, processes: int, prefetch: int, skip_damaged: bool) -> None:
        self._dataset = _Requests(reader)
        self._processes, self._prefetch, self._skip = processes, prefetch, skip_damaged
        self._queue = _Queue()
        self._busy = False
        self._loader: DataLoader[ReadReply] | None = None
        self._semaphores = SemaphoreNames()

    def batches(
        self, indices: Tensor, requests: Iterable[Tensor], device: torch.device, *, crop: int | None, replace: bool
    ) -> Iterator[tuple[Any, Tensor]]:
        asked = list(requests)
        substitutes = min(NUM_SUBSTITUTES, len(indices) - 1) if replace and self._skip else 0
        columns = torch.arange(1 + substitutes)
        rows = (ReadRequest(indices[(p[:, None] + columns) % len(indices)], crop) for p in asked)
        damaged: list[str] = []
        # What is asked for in the middle of an epoch, whose batches the processes are ahead with, is read here.
        ahead = self._processes > 0 and not self._busy
        self._busy = self._busy or ahead
        try:
            replies = self._ahead(rows, device) if ahead else map(self._dataset.__getitem__, rows)
            for positions, reply in zip(asked, replies, strict=True):
                damaged += reply.damaged
                if damaged and not self._skip:
                    raise DatasetError(f"{damaged[0]} (data.on_error: skip leaves such images out)")
                if replace and bool((reply.taken < 0).any()):
                    tried = f"{substitutes + 1} images in a row cannot be decoded"
                    raise DatasetError(f"{tried}; the first: {reply.damaged[0]}")
                if reply.inputs is not None:
                    read = reply.taken >= 0
                    used = (positions[read] + reply.taken[read]) % len(indices)
                    yield tree.map_tensors(lambda tensor: tensor.to(device, non_blocking=True), reply.inputs), used
        finally:  # nobody need ask for more than the last batch
            if ahead:
                self._busy = False
            if damaged:
                what = "others took their places" if replace else "they were left out"
                _log.warning("%d images could not be decoded and %s; the first: %s", len(damaged), what, damaged[0])

    def _ahead(self, requests: Iterable[ReadRequest], device: torch.device) -> Iterator[ReadReply]:
        """The replies of the processes."""
        self._queue.requests = requests
        if self._loader is None:
            self._loader = self._start(pin_memory=device.type == "cuda")
            with self._semaphores.collected():
                replies = iter(self._loader)
        else:
            replies = iter(self._loader)  # waits until every process has answered
            self._semaphores.remove()
        for number, reply in enumerate(replies, start=1):
            if number == self._processes:  # they reply in turn, so that all of them are there
                self._semaphores.remove()
            yield reply

    def _start(self, *, pin_memory: bool) -> DataLoader[ReadReply]:
        # Not by fork: this process has threads (Ray's, the process group's), whose locks a copy would hold forever.
        context = torch.multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=self._queue,  # any iterable will do
            num_workers=self._processes,
            prefetch_factor=self._prefetch,
            persistent_workers=True,
            multiprocessing_context=context,
            pin_memory=pin_memory,
        )


@contextmanager
def keyed_randomness(*key: int) -> Iterator[None]:
    """Inside, torch's, NumPy's and Python's random numbers on the host are a function of the key; then as before."""
    seed = fold(*key)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class OwnExamples(Reader):
    """The inputs of a map-style torch Dataset, see `split_example`; what it draws at random is keyed by the example."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def read(self, row: int, crop: int | None) -> Any:
        with keyed_randomness(0 if crop is None else crop, row):
            return tensors_of(split_example(self.dataset[row])[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # In this order: the class of the data set may be in a module of the user's.
        return _rebuild, (_UserFolders(user_folders()), self.dataset)


class _UserFolders:
    """Unpickled before an object of the user's: what that needs is then importable."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders

    def __reduce__(self) -> tuple[Any, ...]:
        return _begin_import, (self.folders,)


def _begin_import(folders: list[str]) -> AbstractContextManager[None]:
    add_user_folders(folders)
    importing = importing_user_code()
    importing.__enter__()
    return importing


def _rebuild(importing: AbstractContextManager[None], dataset: Any) -> OwnExamples:
    importing.__exit__(None, None, None)
    return OwnExamples(dataset)
