"""The heads and settings of the papers' spaces against `published.yaml` and `paper_settings.yaml`."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from samtune.config.builtin_spaces import builtin_spaces
from samtune.config.space import SearchSpace
from samtune.experiments.confirm_source import fixed_trial
from samtune.experiments.papers import published

FACTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("paper_settings.yaml").read_text(encoding="utf-8"))
PUBLISHED = published()
SPACES = {name: path for name, path in builtin_spaces().items() if "/" in name}
PLACE = r"(?:table|figure|section|appendix) [\w.]+"
TITLE = re.compile(rf"# Published, (?P<place>{PLACE}) \((?P<measure>.+)\): (?P<columns>.+)")
FIGURE = r"\d[\d.]*(?:e-\d)?(?: ± <?[\d.]+)?"
ROW = re.compile(rf"#   (?P<label>[^:]+): (?P<figures>{FIGURE}(?: \| {FIGURE})*)(?:; .*)?")


def head(name: str) -> list[str]:
    lines = SPACES[name].read_text(encoding="utf-8").splitlines()
    return lines[: lines.index("")]


def figures_of(lines: list[str]) -> dict[str, Any]:
    """The blocks `Published, PLACE (MEASURE): COLUMN | …` of a head and their rows `LABEL: FIGURE | …`."""
    blocks: dict[str, Any] = {}
    rows: dict[str, list[str]] = {}
    for line in lines:
        if title := TITLE.fullmatch(line):
            rows = {}
            blocks[title["place"]] = {
                "measure": title["measure"],
                "columns": title["columns"].split(" | "),
                "rows": rows,
            }
        elif row := ROW.fullmatch(line):
            rows[row["label"]] = row["figures"].split(" | ")
    return blocks


def commands(name: str) -> list[list[str]]:
    """The `samtune …` commands of a head, in words."""
    joined = "\n".join(head(name)).replace("\\\n#", " ")
    return [shlex.split(found) for found in re.findall(r"samtune (?:search|confirm|train|sharpness) [^\n;]*", joined)]


def sets(words: list[str]) -> list[str]:
    return [value for flag, value in itertools.pairwise(words) if flag == "--set"]


def value_of(space: SearchSpace, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(space, section), name)


def test_the_parser_reads_what_is_there() -> None:
    lines = ["# Published, table 1 (error in %): SAM | SGD", "#   basic: 2.7 ± 0.1 | 3.5; this file", "# Cost: 3 | 4"]
    assert figures_of(lines) == {
        "table 1": {"measure": "error in %", "columns": ["SAM", "SGD"], "rows": {"basic": ["2.7 ± 0.1", "3.5"]}},
    }


@pytest.mark.parametrize("name", SPACES)
def test_the_figures_of_the_head_are_the_papers(name: str) -> None:
    assert figures_of(head(name)) == PUBLISHED["figures"].get(name, {})


def test_every_experiment_has_its_space() -> None:
    others = {"sam/cifar10_wrn_40_10.yaml", "sam/cifar100_wrn_40_10.yaml"}  # not of the papers, and their heads say so
    assert set(PUBLISHED["figures"]) | set(PUBLISHED["stated"]) == set(SPACES) - others
    assert set(FACTS["settings"]) <= set(SPACES)


@pytest.mark.parametrize("name", PUBLISHED["stated"])
def test_the_head_quotes_what_the_paper_states(name: str) -> None:
    text = " ".join(line.removeprefix("#").strip() for line in head(name))
    for place, statement in PUBLISHED["stated"][name].items():
        assert place in text.lower() or place.title() in text or place in text
        for quoted in re.findall('"(.+?)"', statement):
            assert quoted in text


@pytest.mark.parametrize("name", FACTS["settings"])
def test_settings_are_the_papers(name: str) -> None:
    space = SearchSpace.from_yaml(SPACES[name])
    expected = dict(FACTS["settings"][name])
    confirmed = expected.pop("confirm", {})
    assert {key: value_of(space, key) for key in expected} == expected
    if confirmed:
        (words,) = (words for words in commands(name) if words[1] == "confirm")
        trial = fixed_trial(SearchSpace.from_yaml(SPACES[name], sets(words)))
        assert {key: value_of(trial, key) for key in confirmed} == confirmed


@pytest.mark.parametrize("name", SPACES)
def test_every_command_of_the_head_is_one_of_this_file(name: str) -> None:
    """`confirm` and `train` name a file of which nothing is left to search; `search` one that is searched."""
    found = commands(name)
    assert found
    for words in found:
        named = [word for word in words if word.endswith(".yaml")]
        if words[1] == "sharpness" or not named:
            continue
        assert named[0] in SPACES
        space = SearchSpace.from_yaml(SPACES[named[0]], sets(words))
        if words[1] in ("confirm", "train"):
            fixed_trial(space)


@pytest.mark.parametrize("name", [name for name in SPACES if name.startswith("sam/table3") and "imagenet" not in name])
def test_fine_tuning_takes_5000_steps_with_and_without_validation(name: str) -> None:
    """Appendix C.2. Within half an epoch."""
    (train, every) = {
        "aircraft": (6000, 6667),
        "flowers": (1836, 2040),
        "pets": (3312, 3680),
        "cars": (7330, 8144),
        "cifar10": (45_000, 50_000),
        "cifar100": (45_000, 50_000),
        "birdsnap": (42_647, 47_386),
        "food101": (68_175, 75_750),
    }[name.rpartition("_")[2].removesuffix(".yaml")]
    assert f"x {train:,} images" in "\n".join(head(name))
    space = SearchSpace.from_yaml(SPACES[name], ["method.rho=0.05"])
    (words,) = (words for words in commands(name) if words[1] == "confirm")
    final = SearchSpace.from_yaml(SPACES[name], sets(words))
    for spec, examples in ((space.trial({}), train), (final.trial({}), every)):
        steps = examples // spec.training.batch_size
        assert abs(spec.num_epochs * steps - 5000) <= steps / 2
        assert str(f"{spec.num_epochs * steps:,}") in "\n".join(head(name))


UNIVERSAL = [name for name in PUBLISHED["figures"] if name.startswith("universal/")]


@pytest.mark.parametrize("name", UNIVERSAL)
def test_methods_of_the_universal_spaces_are_the_papers(name: str) -> None:
    (column, lambdas), *_ = PUBLISHED["figures"][name]["table 4"]["rows"].items()
    (rhos,) = PUBLISHED["figures"][name]["table 5"]["rows"].values()
    expected = FACTS["universal"][column.partition("-")[0]]
    methods = yaml.safe_load(SPACES[name].read_text(encoding="utf-8"))["method"]["choice"]
    by_name = {method.pop("name"): method for method in methods}
    assert list(by_name) == ["sgd", "sam", "asam", "ssam_f", "frob_sam", "trace_sam", "det_sam"]
    assert by_name["sam"] == expected["sam"]
    assert by_name["asam"] == expected["asam"]
    assert by_name["ssam_f"] == {**expected["ssam_f"], "sparsity": 0.5, "num_examples": 16}
    assert by_name["frob_sam"]["lambda"]["choice"] == [0.0001, 0.001, 0.005, 0.01, 0.05, 0.1]
    space = SearchSpace.from_yaml(SPACES[name])
    assert (space.data.augmentation, space.training.weight_decay) == (
        expected["augmentation"],
        expected["weight_decay"],
    )
    assert len(list(space.tree.enumerate(lambda name, key, node: node.values()))) == 22
    confirmed = [
        SearchSpace.from_yaml(SPACES[name], sets(words)).trial({}).method
        for words in commands(name)
        if words[1] == "confirm"
    ]
    assert [method.name for method in confirmed] == ["frob_sam", "trace_sam", "det_sam"]
    assert [method.lam for method in confirmed] == [float(value) for value in lambdas]
    assert [method.rho for method in confirmed] == [float(rhos[0]), 0.01, 1.0]


def test_the_one_file_of_table_9_has_the_settings_of_table_6() -> None:
    """All 60 cells: those of the files of table 1, with rho 0.05."""
    space = SearchSpace.from_yaml(SPACES["sam/table9_rho_0_05.yaml"])
    configs = space.tree.enumerate(lambda name, key, node: node.values())
    specs = [space.trial(config) for config in configs if not any(space.violations(config))]
    assert len(specs) == 60
    kinds = {"wide_resnet": "wrn_28_10", "shake_shake": "shake_shake", "pyramidnet": "pyramidnet"}
    for spec in specs:
        long = "_1800" if spec.model.name == "wide_resnet" and spec.training.passes == 3600 else ""
        drop = "_shakedrop" if getattr(spec.model, "shake_drop", 0.0) else ""
        settings = FACTS["settings"][f"sam/table1_{spec.data.name}_{kinds[spec.model.name]}{long}{drop}.yaml"]
        assert spec.training.lr == settings["training.lr"]
        assert spec.training.weight_decay == settings["training.weight_decay"]
        assert spec.method.name == "sgd" or (spec.method.rho, spec.method.m) == (0.05, 32)


def test_the_one_file_of_table_10_takes_5000_steps_of_sam() -> None:
    space = SearchSpace.from_yaml(SPACES["sam/table10_rho_0_05.yaml"])
    sizes = {"fgvc_aircraft": 6667, "flowers102": 2040, "oxford_pets": 3680, "stanford_cars": 8144, "birdsnap": 47_386}
    sizes |= {"food101": 75_750, "parquet": 50_000}
    specs = [space.trial(config) for config in space.tree.enumerate(lambda name, key, node: node.values())]
    assert len(specs) == 16
    for spec in specs:
        steps = sizes[spec.data.name] // 1024
        assert abs(spec.num_epochs * steps - (5000 if spec.method.name == "sam" else 10_000)) <= steps
