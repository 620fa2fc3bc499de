"""Checkpoints of trials on any file system pyarrow knows: written whole or not at all, and verified when read."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from samtune.storage import delete_folder, open_storage

if TYPE_CHECKING:
    import torch  # imported where it is used: a trial's actor copies checkpoints and needs no torch

KEEP = 2
"""Checkpoints kept per trial: the last may turn out to be damaged."""


_NAME = re.compile(r"epoch-(\d+)(?:-(\d+))?\.pt")


class CheckpointError(Exception):
    """A checkpoint could not be written: the disk is full, the store refuses."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one trial: `epoch-000012.pt` for the state after 12 epochs, `epoch-000012-000000345.pt` for
    that 345 steps later.

    A file is the SHA-256 of its content (64 hex digits, a newline) and then what `torch.save` wrote. It gets its name
    only when it is complete.

    Args:
        uri: folder, as a local path or a URI such as s3://bucket/path.
    """

    uri: str

    def save(self, epoch: int, state: dict[str, Any], steps: int = 0) -> None:
        """Writes the state after `epoch` epochs and `steps` steps of the next, and drops all but the newest KEEP.

        Raises:
            CheckpointError: the store does not take it; checkpoints written before are untouched.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest().encode()
        filesystem, folder = open_storage(self.uri)
        name = f"{folder}/{_file_name(epoch, steps)}"
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

    def load(
        self, device: torch.device, epoch: int | None = None, *, whole_epochs: bool = False
    ) -> dict[str, Any] | None:
        """The newest state that verifies (or that of an epoch), its tensors on the device; None where there is none.

        With `whole_epochs`, those of the middle of an epoch do not count.

        A damaged file is passed over with a warning.
        """
        import torch

        filesystem, folder = open_storage(self.uri)
        files = [
            path
            for (number, steps), path in self._files(filesystem, folder)
            if epoch in (None, number) and (steps == 0 or (epoch is None and not whole_epochs))
        ]
        for path in reversed(files):
            try:
                with filesystem.open_input_stream(path) as stream:
                    digest, content = stream.read(65), stream.read()
                if digest != hashlib.sha256(content).hexdigest().encode() + b"\n":
                    raise ValueError("its checksum does not match")
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
                return state
            except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
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
        """Makes the newest checkpoint in a local folder, another trial's perhaps, the only one of this trial.

        Raises:
            OSError: there is none, or it cannot be copied.
        """
        # Tune may use a folder twice: a save whose answer a pause overtook is not counted there.
        file = max(source.glob("epoch-*.pt"), default=None)
        if file is None:
            raise FileNotFoundError(f"{source}: there is no checkpoint")
        delete_folder(self.uri)
        filesystem, folder = open_storage(self.uri)
        filesystem.create_dir(folder, recursive=True)
        temporary = f"{folder}/{file.name}.part"
        pafs.copy_files(str(file), temporary, destination_filesystem=filesystem)
        filesystem.move(temporary, f"{folder}/{file.name}")

    def _files(self, filesystem: pafs.FileSystem, folder: str) -> list[tuple[tuple[int, int], str]]:
        """((epoch, steps), path) of all complete checkpoints, the oldest first."""
        selector = pafs.FileSelector(folder, allow_not_found=True)
        found = ((_NAME.fullmatch(info.base_name), info.path) for info in filesystem.get_file_info(selector))
        return sorted(((int(name[1]), int(name[2] or 0)), path) for name, path in found if name)


