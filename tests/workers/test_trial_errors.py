"""What a worker reports of an error, and what of a trial's own code does not reach the next trial."""

from __future__ import annotations

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch

from samtune.errors import UsageError, one_line, safe_text
from samtune.train.checkpoint import CheckpointError
from samtune.workers.protocol import MAX_ERROR, Failure
from samtune.workers.torch_globals import TorchGlobals
from samtune.workers.trial_errors import failure_of, is_fault, memory_peak, ruins_the_device


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\udcff is no text"), r"ValueError: \udcff is no text"),  # a file name with a Latin-1 byte
        (OSError(errno.ENOENT, "gone", "caf\udce9.png"), r"[Errno 2] gone: 'caf\udce9.png'"),
        (UnprintableError(), "<UnprintableError whose text cannot be had: RuntimeError>"),
        (SystemExit(3), "SystemExit: the trial's code called sys.exit(3)"),
        (KeyboardInterrupt(), "KeyboardInterrupt: raised by the trial's code"),
    ],
)
def test_any_error_can_be_sent_stored_and_printed(error: BaseException, line: str) -> None:
    failure = failure_of(error)
    assert line in failure.error
    for text in (failure.error, failure.traceback):
        assert json.loads(json.dumps(text)).encode("utf-8").decode() == text
    assert pickle.loads(pickle.dumps(failure)) == failure
    assert safe_text("ε̂ ≤ ρ") == "ε̂ ≤ ρ"  # what is text stays as it is
    assert one_line("a\n  b") == "a b"


def test_the_texts_of_every_failure_are_safe_whoever_made_it() -> None:
    failure = Failure("lost:\n\udcff" + "x" * 1000, "Traceback\n  caf\udce9.png")
    assert failure.error == "lost: \\udcff" + "x" * (MAX_ERROR - 12)
    assert failure.traceback == "Traceback\n  caf\\udce9.png"


def raised(code: str, folder: Path) -> BaseException:
    """What a file `losses/mine.py` of the user's raises when its function `f` is called."""
    file = folder / "losses" / "mine.py"
    file.parent.mkdir()
    file.write_text(code)
    names: dict[str, Any] = {}
    try:
        exec(compile(code, str(file), "exec"), names)
        names["f"]()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def f():\n    return 1 / 0\n", "mine.py:2 in f: ZeroDivisionError: division by zero"),
        # Raised by a library that the user's function calls, through another of the user's.
        (
            "import json\ndef g(text):\n    return json.loads(text)\n\ndef f():\n    g('{')\n",
            "mine.py:3 in g: JSONDecodeError: Expecting property name enclosed in double quotes",
        ),
        ("import math\n1 / 0\n", "mine.py:2: ZeroDivisionError: division by zero"),  # while it is imported
        ("class A:\n    def forward(self):\n        raise ValueError\nf = A().forward\n", "mine.py:3 in forward: "),
    ],
)
def test_an_error_names_the_last_line_of_the_users_own_files(
    code: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = raised(code, tmp_path)
    error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this file is not installed either
    assert failure_of(error).error.startswith(line)
    assert str(tmp_path / "losses" / "mine.py") in failure_of(error).traceback
    monkeypatch.syspath_prepend(str(tmp_path))  # the file is shown from where it is imported
    assert failure_of(error).error.startswith(f"losses/{line}")


def test_an_error_that_samtune_makes_of_the_users_names_the_users_line(tmp_path: Path) -> None:
    cause = raised("def f():\n    {}['a']\n", tmp_path)
    cause.__traceback__ = cause.__traceback__.tb_next  # type: ignore[union-attr]
    error = UsageError("training.loss: cannot be imported: KeyError: 'a'")
    error.__cause__ = cause
    assert failure_of(error).error == f"mine.py:2 in f: UsageError: {error}"
    assert failure_of(UsageError("no loss")).error == "UsageError: no loss"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (ValueError("shapes differ"), False),
    ],
)
def test_a_fault_of_the_machine_is_told_from_a_trials_error(error: Exception, expected: bool) -> None:
    wrapped = RuntimeError("while images were decoded")
    wrapped.__cause__ = error
    assert is_fault(error) is is_fault(wrapped) is expected
    assert failure_of(wrapped).fault is expected
    checkpoint = CheckpointError("checkpoint 1 cannot be written")
    checkpoint.__cause__ = error
    assert not is_fault(checkpoint)  # one of a smaller network may fit


def test_what_a_trial_sets_for_the_whole_process_is_set_back() -> None:
    settings = TorchGlobals()
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(before[1] + 1)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.backends.cudnn.benchmark = not before[2]
        torch.use_deterministic_algorithms(True)
        torch.autograd.set_detect_anomaly(True)
    finally:
        settings.restore()
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn.benchmark) == before
    assert torch.is_grad_enabled()
    assert torch.zeros(1).device.type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_anomaly_enabled()


def test_a_device_without_memory_is_said_with_the_remedy_and_spares_the_group():
    """Also where a forward in the user's code translated the error; not CUDA's own half page."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …\nand more")
    wrapped = RuntimeError("my layer failed")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        failure = failure_of(each)
        assert failure.error.startswith("OutOfMemoryError: the device's memory does not suffice; a smaller training.b")
        assert "training.accumulate" in failure.error
        assert not failure.fault
    assert not ruins_the_device(error)


def test_the_peak_is_said_in_gib():
    assert memory_peak(3 * 2**29, 80 * 2**30) == " (the trial's peak was 1.50 of 80.00 GiB)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_peak_is_the_trial_s():
    with pytest.raises(torch.OutOfMemoryError) as error:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert "the trial's peak was " in failure_of(error.value).error


def test_a_frame_of_cython_is_no_line_of_the_users(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        pyarrow.fs.LocalFileSystem().open_input_file(str(tmp_path / "nothing"))
    failure = failure_of(caught.value)
    assert ".pxi" not in failure.error
