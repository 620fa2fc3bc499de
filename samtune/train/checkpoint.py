"""Checkpoints of trials on any file system pyarrow knows: written whole or not at all, and verified when read."""

from __future__ import annotations

import hashlib
import io
import warnings
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

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that verifies, with its tensors on the device; None where there is none.

        A damaged file is passed over with a warning.
        """
        import torch

        filesystem, folder = open_storage(self.uri)
        for _, path in reversed(self._files(filesystem, folder)):
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


def _file_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.pt"
