"""A search in a notebook, executed by nbconvert with a real kernel: its progress is there, and nothing is erased."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import CLEAN

CELL = """
import os, signal
from samtune import Callback, SearchSpace, Tuner

print("printed before")


class Interrupts(Callback):
    done = False

    def on_trial_end(self, study, trial):
        if not self.done:
            os.kill(os.getpid(), signal.SIGINT)  # what Jupyter's stop button sends
        self.done = True


space = SearchSpace.from_yaml("digits.yaml", ["training.epochs=1", "data.num_train=200", "model={name: mlp, width: 8}"])
results = Tuner(space, num_trials=30, num_workers=1, max_concurrent=1, name="nb", callbacks=[Interrupts()]).fit()
print("printed after", results.interrupted, results.best.state == 'completed')
results
"""


@pytest.mark.cluster
def test_a_notebook_shows_progress_erases_nothing_and_keeps_what_an_interrupt_leaves(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "id": "a", "source": CELL}
    notebook = {"cells": [code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "search.ipynb").write_text(json.dumps(notebook))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "search.ipynb"),
            *("--output", "done.ipynb", "--ExecutePreprocessor.startup_timeout=300"),
        ],
        cwd=tmp_path,
        env=CLEAN | {"JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads((tmp_path / "done.ipynb").read_text())["cells"][0]["outputs"]
    streams = [output for output in outputs if output["output_type"] == "stream"]
    assert "".join(streams[0]["text"]) == "printed before\n"
    assert "".join(streams[-1]["text"]) == "printed after True True\n"
    assert {output["name"] for output in streams} == {"stdout"}, streams
    (progress,) = [output for output in outputs if output["output_type"] == "display_data"]  # one, updated in place
    assert outputs.index(streams[0]) < outputs.index(progress) < outputs.index(streams[-1])
    page = "".join(progress["data"]["text/html"])
    assert re.search(r"nb: .*max val_accuracy", page)
    assert re.search(r"<td [^>]*>\d+ \(best\)</td><td [^>]*>completed</td><td [^>]*>0\.\d+</td>", page)
    assert re.search(r"\d+ of 30 trials in 0:\d\d", page)
    assert "interrupted" in page
    (shown,) = [output for output in outputs if output["output_type"] == "execute_result"]
    assert "<table>" in "".join(shown["data"]["text/html"])
