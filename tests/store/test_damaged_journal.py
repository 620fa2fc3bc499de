"""A journal that was cut or changed: read as far as it is whole, or refused in one line that names the place."""

from __future__ import annotations

import json
import random
import re
import resource
import time
from pathlib import Path

import pytest
from helpers.simulated import make_study, run_trial

from samtune.errors import RunError, UsageError
from samtune.store.checksums import DamagedLineError, from_line, to_line
from samtune.store.journal import FILE_NAME, Journal, parse_journal, read_journal
from samtune.study import Study, TrialState


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of three completed trials."""
    study = make_study(tmp_path, "sqlite:///x.db", num_trials=3)
    folder = tmp_path / study.name
    folder.mkdir()
    journal = Journal(folder)
    journal.on_study_start(study)
    for accuracy in (0.5, 0.6, 0.7):
        run_trial(study, [journal], [accuracy, accuracy + 0.1])
    journal.on_study_end(study)
    return folder


def finished(study: Study) -> list[str]:
    return [trial.id for trial in study if trial.state is TrialState.COMPLETED]


def test_cut_at_any_byte_no_finished_trial_is_lost(folder: Path) -> None:
    whole = (folder / FILE_NAME).read_bytes()
    ends = [line for line in whole.split(b"\n") if b'"event": "end"' in line]
    for length in range(len(whole)):
        journal = whole[:length]
        if journal.count(b"\n") == 0:
            with pytest.raises(UsageError, match="no complete line about the study"):
                parse_journal(journal, "j")
            continue
        expected = sum(journal.find(line + b"\n") >= 0 for line in ends)
        assert len(finished(parse_journal(journal, "j"))) == expected


def test_a_resumed_search_does_not_continue_a_torn_line(folder: Path) -> None:
    study = read_journal(folder)
    path = folder / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-7])  # its driver was killed while it wrote
    journal = Journal(folder)
    journal.on_study_start(study)
    run_trial(study, [journal], [0.9])
    journal.on_study_end(study)
    assert path.read_bytes().startswith(whole)
    assert len(finished(read_journal(folder))) == 4


def test_any_flipped_bit_is_found_and_named(folder: Path) -> None:
    whole = (folder / FILE_NAME).read_bytes()
    study, rng, refusals = parse_journal(whole, "j"), random.Random(0), []
    for _ in range(300):
        at, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        read = parsed_or_refused(bytes(damaged))
        if isinstance(read, str):
            refusals.append(read)
        else:  # it was the key of a checksum, or the end of the last line, which is no trial's
            assert read.trials == study.trials
    assert len(refusals) > 280
    assert all(re.fullmatch(r"j:\d+: the journal is damaged: .*", refusal) for refusal in refusals)


def parsed_or_refused(journal: bytes) -> Study | str:
    try:
        return parse_journal(journal, "j")
    except UsageError as error:
        return str(error)


def test_a_line_without_a_checksum_is_read_as_it_is() -> None:
    assert from_line(b'{"event": "study_end", "time": 1.0}') == {"event": "study_end", "time": 1.0}
    entry = {"event": "end", "error": 'ends in ", "crc": "00000000"}', "traceback": "ε̂\n"}
    line = to_line(entry).encode()
    assert {key: value for key, value in from_line(line).items() if key != "crc"} == entry
    assert json.loads(line).keys() == {*entry, "crc"}
    for wrong in (b"[1]", b"\xff", b"{", line.replace(b"end", b"enb", 1)):
        with pytest.raises(DamagedLineError):
            from_line(wrong)


def test_a_full_disk_leaves_no_half_line_and_says_where(folder: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the same place, after some bytes."""
    import signal

    before = (folder / FILE_NAME).read_bytes()
    study, journal = read_journal(folder), Journal(folder)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(RunError, match=rf"^{folder / FILE_NAME}: cannot be written: .* are free there\)$"):
            journal.on_study_end(study)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / FILE_NAME).read_bytes() == before
    journal.on_study_end(study)
    assert finished(read_journal(folder)) == finished(study)


def test_checksums_cost_microseconds_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: the share of writing a line that is not the disk's."""
    entry = {"event": "epoch", "metrics": {f"metric_{i}": i / 7 for i in range(20)}}
    started = time.perf_counter()
    lines = [json.dumps(entry) for _ in range(2000)]
    plain = time.perf_counter() - started
    started = time.perf_counter()
    checked = [to_line(entry) for _ in range(2000)]
    print(f"a checksum makes a line cost {(time.perf_counter() - started) / plain:.2f} of it")
    assert len(lines) == len(checked)
