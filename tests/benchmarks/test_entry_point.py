"""Every benchmark behind `python -m samtune.benchmarks NAME`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from samtune.benchmarks.__main__ import BENCHMARKS, main

PACKAGE = Path(__file__).parents[2] / "samtune/benchmarks"


def test_all_are_listed_and_only_one_module_is_run_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with_main = {file.stem for file in PACKAGE.glob("*.py") if "def main(" in file.read_text(encoding="utf-8")}
    assert with_main - {"__main__"} == set(BENCHMARKS)
    by_itself = {file.stem for file in PACKAGE.glob("*.py") if "__name__ ==" in file.read_text(encoding="utf-8")}
    assert by_itself == {"__main__"}
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +{re.escape(what)}$", shown, re.M) for name, what in BENCHMARKS.items())


@pytest.mark.parametrize("arguments", [[], ["sma"]])
def test_a_name_that_there_is_not_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "python -m samtune.benchmarks: error:" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_has_its_own_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m samtune.benchmarks {name}" in capsys.readouterr().out


def test_one_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sam", "--models", "few_large", "--batch-size", "8", "--rounds", "2", "--groups", "1", "--no-collectives"])
    assert "few_large: " in capsys.readouterr().out
