"""README.md and the documentation: what they show is true, and their programs and commands run as they stand there."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import typer
from helpers.command import CLEAN, Run, run_samtune
from torch import nn

from samtune import SearchSpace
from samtune.cli.app import app
from samtune.docs import TOPICS, read_topic

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "samtune" / "docs"
PAGES = [ROOT / "README.md", *(DOCS / f"{topic}.md" for topic in TOPICS)]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    """Every distinct `samtune ...` line of the pages, as arguments, without its comment."""
    lines = {
        line.strip()
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("samtune ")
    }
    return sorted(shlex.split(line, comments=True)[1:] for line in lines)


def test_every_topic_is_a_page_and_every_page_a_topic() -> None:
    assert {page.stem for page in DOCS.glob("*.md")} == set(TOPICS)
    assert all(read_topic(topic).startswith("# ") for topic in TOPICS)


def test_the_readme_is_short_and_links_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 140
    assert {f"samtune/docs/{topic}.md" for topic in TOPICS} <= set(re.findall(r"\]\(([^)]*)\)", text))


@pytest.mark.parametrize("page", [*PAGES, ROOT / ".github" / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_command_is_in_the_readme() -> None:
    rows = re.findall(r"^\| (`samtune .*?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(?:samtune )?(\w+)`", row)}
    assert listed == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_take_the_options_that_the_pages_give_them(arguments: list[str]) -> None:
    command = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    with command.make_context(arguments[0], arguments[1:]):  # parses; runs nothing
        pass


@pytest.mark.parametrize(
    "arguments", [each for each in commands() if "--dry-run" in each and "digits.yaml" in each], ids=" ".join
)
def test_dry_runs_of_the_pages_show_a_plan(samtune: Run, arguments: list[str]) -> None:
    done = samtune(*arguments)
    assert done.returncode == 0, done.stderr
    assert "trials" in done.stdout


def test_the_readmes_space_is_valid() -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    space = SearchSpace.from_text(text, "README.md")
    assert (space.name, space.num_trials, space.resources.num_workers) == ("my-search", 24, 2)


def test_the_yaml_of_the_page_on_search_spaces_is_valid() -> None:
    complete, sections, optimizer = blocks(DOCS / "search-spaces.md", "yaml")
    SearchSpace.from_text(complete, "search-spaces.md")
    head = [line for line in complete.splitlines() if re.match("name|data|model|training|resources", line)]
    body = [line for line in sections.splitlines() if not line.startswith("warm_start")]  # the reader has none
    assert SearchSpace.from_text("\n".join([*head, *body]), "search-spaces.md").repeats == 3
    others = [line for line in head if not line.startswith("training")]
    space = SearchSpace.from_text("\n".join([*others, "method: sam", optimizer]), "search-spaces.md")
    assert list(space.trial({"training.optimizer.eps": 1e-8}).training.optimizer_options) == ["betas", "eps"]


@pytest.mark.parametrize("topic", list(TOPICS))
def test_python_programs_are_programs(topic: str) -> None:
    for program in blocks(DOCS / f"{topic}.md", "python"):
        ast.parse(program)


def test_the_optimizer_of_the_documentation_takes_a_step() -> None:
    (program,) = (code for code in blocks(DOCS / "methods.md", "python") if "import SAM" in code)
    torch.manual_seed(0)
    model, loss_fn = nn.Linear(4, 2), nn.CrossEntropyLoss()
    inputs, targets = torch.randn(8, 4), torch.randint(2, (8,))
    before = loss_fn(model(inputs), targets).item()
    exec(program, {"torch": torch, "model": model, "loss_fn": loss_fn, "inputs": inputs, "targets": targets})
    assert loss_fn(model(inputs), targets).item() < before


@pytest.mark.cluster
def test_the_program_with_the_users_own_functions_runs_and_is_short(tmp_path: Path) -> None:
    (program,) = (code for code in blocks(DOCS / "your-own-code.md", "python") if "make_net" in code)
    assert len(program.splitlines()) < 40
    output = run_program(program, tmp_path)
    config, accuracy, confidence = re.fullmatch(r"(\{.*\}) (\S+) (\S+)\n", output).groups()  # type: ignore[union-attr]
    assert list(ast.literal_eval(config)) == ["method.rho", "training.lr"]
    assert 0.5 < float(accuracy) <= 1
    assert 0.5 <= float(confidence) <= 1

    # The command line goes on with it.
    (name,) = (journal.parent.name for journal in tmp_path.glob("samtune-results/*/journal.jsonl"))
    more = ("search", "--resume", name, "--num-trials", "7", "--dry-run", "--json")
    refused = run_samtune(*more, cwd=tmp_path)
    assert refused.returncode == 2
    assert re.search(r"data.name: given:make_data is a Python object .* --code my_script.py", refused.stderr)
    code = ("--code", "mine.py")
    assert json.loads(run_samtune(*more, *code, cwd=tmp_path).stdout)["num_trials"] == 7
    options = ("--top", "1", "--replicas", "1", "--baseline", "none", "--json")
    confirmed = json.loads(run_samtune("confirm", name, *options, *code, cwd=tmp_path).stdout)
    assert confirmed["num_missing"] == 0  # its workers had the functions
    assert run_samtune("report", name, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_the_readmes_program_runs(tmp_path: Path) -> None:
    (program,) = blocks(ROOT / "README.md", "python")
    assert "num_trials=8" in program  # two of them say the same, sooner: the first is the space's initial point
    first = run_program(program.replace("num_trials=8", "num_trials=2"), tmp_path).splitlines()[0]
    config, accuracy = re.fullmatch(r"(\{.*\}) (\S+)", first).groups()  # type: ignore[union-attr]
    assert "method.rho" in ast.literal_eval(config)
    assert float(accuracy) > 0.8


def run_program(program: str, folder: Path) -> str:
    """What it prints, run as a file of a user's."""
    (folder / "mine.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_docs_without_a_topic_lists_them(samtune: Run) -> None:
    done = samtune("docs")
    assert done.returncode == 0
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == list(TOPICS)


def test_docs_prints_plain_markdown_into_a_pipe(samtune: Run) -> None:
    done = samtune("docs", "methods")
    assert done.returncode == 0
    assert done.stdout == (DOCS / "methods.md").read_text(encoding="utf-8")


def test_an_unknown_topic_is_one_line_with_the_nearest(samtune: Run) -> None:
    done = samtune("docs", "cluster")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == "samtune: error: cluster: no such topic; the nearest is clusters (`samtune docs` lists all)"
