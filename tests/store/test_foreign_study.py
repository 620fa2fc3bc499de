"""A study that somebody else made: its files lead nowhere outside its folder."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest
from helpers.studies import edit_journal, make_study

from samtune.errors import UsageError
from samtune.store.journal import FILE_NAME
from samtune.store.study_folder import SPACE_FILE, StudyFolder


def open_folder(folder: StudyFolder) -> None:
    for callback in folder.open(print, print):
        callback.close()  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    make_study(tmp_path / "storage")
    return StudyFolder(str(tmp_path / "storage"), "digits-1")


@pytest.mark.parametrize("name", ["../../../victim", "/victim", "..", "", "a/b", "x\n", 3, "t" * 129])
def test_the_id_of_a_trial_names_nothing_outside_the_study(folder: StudyFolder, name: object) -> None:
    edit_journal(folder.local, lambda line: line.update(id=name) if line.get("id") == "t003" else None)
    with pytest.raises(UsageError, match=r"journal\.jsonl:\d+: .* cannot be the id of a trial"):
        folder.read()


@pytest.mark.parametrize("name", ["../elsewhere", "x; rm -rf ~", "\x1b[2J"])
def test_the_name_of_a_study_is_a_folders(folder: StudyFolder, name: str) -> None:
    edit_journal(folder.local, lambda line: line.update(name=name) if line["event"] == "study" else None)
    with pytest.raises(UsageError, match=r"journal\.jsonl:1: .* cannot be the name of a study"):
        folder.read()


def test_a_study_is_where_it_was_found(folder: StudyFolder, tmp_path: Path) -> None:
    edit_journal(folder.local, lambda line: "storage_path" in line and line.update(storage_path=str(tmp_path / "no")))
    assert folder.read().storage_path == str(folder.local)


@pytest.mark.parametrize("name", [FILE_NAME, SPACE_FILE, "optuna.journal", "best.safetensors.part"])
def test_a_file_that_links_elsewhere_is_neither_read_nor_written(
    folder: StudyFolder, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes((folder.local / FILE_NAME).read_bytes())
    (folder.local / name).unlink(missing_ok=True)
    (folder.local / name).symlink_to(victim)
    before = victim.read_bytes()
    with pytest.raises(UsageError, match=rf"{name}: is a symbolic link to .*victim: the files of a study must be"):
        open_folder(folder)
    if name == FILE_NAME:
        with pytest.raises(UsageError, match="is a symbolic link"):
            folder.read()
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", ["checkpoints", "weights", "ray", "checkpoints/t003"])
def test_a_folder_that_links_elsewhere_is_refused(folder: StudyFolder, tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").mkdir()
    (folder.local / name).parent.mkdir(exist_ok=True)
    (folder.local / name).symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match=rf"{name}: is a symbolic link to"):
        open_folder(folder)


def test_a_link_within_the_study_is_no_obstacle(folder: StudyFolder, tmp_path: Path) -> None:
    """Optuna's lock is one, and a driver that was killed leaves it; the storage path may be one too."""
    (folder.local / "optuna.journal.lock").symlink_to(folder.local / "optuna.journal")
    (tmp_path / "linked").symlink_to(tmp_path / "storage")
    open_folder(StudyFolder(str(tmp_path / "linked"), "digits-1"))


def test_a_journal_that_is_a_pipe_is_not_waited_for(folder: StudyFolder) -> None:
    (folder.local / FILE_NAME).unlink()
    os.mkfifo(folder.local / FILE_NAME)
    with pytest.raises(UsageError, match=r"journal\.jsonl: must be a regular file"):
        folder.read()
    with pytest.raises(UsageError, match=r"journal\.jsonl: must be a regular file"):
        open_folder(folder)


def as_another_user(folder: StudyFolder) -> list[str]:
    """What another user of the machine is told: by `read`, and by `open`."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgid(12345)
            os.setuid(12345)
            said = []
            for do in (folder.read, lambda: open_folder(folder)):
                try:
                    do()
                    said.append("read")
                except UsageError as error:
                    said.append(str(error))
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        found: list[str] = json.loads(answer.read())
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("may_read", [True, False])
def test_another_user_may_read_or_is_told_in_one_line(may_read: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        make_study(Path(place) / "storage")
        folder = StudyFolder(f"{place}/storage", "digits-1")
        (folder.local / FILE_NAME).chmod(0o644 if may_read else 0o600)
        read, opened = as_another_user(folder)
    denied = f"{folder.local / FILE_NAME}: cannot be opened: Permission denied"
    assert read == ("read" if may_read else denied)
    assert opened == denied


def test_what_holds_the_command_line_is_for_its_user_alone(folder: StudyFolder) -> None:
    assert stat.S_IMODE((folder.local / FILE_NAME).stat().st_mode) == 0o600
