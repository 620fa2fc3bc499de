"""Checkpoints of trials on any file system pyarrow knows: written whole or not at all, and verified when read."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import torch

from samtune.storage import open_storage

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
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest().encode()
        filesystem, folder = open_storage(self.uri)
        name = f"{folder}/epoch-{epoch:06d}.pt"
        temporary = f"{name}.part"
        try:
            filesystem.create_dir(folder, recursive=True)
            with filesystem.open_output_stream(temporary) as stream:
                stream.write(digest + b"\n")
                stream.write(content)
            filesystem.move(temporary, name)
        except OSError as error:
            raise CheckpointError(f"checkpoint {name} could not be written: {error}") from error
        for _, old in self._files(filesystem, folder)[:-KEEP]:
            filesystem.delete_file(old)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that verifies, with its tensors on the device; None where there is none.

        A damaged file is passed over with a warning.
        """
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

    def _files(self, filesystem: pafs.FileSystem, folder: str) -> list[tuple[int, str]]:
        """(epoch, path) of all complete checkpoints, the oldest first."""
        selector = pafs.FileSelector(folder, allow_not_found=True)
        return sorted(
            (int(info.base_name.removeprefix("epoch-").removesuffix(".pt")), info.path)
            for info in filesystem.get_file_info(selector)
            if info.base_name.startswith("epoch-") and info.base_name.endswith(".pt")
        )
