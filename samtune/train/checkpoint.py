"""Checkpoints of trials on any file system pyarrow knows: written whole or not at all, and verified when read."""

from __future__ import annotations

import hashlib
import io
import warnings
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from samtune.storage import delete_folder, open_storage

if TYPE_CHECKING:
    import torch  # imported where it is used: a trial's actor copies checkpoints and needs no torch

    from samtune.data import Dataset

KEEP = 2
"""Checkpoints kept per trial: the last may turn out to be damaged."""


class CheckpointError(Exception):
    """A checkpoint could not be written: the disk is full, the store refuses."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one trial: `epoch-000012.pt` for the state after 12 epochs.

    A file is the SHA-256 of its content (64 hex digits, a newline) and then what `torch.save` wrote. It gets its name
    only when it is complete.

    Args:
        uri: folder, as a local path or a URI such as s3://bucket/path.
    """

    uri: str

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Writes the state after `epoch` epochs and drops all but the newest KEEP.

        Raises:
            CheckpointError: the store does not take it; checkpoints written before are untouched.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest().encode()
        filesystem, folder = open_storage(self.uri)
        name = f"{folder}/{_file_name(epoch)}"
        temporary = f"{name}.part"
        try:
            filesystem.create_dir(folder, recursive=True)
            with filesystem.open_output_stream(temporary) as stream:
                stream.write(digest + b"\n")
                stream.write(content)
            filesystem.move(temporary, name)
        except OSError as error:
            with suppress(OSError):  # half of it may fill the disk
                filesystem.delete_file(temporary)
            raise CheckpointError(f"checkpoint {name} could not be written: {error}") from error
        for _, old in self._files(filesystem, folder)[:-KEEP]:
            filesystem.delete_file(old)

    def load(self, device: torch.device, epoch: int | None = None) -> dict[str, Any] | None:
        """The newest state that verifies (or that of an epoch), its tensors on the device; None where there is none.

        A damaged file is passed over with a warning.
        """
        import torch

        filesystem, folder = open_storage(self.uri)
        files = [path for number, path in self._files(filesystem, folder) if epoch in (None, number)]
        for path in reversed(files):
            try:
                with filesystem.open_input_stream(path) as stream:
                    digest, content = stream.read(65), stream.read()
                if digest != hashlib.sha256(content).hexdigest().encode() + b"\n":
                    raise ValueError("its checksum does not match")
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
                return state
            except (OSError, ValueError, RuntimeError) as error:
                warnings.warn(f"checkpoint {path} is damaged and passed over: {error}", stacklevel=2)
        return None

    def export(self, epoch: int, target: Path) -> None:
        """Copies the checkpoint of an epoch into a local folder.

        Raises:
            OSError: there is none, or it cannot be copied.
        """
        filesystem, folder = open_storage(self.uri)
        name = _file_name(epoch)
        pafs.copy_files(f"{folder}/{name}", str(target / name), source_filesystem=filesystem)

    def adopt(self, source: Path) -> None:
        """Makes the one checkpoint in a local folder, another trial's perhaps, the only one of this trial.

        Raises:
            OSError: there is none, or it cannot be copied.
        """
        (file,) = source.glob("epoch-*.pt")
        delete_folder(self.uri)
        filesystem, folder = open_storage(self.uri)
        filesystem.create_dir(folder, recursive=True)
        temporary = f"{folder}/{file.name}.part"
        pafs.copy_files(str(file), temporary, destination_filesystem=filesystem)
        filesystem.move(temporary, f"{folder}/{file.name}")

    def _files(self, filesystem: pafs.FileSystem, folder: str) -> list[tuple[int, str]]:
        """(epoch, path) of all complete checkpoints, the oldest first."""
        selector = pafs.FileSelector(folder, allow_not_found=True)
        return sorted(
            (int(info.base_name.removeprefix("epoch-").removesuffix(".pt")), info.path)
            for info in filesystem.get_file_info(selector)
            if info.base_name.startswith("epoch-") and info.base_name.endswith(".pt")
        )


class Resumable(ABC):
    """What is trained epoch by epoch on every rank and can go on from a checkpoint."""

    history: list[dict[str, float]]
    """The metrics of all finished epochs, those before a restore included."""
    num_workers: int
    device: torch.device
    dataset: Dataset

    @abstractmethod
    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Trains one epoch, counted from 1, and evaluates; the metrics are the same on every rank."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from; the same on every rank."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def save(self, checkpoints: CheckpointFolder) -> None:
        """Saves the state after the last finished epoch; call it on one rank, they all have the same.

        Raises:
            CheckpointError: it could not be written.
        """
        checkpoints.save(len(self.history), self.state_dict())

    def restore(self, checkpoints: CheckpointFolder) -> None:
        """Goes on from the newest checkpoint that verifies, if there is one; then `history` holds its epochs.

        Raises:
            RuntimeError: the workers do not see the same checkpoint.
        """
        state = checkpoints.load(self.device)
        if self.num_workers > 1:
            self._check_all_see_the_same(0 if state is None else len(state["history"]), checkpoints)
        if state is not None:
            self.load_state_dict(state)

    def _check_all_see_the_same(self, epoch: int, checkpoints: CheckpointFolder) -> None:
        import torch
        import torch.distributed as dist

        seen = torch.tensor([epoch, -epoch], device=self.device)
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        if seen[0] != -seen[1]:
            raise RuntimeError(
                f"the workers see different checkpoints in {checkpoints.uri}, of epochs {-seen[1]} to {seen[0]}: "
                "the storage path must be shared by all nodes"
            )


def _file_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.pt"
