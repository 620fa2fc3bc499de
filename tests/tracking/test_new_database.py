"""A new sqlite store is what MLflow itself would have made, whatever is in the cache."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from samtune.tracking import MlflowTracker, resolve_tracking_uri
from samtune.tracking.new_database import from_template


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which there is an empty store: one that MLflow has made once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMTUNE_CACHE", str(folder))
        connect(folder / "first" / "mlflow.db")
    return folder


@pytest.fixture
def cache(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for a test that spoils it."""
    folder = Path(shutil.copytree(own_cache, tmp_path / "cache"))
    monkeypatch.setenv("SAMTUNE_CACHE", str(folder))
    return folder


def test_a_copy_is_what_mlflow_would_have_made(cache: Path, tmp_path: Path) -> None:
    copied = connect(tmp_path / "study" / "mlflow.db")
    assert schema(copied) == schema(cache / "first" / "mlflow.db")
    assert was_copied(cache)


def test_every_store_has_its_own_addresses(cache: Path, tmp_path: Path) -> None:
    """Not those of the store that the empty one in the cache was made from."""
    for name in ("a", "b"):
        found = MlflowClient(f"sqlite:///{connect(tmp_path / name / 'mlflow.db')}").search_experiments()
        assert sorted((e.experiment_id, e.name) for e in found) == [("0", "Default"), ("1", "noise")]
        assert {e.artifact_location for e in found if e.name == "noise"} == {(tmp_path / name / "mlartifacts").as_uri()}
        assert not any("first" in e.artifact_location for e in found)


def test_a_store_that_is_there_is_left_alone(cache: Path, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"")  # as sqlite itself begins
    with from_template(database):
        assert database.read_bytes() == b""


def test_what_another_process_makes_meanwhile_is_not_replaced(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    copy_file = shutil.copyfile

    def slow_copy(source: Path, target: Path) -> None:
        copy_file(source, target)
        database.write_bytes(b"another's")

    monkeypatch.setattr(shutil, "copyfile", slow_copy)
    with from_template(database):
        assert database.read_bytes() == b"another's"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_cache_that_cannot_be_used_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("SAMTUNE_CACHE", str(blocked))
    assert schema(connect(tmp_path / "study" / "mlflow.db")) == schema(own_cache / "first" / "mlflow.db")


@pytest.mark.parametrize("damage", ["torn", "not a database", "used", "without tables"])
def test_a_damaged_one_is_not_used_and_mended(cache: Path, tmp_path: Path, damage: str) -> None:
    (template,) = (cache / "mlflow").iterdir()
    if damage == "torn":
        template.write_bytes(template.read_bytes()[:100_000])
    elif damage == "not a database":
        template.write_text("x" * 10_000)
    elif damage == "used":  # by somebody who took it for a store
        with closing(sqlite3.connect(template)) as store, store:
            store.execute("INSERT INTO experiments (experiment_id, name, workspace) VALUES (0, 'Default', 'default')")
    else:
        template.unlink()
        sqlite3.connect(template).close()
    fresh = connect(tmp_path / "study" / "mlflow.db")
    assert schema(fresh) == schema(cache / "first" / "mlflow.db")
    with closing(sqlite3.connect(template)) as store:
        assert store.execute("SELECT count(*) FROM experiments").fetchone() == (0,)
    assert [file for file in template.parent.iterdir() if file != template] == []


def test_a_failed_opening_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMTUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="by MLflow"), from_template(tmp_path / "mlflow.db"):
        raise ValueError("by MLflow")
    assert not (tmp_path / "cache").exists()


def connect(database: Path) -> Path:
    """What a search does first."""
    MlflowTracker(resolve_tracking_uri(str(database)), "noise").connect()
    return database


def schema(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """The columns of every table, and the release that MLflow takes it for."""
    with closing(sqlite3.connect(database)) as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            name: sorted(store.execute(f'SELECT name, type, pk FROM pragma_table_info("{name}")')) for name in tables
        }
        return columns | {"release": store.execute("SELECT * FROM alembic_version").fetchall()}


def was_copied(cache: Path) -> bool:
    """Whether the next store begins as one."""
    database = cache / "next.db"
    with from_template(database):
        return database.exists() and database.stat().st_size > 100_000
