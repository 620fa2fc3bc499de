"""Other trackers beside MLflow, read by their own libraries."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.searches import Search

from samtune.errors import UsageError
from samtune.study import Callback, Study, TrialState
from samtune.tracking import loggers


def write(folder: Path, *names: str) -> Study:
    """A search of two trials that both trackers hear of: one completed, one failed; the second overlaps the first."""
    search = Search(folder, 2)
    search.displays = loggers(names, str(folder))
    tell(search, "on_study_start")
    first = search.start(0.1, **{"method.name": "sam"})
    search.epoch(first, 0.5)
    second = search.start(0.2, **{"method.name": "asam"})
    search.epoch(first, 0.75)
    search.epoch(second, 0.25)
    search.end(second, TrialState.FAILED, "ValueError: x")
    search.end(first)
    tell(search, "on_study_end")
    return search.study


def tell(search: Search, event: str) -> None:
    for display in search.displays:
        getattr(display, event)(search.study)


# -- TensorBoard -----------------------------------------------------------------------------------------


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def session_groups(folder: Path) -> list[Any]:
    """What TensorBoard's HParams page lists."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    runs = EventMultiplexer().AddRunsFromDirectory(str(folder))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(folder))
    context = backend_context.Context(TBContext(logdir=str(folder), data_provider=provider))
    asked = api_pb2.GetExperimentRequest(experiment_name="")
    found = get_experiment.Handler(RequestContext(), context, "", asked).run()
    assert {info.name for info in found.hparam_infos} == {"method.name", "method.rho", "training.lr"}
    columns = [api_pb2.ColParams(hparam="method.rho", order=api_pb2.ORDER_ASC)]
    states = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    request = api_pb2.ListSessionGroupsRequest(
        col_params=columns,
        allowed_statuses=states,
        slice_size=10,
        aggregation_type=api_pb2.AGGREGATION_AVG,
        include_metrics=True,
    )
    return list(list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups)


def test_tensorboard_reads_the_metrics_by_epoch_and_the_hyperparameters(tmp_path: Path) -> None:
    write(tmp_path, "tensorboard")
    folder = tmp_path / "tensorboard"
    assert sorted(path.name for path in folder.iterdir()) == ["trial 000", "trial 001"]
    assert scalars(folder / "trial 000", "val_accuracy") == [(1, 0.5), (2, 0.75)]
    assert scalars(folder / "trial 000", "num_passes") == [(1, 2.0), (2, 4.0)]
    assert scalars(folder / "trial 001", "val_accuracy") == [(1, 0.25)]
    first, second = session_groups(folder)
    assert first.hparams["method.rho"].number_value == 0.1
    assert first.hparams["method.name"].string_value == "sam"
    assert second.hparams["method.name"].string_value == "asam"
    assert {value.name.tag: value.value for value in first.metric_values}["val_accuracy"] == 0.75
    from tensorboard.plugins.hparams import api_pb2

    assert [group.sessions[0].status for group in (first, second)] == [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]


def test_a_resumed_study_adds_what_tensorboard_does_not_have(tmp_path: Path) -> None:
    """One trial is of before the tracker was asked for, one was interrupted: it goes on in its folder."""
    search = Search(tmp_path, 3)
    search.run(0.5)
    interrupted = search.start(0.2)
    search.epoch(interrupted, 0.25)
    search.displays = loggers(["tensorboard"], str(tmp_path))
    tell(search, "on_study_start")
    tell(search, "on_study_end")
    search.displays = loggers(["tensorboard"], str(tmp_path))
    tell(search, "on_study_start")
    search.epoch(interrupted, 0.5)
    search.end(interrupted)
    tell(search, "on_study_end")
    folder = tmp_path / "tensorboard"
    assert scalars(folder / "trial 000", "val_accuracy") == [(1, 0.5)]
    assert [len(list((folder / name).iterdir())) for name in ("trial 000", "trial 001")] == [1, 2]
    assert scalars(folder / "trial 001", "val_accuracy") == [(1, 0.25), (2, 0.5)]


# -- W&B -------------------------------------------------------------------------------------------------


def records(content: bytes) -> Iterator[bytes]:
    """Of W&B's file: a head, then LevelDB's log, blocks of 32 KiB with parts that have (crc, length, type) in front."""
    if len(content) < 7:
        return
    magic, number, _ = struct.unpack("<4sHB", content[:7])
    assert (magic, number) == (b":W&B", 0xBEE1)
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # no head fits: padding
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if at + 7 + length > len(content):  # is being written
            return
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            yield parts
            parts = b""


def wandb_run(file: Path) -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    run: dict[str, Any] = {"name": "", "group": "", "history": [], "config": {}, "code": None}
    for record in map(Record.FromString, records(file.read_bytes())):
        if record.HasField("run"):
            run["name"], run["group"] = record.run.display_name, record.run.run_group
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            if "epoch" in row:  # not one of W&B's own
                run["history"].append((row["epoch"], row["val_accuracy"]))
        if record.HasField("exit"):
            run["code"] = record.exit.exit_code
    return run


def test_wandb_writes_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "wandb")
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    deadline = time.monotonic() + 300
    while any(wandb_run(file)["code"] is None for file in files):  # a process of its own writes them
        assert time.monotonic() < deadline
        time.sleep(0.1)
    runs = {run["name"]: run for run in map(wandb_run, files)}
    assert {run["group"] for run in runs.values()} == {"digits-1"}
    assert {name: (run["history"], run["config"]["method.rho"], run["code"]) for name, run in runs.items()} == {
        "trial 000": ([(1, 0.5), (2, 0.75)], 0.1, 0),
        "trial 001": ([(1, 0.25)], 0.2, 1),
    }


# -- what cannot work ------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_known_or_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^log_to comet: must be one of tensorboard, wandb$"):
        loggers(["comet"], "/tmp")
    with pytest.raises(UsageError, match=r"^log_to tensorboard: writes into a folder of this machine, .* s3://bucket"):
        loggers(["tensorboard"], "s3://bucket/studies")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UsageError, match=r"^log_to wandb: needs a library: pip install 'samtune\[wandb\]'$"):
        loggers(["wandb"], "/tmp")


def test_a_tracker_is_asked_for_once() -> None:
    found = loggers(["tensorboard", "tensorboard"], "/tmp")
    assert len(found) == 1
    assert isinstance(found[0], Callback)
