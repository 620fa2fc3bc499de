"""The papers' experiments: each file is whole, its commands work, its trials start (on tiny data in real formats)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.dataset_files import (
    cycling_labels,
    encode,
    random_images,
    write_cifar10_parquet,
    write_cifar100_python,
    write_idx,
    write_parquet,
    write_svhn,
)
from helpers.listed_files import WRITERS

from samtune.config.builtin_spaces import PAPERS, builtin_spaces, find_space, grouped_spaces, summary
from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.train.trial import TrialRun

PUBLISHED = {name: path for name, path in builtin_spaces().items() if "/" in name}
LONG = re.compile(
    "imagenet_resnet1|mnist_shake|cifar1.*_shake_shake|spectrum|second_order|wrn_28_10_1800|universal/cifar10.yaml"
)
"""Spaces whose trials take seconds to start, even tiny: only the whole suite starts them."""


def head(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines[: lines.index("")])


def commands(path: Path) -> list[list[str]]:
    """The `--set` groups of the head, one for each line that has any."""
    lines = re.findall(r"--set .*", head(path))
    return [[word for word in shlex.split(line.replace(";", " ")) if "=" in word] for line in lines]


@pytest.mark.parametrize("name", PUBLISHED)
class TestPublished:
    def test_the_head_says_what_it_aims_at_and_what_it_costs(self, name: str) -> None:
        text = head(PUBLISHED[name])
        assert re.search(r"(Foret|Tahmasebi) et al.*(ICLR 2021|ICML 2024)", text)
        assert re.search(r"[Tt]able|[Ff]igure|section", text)
        assert "Cost:" in text
        assert re.search(r"\d+ (passes|epochs)|\d+, \d+ or \d+ passes", summary(PUBLISHED[name]))

    def test_every_command_of_the_head_is_valid(self, name: str) -> None:
        for overrides in commands(PUBLISHED[name]):
            SearchSpace.from_yaml(PUBLISHED[name], overrides)

    def test_the_passes_of_the_head_are_those_of_its_trials(self, name: str) -> None:
        space = SearchSpace.from_yaml(PUBLISHED[name])
        text = head(PUBLISHED[name])
        stated = re.search(r"Cost: (\d+) passes", text) or re.search(r"\((\d+) passes", text)
        assert stated is not None
        assert max(spec.passes_per_epoch * spec.num_epochs for spec in every_trial(space)) == int(stated[1])


def every_trial(space: SearchSpace) -> list[TrialSpec]:
    """All trials of a grid; of a sampled space, one."""
    if space.sampler.name != "grid":
        return [space.trial(space.initial[0] if space.initial else {})]
    configs = space.tree.enumerate(lambda name, key, node: node.values())
    return [space.trial(config) for config in configs if not any(space.violations(config))]


def trials(space: SearchSpace) -> list[TrialSpec]:
    """The first trial of each method; of a sampled space, one."""
    found: dict[str, TrialSpec] = {}
    for spec in every_trial(space):
        found.setdefault(spec.method.name, spec)
    return list(found.values())


# -- started ---------------------------------------------------------------------------------------------


def write_classes(root: Path, splits: tuple[str, str], num_classes: int) -> None:
    """A tiny image for each class of each split."""
    image = encode(random_images(1, (3, 40, 36))[0])
    for split in splits:
        for number in range(num_classes):
            folder = root / split / f"n{number:04d}"
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(image)


def write_hub(root: Path, label: str) -> None:
    for split, count in (("train", 40), ("test", 20)):
        images = random_images(count, (3, 32, 32))
        write_parquet(root / f"{split}-00000-of-00001.parquet", images, cycling_labels(count), label=label)


DATA: dict[str, Callable[[Path], Any]] = {
    **WRITERS,
    "cifar10": write_cifar10_parquet,
    "cifar100": write_cifar100_python,
    "svhn": lambda root: write_svhn(root, {"train": 60, "test": 20, "extra": 40}),
    "mnist": lambda root: write_idx(root / "MNIST" / "raw"),
    "fashion_mnist": lambda root: write_idx(root / "FashionMNIST" / "raw"),
    "imagenet": lambda root: write_classes(root / "imagenet", ("train", "val"), 1000),
    "birdsnap": lambda root: write_classes(root / "birdsnap", ("train", "test"), 500),
    "parquet": lambda root: write_hub(root, "img"),
}
SHRUNK: dict[str, dict[str, Any]] = {
    "wide_resnet": {"depth": 10, "width": 1},
    "shake_shake": {"width": 2},
    "pyramidnet": {"depth": 11, "alpha": 3},
    "cifar_resnet": {"depth": 8},
    "resnet": {"name": "cifar_resnet", "depth": 8},
    "mlp": {"width": 8},
    "torchvision": {"architecture": "shufflenet_v2_x0_5", "weights": None},
}


@pytest.fixture(scope="module")
def data_roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """Where the data set of a configuration is; written when it is first asked for."""
    written: dict[str, Path] = {}

    def root(config: Any) -> Path:
        key = f"{config.name}-{getattr(config, 'label_column', '')}"
        if key not in written:
            written[key] = tmp_path_factory.mktemp(config.name)
            if config.name == "parquet":
                write_hub(written[key], config.label_column)
            else:
                DATA[config.name](written[key])
        return written[key]

    return root


def shrunk(spec: TrialSpec, root: Path) -> TrialSpec:
    """The same trial on tiny data, with a tiny network, for two steps."""
    data: dict[str, Any] = {"root": str(root), "num_train": None if spec.data.fraction < 1 else 20}
    data |= {"image_size": 32} if hasattr(spec.data, "image_size") else {}
    data |= {"loader_processes": 0} if hasattr(spec.data, "loader_processes") else {}
    data |= {"fraction": 0.3} if spec.data.fraction < 1 else {}
    batch_size = {"batch_size": 8, "accumulate": min(spec.training.accumulate, 2)}
    length: dict[str, Any] = {"epochs": 1, "passes": None, "warmup_epochs": min(1.0, spec.training.warmup_epochs)}
    method: dict[str, Any] = {"num_examples": 4} if hasattr(spec.method, "num_examples") else {}
    method |= {"m": min(spec.method.m, 4)} if isinstance(getattr(spec.method, "m", None), int) else {}
    if (diagnostics := spec.training.diagnostics) is not None:
        few = {"m": [1, 4], "num_examples": 8, "num_probes": 2}
        length["diagnostics"] = {**diagnostics.model_dump(), **few}
    return TrialSpec.model_validate(
        {
            "data": {**spec.data.model_dump(), **data},
            "model": {**spec.model.model_dump(), **SHRUNK[spec.model.name]},
            "method": {**spec.method.model_dump(), **method},
            "training": {**spec.training.model_dump(), **batch_size, **length},
        }
    )


@pytest.mark.filterwarnings("ignore:rounding loses the perturbation")  # the grid's smallest rho, on this network
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if LONG.search(name) else name for name in (*PUBLISHED, "cifar.yaml")],
)
def test_its_trials_start(name: str, data_roots: Callable[[Any], Path]) -> None:
    space = SearchSpace.from_yaml(builtin_spaces()[name])
    every_method = name in ("universal/cifar10.yaml", "sam/table4_label_noise_mixup.yaml")
    for spec in trials(space) if every_method else trials(space)[-1:]:
        small = shrunk(spec, data_roots(spec.data))
        record = TrialRun(small, rank=0, num_workers=1, device=torch.device("cpu")).train_epoch(1)
        if small.training.diagnostics is None:
            assert record["num_passes"] == pytest.approx(spec.passes_per_epoch)
        assert space.objective.metric in record
        if small.data.label_noise:
            assert record["train_loss"] > 0


# -- found -----------------------------------------------------------------------------------------------


def test_spaces_are_found_by_name_with_or_without_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = PUBLISHED["sam/table1_cifar10_wrn_28_10.yaml"]
    for name in ("sam/table1_cifar10_wrn_28_10.yaml", "table1_cifar10_wrn_28_10", "table1_cifar10_wrn_28_10.yaml"):
        assert find_space(name) == path
    assert find_space("cifar10_s") == PUBLISHED["universal/cifar10_s.yaml"]


def test_every_folder_is_a_paper() -> None:
    groups = grouped_spaces()
    assert list(groups) == list(PAPERS)
    sharp = ["when_to_be_sharp.yaml", "when_to_be_sharp_cifar10.yaml"]
    assert list(groups[""]) == ["cifar.yaml", "diabetes.yaml", "digits.yaml", "noisy_digits.yaml", *sharp]
    assert sorted(chain.from_iterable(groups.values())) == sorted(builtin_spaces())
    names = [SearchSpace.from_yaml(path).name for path in builtin_spaces().values()]
    assert len(names) == len(set(names))  # each study has a name of its own


def test_methods_by_when_they_look_for_sharpness_are_compared_at_equal_passes():
    """The grid has each of the 15 combinations once, and no trial costs more than the budget or an epoch less."""
    space = SearchSpace.from_yaml("when_to_be_sharp.yaml")
    trials = [space.trial(config) for config in space.tree.enumerate(lambda name, key, node: node.values())]
    assert len(trials) == space.num_trials == 15
    assert all(30 - trial.passes_per_epoch < trial.num_passes <= 30 + 1e-9 for trial in trials)
    assert {trial.num_epochs for trial in trials} == {30, 15, 25, 24}
