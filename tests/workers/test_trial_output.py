"""What a trial prints and warns is kept in its own file, bounded, whatever prints it."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from samtune.workers import trial_output
from samtune.workers.trial_output import LEFT_OUT, TAKEN_UP, HeadAndTail, TrialOutput, listen, output_file, write_output


@contextmanager
def trial(file: str | Path, **options: Any) -> Iterator[TrialOutput]:
    """A trial on a worker. Pytest has streams of its own, which it wants back."""
    streams = sys.stdout, sys.stderr
    listen()
    try:
        with TrialOutput(str(file), **options) as output:
            yield output
    finally:
        sys.stdout, sys.stderr = streams


def test_each_trial_has_what_was_printed_during_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [output_file(str(tmp_path), name, 0) for name in ("a", "b", "silent")]
    print("before")
    with trial(files[0]):
        print("one", 1)
        sys.stderr.writelines(["two\n", "três\n"])
    print("between")
    with trial(files[1]):
        print("three")
    with trial(files[2]):
        pass
    assert Path(files[0]).read_text() == "one 1\ntwo\ntrês\n"
    assert Path(files[1]).read_text() == "three\n"
    assert not Path(files[2]).exists()
    seen = capsys.readouterr()
    assert seen.out == "before\none 1\nbetween\nthree\n"  # and it is printed as before
    assert seen.err == "two\ntrês\n"


def test_a_warning_is_every_trial_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))

    monkeypatch.setattr(warnings, "showwarning", show)  # as Python does; pytest keeps warnings for itself
    warnings.simplefilter("default")
    for name in ("a", "b"):
        with trial(output_file(str(tmp_path), name, 0)):
            for _ in range(3):
                warnings.warn("rho is small", stacklevel=1)  # shown once per place
        text = Path(output_file(str(tmp_path), name, 0)).read_text()
        assert text.count("UserWarning: rho is small") == 1


def test_a_handler_that_the_first_trial_made_is_heard_in_the_second(tmp_path: Path) -> None:
    logger = logging.getLogger("of_a_user")
    handler: logging.Handler | None = None
    for name in ("a", "b"):
        with trial(output_file(str(tmp_path), name, 0)):
            if handler is None:  # at the import of a user's module
                handler = logging.StreamHandler()
                logger.addHandler(handler)
            logger.warning("of %s", name)
        assert Path(output_file(str(tmp_path), name, 0)).read_text() == f"of {name}\n"
    assert handler is not None
    logger.removeHandler(handler)


def test_what_earlier_workers_printed_stays_in_front(tmp_path: Path) -> None:
    file = tmp_path / "output" / "a.0.txt"
    for line in ("first", "second"):
        with trial(file):
            print(line)
    assert file.read_text() == f"first\n{TAKEN_UP}second\n"


def test_a_running_trial_can_be_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "a.0.txt"
    with trial(file, seconds=0.01):
        print("hello")
        while not file.exists():
            time.sleep(0.01)
        assert file.read_text() == "hello\n"
    with trial(file, seconds=1e6):
        print("more")
        write_output()
        assert file.read_text().endswith("more\n")


def test_the_beginning_and_the_end_are_kept() -> None:
    for step in (1, 7, 25, 1000):
        kept, text = HeadAndTail(20), b"".join(b"%04d\n" % number for number in range(200))
        for start in range(0, len(text), step):
            kept.add(text[start : start + step])
        assert kept.content() == text[:20] + LEFT_OUT + text[-20:]
        assert kept.content() == kept.content()
    kept = HeadAndTail(20)
    kept.add(text[:40])
    assert kept.content() == text[:40]


def test_a_trial_that_prints_without_end_is_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "a.0.txt"
    with trial(file, size=1000, seconds=1e6) as output:
        for number in range(5000):
            print(f"line {number}")
            assert len(output._fresh) <= 4100
    text = file.read_text()
    assert len(text) <= 2000 + len(LEFT_OUT)
    assert text.startswith("line 0\n")
    assert text.endswith("line 4999\n")
    assert LEFT_OUT.decode() in text


def test_a_file_that_cannot_be_written_and_text_that_is_none_end_no_trial(tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    with trial(tmp_path / "in_the_way" / "a.0.txt"):
        print("lost")
    file = tmp_path / "a.0.txt"
    with trial(file):
        trial_output._current.hear("\udcff of a file name\n")  # type: ignore[union-attr]
    assert file.read_text() == "\\udcff of a file name\n"


def test_threads_and_forked_processes_print_at_the_same_time(tmp_path: Path) -> None:
    file = tmp_path / "a.0.txt"

    def chatter(name: str) -> None:
        for number in range(300):
            print(f"{name} {number}")

    with trial(file, seconds=0.001):
        threads = [threading.Thread(target=chatter, args=(name,)) for name in "xyz"]
        for thread in threads:
            thread.start()
        child = multiprocessing.get_context("fork").Process(target=chatter, args=("child",))
        child.start()
        for thread in threads:
            thread.join()
        child.join()
    assert child.exitcode == 0
    text = file.read_text()
    for name in "xyz":
        assert all(f"{name} {number}" in text for number in range(300))
    assert "child" not in text


def test_a_flood_between_two_writes_says_what_it_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.0.txt"
    with trial(file, size=20, seconds=1e6):
        print("first")
        for number in range(1000):
            print(number)
        print("last")
    text = "first\n" + "".join(f"{number}\n" for number in range(1000)) + "last\n"
    assert file.read_bytes() == text[:20].encode() + LEFT_OUT + text[-20:].encode()
