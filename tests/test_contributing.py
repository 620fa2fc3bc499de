"""The recipes of samtune/docs/contributing.md, each followed in a copy of the package and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "samtune" / "docs" / "contributing.md").read_text()


@dataclass
class Copy:
    """A copy of samtune, in which a recipe is followed."""

    folder: Path
    recipe: str

    def file(self, name: str) -> Path:
        """A file that the recipe names, where NAME is `mine`."""
        assert f"`{name}`" in self.recipe, f"the recipe does not name {name}"
        return self.folder / name.replace("NAME", "mine")

    def add(self, name: str, text: str) -> None:
        path = self.file(name)
        assert not path.exists()
        path.write_text("from __future__ import annotations\n\n" + dedent(text))

    def edit(self, name: str, before: str, *, insert: str, indent: int = 0) -> None:
        """Puts a text, indented, before the only place where another is."""
        path = self.file(name)
        text = path.read_text()
        assert text.count(before) == 1, f"{name} has no single {before!r}"
        path.write_text(text.replace(before, textwrap.indent(dedent(insert), " " * indent) + before))

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", *command],
            cwd=self.folder,
            env={"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Copy:
    """Of the recipe that the test's parameter names."""
    (recipe,) = re.findall(rf"^## {request.param}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    ignored = shutil.ignore_patterns("__pycache__", "benchmarks")
    shutil.copytree(ROOT / "samtune", tmp_path / "samtune", ignore=ignored)
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    return Copy(tmp_path, recipe)


recipe = pytest.mark.parametrize


@recipe("copy", ["Add a method"], indirect=True)
def test_a_method_is_known_to_the_yaml_and_trains(copy: Copy) -> None:
    copy.add(
        "samtune/sam/rules/NAME.py",
        """
        from samtune.sam.rules.base import Rule


        class HalfRule(Rule):
            \"\"\"Half of the gradient.\"\"\"

            name = "half"

            def __call__(self, group):
                group.descend(0.5)
        """,
    )
    copy.edit(
        "samtune/config/method.py",
        "\nBuiltinMethodConfig = Annotated[",
        insert='''
        class HalfConfig(PerturbedConfig):
            """Half of the gradient."""

            rule: ClassVar[str] = "samtune.sam.rules.mine:HalfRule"

            name: Literal["half"] = "half"
            """Method."""

        ''',
    )
    copy.edit("samtune/config/method.py", "    | UniversalConfig\n", insert="    | HalfConfig\n")
    settings = ("--set", "method={name: half}", "--set", "search={training.lr: {log_uniform: [0.01, 0.1]}}")
    copy.run("-m", "samtune", "validate", "digits.yaml", *settings, "--set", "initial=[]")
    program = """
        import torch
        from samtune import SearchSpace
        from samtune.sam import TrainStep
        space = SearchSpace.from_yaml("digits.yaml", ["method={name: half}", "search={}", "initial=[]"])
        model = torch.nn.Linear(2, 1, bias=False).double()
        with torch.no_grad():
            model.weight.fill_(1.0)
        optimizer, method = torch.optim.SGD(model.parameters(), lr=1.0), space.trial({}).method
        step = TrainStep(model, torch.nn.functional.mse_loss, optimizer, method, batch_size=1)
        step(torch.ones(1, 2).double(), torch.zeros(1, 1).double())
        print(model.weight.tolist())  # 1 - 1/2 * 2 * (1 + 1)
    """
    assert copy.run("-c", dedent(program)) == "[[-1.0, -1.0]]\n"


@recipe("copy", ["Add a model"], indirect=True)
def test_a_model_is_known_to_the_yaml_and_built(copy: Copy) -> None:
    copy.add(
        "samtune/models/NAME.py",
        """
        import math

        from torch import nn


        def linear(num_classes, input_shape):
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))
        """,
    )
    copy.edit(
        "samtune/config/model.py",
        "\nBuiltinModelConfig = Annotated[",
        insert='''
        class LinearConfig(Config):
            """Logistic regression."""

            name: Literal["linear"] = "linear"
            """Network."""

        ''',
    )
    copy.edit("samtune/config/model.py", "    | TorchvisionConfig,\n", insert="    | LinearConfig\n")
    copy.edit("samtune/models/build.py", "    CifarResNetConfig,\n", insert="    LinearConfig,\n")
    copy.edit(
        "samtune/models/build.py",
        "        case MlpConfig():\n",
        indent=8,
        insert="""\
        case LinearConfig():
            from samtune.models.mine import linear

            return linear(num_classes, input_shape)
        """,
    )
    program = """
        from samtune import SearchSpace
        from samtune.models import build_model
        space = SearchSpace.from_yaml("digits.yaml", ["model={name: linear}"])
        model = build_model(space.trial({}).model, num_classes=10, input_shape=(1, 8, 8), seed=0)
        print(sum(p.numel() for p in model.parameters()))
    """
    assert copy.run("-c", dedent(program)) == "650\n"


@recipe("copy", ["Add a data set"], indirect=True)
def test_a_data_set_is_known_to_the_yaml_and_read(copy: Copy) -> None:
    copy.add(
        "samtune/data/sources/NAME.py",
        """
        import numpy as np

        from samtune.data.sources.base import DataSource
        from samtune.data.sources.traits import Traits


        class DotsSource(DataSource):
            traits = Traits(2, (1, 4, 4))

            def check(self):
                pass

            def num_examples(self, split):
                return 20

            def files(self, split):
                return ()

            def read(self, split):
                labels = np.arange(20) % 2
                return np.full((20, 1, 4, 4), 200, np.uint8) * labels[:, None, None, None].astype(np.uint8), labels
        """,
    )
    copy.edit(
        "samtune/config/data.py",
        "\nBuiltinDataConfig = Annotated[",
        insert='''
        class DotsConfig(DatasetConfig):
            """Dots."""

            name: Literal["dots"] = "dots"
            """Data set."""

        ''',
    )
    copy.edit("samtune/config/data.py", "    | ParquetConfig,\n", insert="    | DotsConfig\n")
    copy.edit("samtune/data/sources/__init__.py", "    DigitsConfig,\n", insert="    DotsConfig,\n")
    copy.edit(
        "samtune/data/sources/__init__.py",
        "        case DigitsConfig():\n",
        indent=8,
        insert="""\
        case DotsConfig():
            from samtune.data.sources.mine import DotsSource

            return DotsSource()
        """,
    )
    program = """
        from samtune import SearchSpace
        from samtune.data import load_dataset
        space = SearchSpace.from_yaml("digits.yaml", ["data={name: dots}", "model={name: mlp, depth: 2, width: 4}"])
        data = load_dataset(space.trial({}).data)
        print(data.num_classes, tuple(data.load_test().images.shape))
    """
    assert copy.run("-c", dedent(program)) == "2 (20, 1, 4, 4)\n"


@recipe("copy", ["Add a sampler"], indirect=True)
def test_a_sampler_is_known_to_the_yaml_and_made(copy: Copy) -> None:
    copy.edit(
        "samtune/config/samplers.py",
        "\nclass CustomSamplerConfig(Config):",
        insert='''
        class PlainConfig(Config):
            """TPE with its defaults."""

            name: Literal["plain"] = "plain"
            """Sampler."""

        ''',
    )
    copy.edit(
        "samtune/config/samplers.py",
        "    | Annotated[RandomConfig",
        insert='    | Annotated[PlainConfig, Tag("plain")]\n',
    )
    copy.edit("samtune/tune/optuna_samplers.py", "    CustomSamplerConfig,\n", insert="    PlainConfig,\n")
    copy.edit(
        "samtune/tune/optuna_samplers.py",
        "        case CMAESConfig():\n",
        indent=8,
        insert="""\
        case PlainConfig():
            return samplers.TPESampler(seed=seed)
        """,
    )
    program = """
        from samtune import SearchSpace
        from samtune.tune.optuna_samplers import build_sampler
        space = SearchSpace.from_yaml("digits.yaml", ["sampler={name: plain}"])
        print(type(build_sampler(space.sampler, 0, False)).__name__)
    """
    assert copy.run("-c", dedent(program)) == "TPESampler\n"


@recipe("copy", ["Add a command"], indirect=True)
def test_a_command_is_in_the_help_and_runs(copy: Copy) -> None:
    copy.add(
        "samtune/cli/NAME.py",
        '''
        def hello() -> None:
            """Greet."""
            print("hello")
        ''',
    )
    copy.edit(
        "samtune/cli/app.py", "from samtune.cli.papers import papers\n", insert="from samtune.cli.mine import hello\n"
    )
    path = copy.file("samtune/cli/app.py")
    path.write_text(re.sub(r"\*\(spaces,", "*(spaces, hello,", path.read_text()))
    assert copy.run("-m", "samtune", "hello") == "hello\n"
    assert "Greet." in copy.run("-m", "samtune", "--help")