class Resumable(ABC):
    """What is trained epoch by epoch on every rank and can resume from a checkpoint, also in the middle of an epoch.

    Each epoch appends its metrics to `history`, the same on every rank.
    """

    history: list[dict[str, float]]
    """The metrics of all finished epochs, those before a restore included."""
    rank: int
    num_workers: int
    device: torch.device

    _collected: dict[str, Any] | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has a part of the state: then `state_dict` and `save_weights` are collectives."""
        return False

    @property
    @abstractmethod
    def steps_done(self) -> int:
        """Steps of the epoch under way; 0 between two epochs."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state to resume from; the same on every rank."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @abstractmethod
    def rank_state_dict(self) -> dict[str, Any]:
        """What in the middle of an epoch differs between the ranks."""

    @abstractmethod
    def load_rank_state_dict(self, state: dict[str, Any]) -> None: ...

    @abstractmethod
    def share_of(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """This rank's part of the states of all ranks of a run that had another number of workers."""

    @abstractmethod
    def save_weights(self, uri: str) -> None:
        """Writes the weights that are evaluated; of a sharded run, on every rank, the first one does.

        Raises OSError where the store does not take them.
        """

    def collect(self) -> None:
        """Between two epochs, on every rank, before the first one may `save`: it cannot collect a state alone."""
        if self.is_sharded:
            self._collected = self._whole_state()

    def _whole_state(self) -> dict[str, Any]:
        if not self.is_sharded:
            return self.state_dict()
        from samtune.sam.shards import collected

        with collected(keeps=self.rank == 0):
            return self.state_dict()

    def keep_weights(self, uri: str) -> None:
        """On every rank: the first one writes the weights that are evaluated. Raises as `save_weights`."""
        if self.is_sharded or self.rank == 0:
            self.save_weights(uri)

    def save(self, checkpoints: CheckpointFolder) -> None:
        """Saves the state. Between two epochs one rank calls it; in the middle of one all do, and the first writes.

        Raises:
            CheckpointError: it could not be written.
        """
        steps = self.steps_done
        state = self._collected if self._collected is not None and steps == 0 else self._whole_state()
        if steps:
            state["ranks"] = self._gathered(self.rank_state_dict())
        if steps == 0 or self.rank == 0:
            checkpoints.save(len(self.history), state, steps)
        if steps and self.num_workers > 1:
            _distributed().barrier()  # nobody goes away before it is written

    def restore(self, checkpoints: CheckpointFolder) -> None:
        """Goes on from the newest checkpoint that verifies, if there is one; then `history` holds its epochs.

        It may be of another number of workers.

        Raises:
            RuntimeError: the workers do not see the same checkpoint.
        """
        import torch

        # Of sharded weights a device need not hold all.
        state = checkpoints.load(torch.device("cpu") if self.is_sharded else self.device)
        if self.num_workers > 1:
            at = (0, 0) if state is None else (len(state["history"]), state.get("steps_done", 0))
            self._check_all_see_the_same(at, checkpoints)
        if state is not None:
            self.load_state_dict(state)
            if self.steps_done:
                states = state["ranks"]
                own = states[self.rank] if len(states) == self.num_workers else self.share_of(states)
                self.load_rank_state_dict(_on(own, self.device))

    def _gathered(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """Of all ranks, on every rank; on the host, since a rank may not see another's device."""
        own = _on(own, "cpu")
        if self.num_workers == 1:
            return [own]
        states: list[Any] = [None] * self.num_workers
        _distributed().all_gather_object(states, own)
        return states

    def _check_all_see_the_same(self, at: tuple[int, int], checkpoints: CheckpointFolder) -> None:
        import torch

        epoch, steps = at
        dist = _distributed()
        seen = torch.tensor([epoch, steps, -epoch, -steps], device=self.device)
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        newest, oldest = seen[:2].tolist(), (-seen[2:]).tolist()
        if newest != oldest:
            raise RuntimeError(
                f"the workers see different checkpoints in {checkpoints.uri}, of epochs {oldest[0]} to {newest[0]}: "
                "the storage path must be shared by all nodes"
            )


def _on(part: Any, device: torch.device | str) -> Any:
    """Nested state with its tensors on a device."""
    if isinstance(part, Mapping):
        return {key: _on(value, device) for key, value in part.items()}
    if isinstance(part, list):
        return [_on(value, device) for value in part]
    return part.to(device) if hasattr(part, "to") else part


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed


def _file_name(epoch: int, steps: int = 0) -> str:
    return f"epoch-{epoch:06d}.pt" if steps == 0 else f"epoch-{epoch:06d}-{steps:09d}.pt"
