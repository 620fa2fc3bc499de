"""Studies that are no longer where they were begun: the folder, the project or the machine has changed."""

from __future__ import annotations

import os
from pathlib import Path

from samtune.config.space import SearchSpace
from samtune.storage import is_remote, parent
from samtune.study import Study


def found_at(study: Study, name: str, uri: str) -> Study:
    """The study with the addresses it has where it was found, under the name of its folder.

    A tracking store inside the storage path moves with it; any other stays where it is.

    Args:
        uri: of the study's folder.
    """
    study.name = name
    if study.storage_path != uri:
        old, new = parent(study.storage_path), parent(uri)
        study.tracking_uri = study.tracking_uri.replace(f"/{old.strip('/')}/", f"/{new.strip('/')}/", 1)
        study.moved_from, study.storage_path = study.storage_path, uri
    return study


def space_found_at(space: SearchSpace, study: Study) -> SearchSpace:
    """The space of a moved study: the folder of its relative paths has moved with the storage path in it."""
    if study.moved_from is None or space.folder is None:
        return space
    folder = new_place(space.folder, study)
    return space if folder == space.folder else space.replace({"folder": folder})


def new_place(path: str, study: Study) -> str:
    """Where a path of the study is now: the same way from the storage path as before, if something is there."""
    if study.moved_from is None or is_remote(path) or is_remote(study.storage_path):
        return path
    from_storage = os.path.relpath(path, parent(study.moved_from))
    moved = os.path.normpath(Path(parent(study.storage_path), from_storage))
    return moved if Path(moved).exists() and not Path(path).exists() else path
