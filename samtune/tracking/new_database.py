"""New sqlite stores of MLflow, copied from an empty one in the cache: MLflow would run all its migrations for each."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import mlflow

from samtune.storage import cache_folder

_OF_MIGRATIONS = {"alembic_version", "workspaces"}
"""The tables that have rows before anybody has written to a store."""


@contextmanager
def from_template(database: Path | None) -> Iterator[None]:
    """The body opens a store. If that is a sqlite file which is not there yet, it finds an empty store of MLflow's.

    The body must be alone with the file, see `samtune.tracking.connect.alone`. Where the cache is of no use, nothing
    is different but the time.

    Args:
        database: None: the store is not a sqlite file.
    """
    if database is None or database.exists():
        yield
        return
    template = None
    with suppress(OSError):
        template = _template()
    copied = template is not None and _copy(template, database)
    yield
    if template is not None and not copied:
        _save(database, template)


def _template() -> Path:
    """The cache's empty store for exactly this MLflow. Another release has other migrations."""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    files = sorted((file.name, file.stat().st_size) for file in migrations.glob("*.py"))
    key = hashlib.sha256(repr((mlflow.__version__, files)).encode()).hexdigest()[:16]
    return cache_folder() / "mlflow" / f"empty-{key}.db"


def _copy(template: Path, database: Path) -> bool:
    """Whether the database is now a copy. A file that somebody else has made meanwhile is left alone."""
    copy = _beside(database)
    try:
        shutil.copyfile(template, copy)
        with closing(sqlite3.connect(copy)) as store:
            if not _is_empty_store(store):
                raise sqlite3.DatabaseError
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        os.link(copy, database)  # unlike a rename, replaces nothing
    except FileExistsError:
        return True
    except (OSError, sqlite3.Error):
        return False
    finally:
        with suppress(OSError):
            copy.unlink()
    return True


def _save(database: Path, template: Path) -> None:
    """Keeps a store that MLflow has just made, without its experiments: their addresses are of that store's folder."""
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        copy = _beside(template)
        try:
            with closing(sqlite3.connect(database)) as made, closing(sqlite3.connect(copy)) as store:
                made.backup(store)
                with store:
                    store.execute("DELETE FROM experiment_tags")
                    store.execute("DELETE FROM experiments")
                usable = _is_empty_store(store)
            if usable:
                copy.replace(template)
        finally:
            copy.unlink(missing_ok=True)


def _is_empty_store(store: sqlite3.Connection) -> bool:
    """Whether a database is whole, has MLflow's tables, and nothing in them."""
    if store.execute("PRAGMA quick_check").fetchone() != ("ok",):
        return False
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= {"experiments", "runs", *_OF_MIGRATIONS}:
        return False
    return not any(
        store.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}")').fetchone()[0] for table in tables - _OF_MIGRATIONS
    )


def _beside(file: Path) -> Path:
    """A name for what will be this file, in its folder."""
    return file.with_name(f".{file.name}.{uuid.uuid4().hex}")
