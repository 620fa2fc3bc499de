"""`samtune validate` and `samtune schema`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def samtune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "samtune", *arguments], capture_output=True, text=True, check=False)


def test_a_valid_space_is_told_with_what_it_searches() -> None:
    done = samtune("validate", "digits.yaml", "--set", "constraints=['method.rho < training.lr']")
    assert done.returncode == 0
    assert "digits.yaml: valid; 16 trials, 3 searched keys" in done.stdout
    assert "  method.rho             log_uniform 0.01 … 0.5\n" in done.stdout
    assert "  where method.rho < training.lr\n" in done.stdout
    report = json.loads(samtune("validate", "digits.yaml", "--json").stdout)
    assert (report["valid"], report["num_trials"]) == (True, 16)
    assert report["searched"]["training.lr"] == "log_uniform 0.01 … 0.5"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\ndata: {name: digits}\nmodel: {name: digits_cnn}\nmethod: {name: sam, roh: 0.1}\n")
    line = f"{path}:4: method.roh: unknown key; did you mean 'rho'?"
    done = samtune("validate", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"samtune: error: {line}\n")
    as_json = samtune("validate", str(path), "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)) == (2, {"valid": False, "error": line})
    missing = samtune("validate", "digits.yaml", "--set", "sampler={name: no_such_package:Sampler}")
    assert missing.returncode == 2
    assert "sampler.name: no_such_package:Sampler: cannot be imported" in missing.stderr


def test_the_schema_is_json() -> None:
    schema = json.loads(samtune("schema").stdout)
    assert schema["properties"]["method"]["anyOf"]
