"""The JSON Schema says of a space what samtune says of it."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from samtune import SearchSpace
from samtune.config.builtin_spaces import builtin_spaces
from samtune.config.schema import space_schema
from samtune.config.yaml_source import parse_yaml

VALIDATOR = jsonschema.Draft202012Validator(space_schema())
HEAD = "name: t\ndata: {name: digits}\nmodel: {name: digits_cnn}\n"


def read(text: str) -> Any:
    return parse_yaml(text, "space.yaml").plain()


@pytest.mark.parametrize("name", builtin_spaces())
def test_every_shipped_space_follows_the_schema(name: str) -> None:
    VALIDATOR.validate(read(builtin_spaces()[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "method: {name: sam, rho: {log_uniform: [0.01, 0.5]}, p: inf}",
        "method: {name: {choice: [sgd, sam]}, rho: {uniform: [0, 1], step: 0.1}}",
        "method: {choice: [{name: sgd}, {name: frob_sam, lambda: {log_uniform: [0.1, 1]}, num_samples: 4}]}",
        "method: {choice: [{name: sgd}, {choice: [{name: sam}, {name: asam}]}]}",
        "method: {name: sam}\ntraining: {weight_decay: {expr: '5e-4 * lr'}, milestones: [3, {int: [4, 6]}]}",
        "method: {name: sam}\ntraining: {milestones: {choice: [[3, 5], [4]]}, batch_size: {log_int: [32, 128]}}",
        "method: {name: sam, rho: {grid: [0.1, 0.2]}}\nconstraints: ['rho < 1']\nbudget: {seconds: 60}",
        "method: {name: sam}\nobjective: [{metric: val_accuracy}, {metric: sharpness, epochs: 3}]",
        "method: {name: sam}\nobjective: {metric: val_loss, epochs: best}\nsampler: {name: 'a.b:C', options: {n: 3}}",
        "method: sam\nsampler: random\nscheduler: asha",
        "method: {choice: [sgd, {name: sam, rho: 0.1}]}",
        "search: {method: {choice: [{name: sgd}]}, training.lr: {uniform: [0.1, 0.2]}}",
    ],
)
def test_what_samtune_takes_the_schema_takes(text: str) -> None:
    SearchSpace.from_dict(read(HEAD + text))
    VALIDATOR.validate(read(HEAD + text))


@pytest.mark.parametrize(
    "text",
    [
        "method: {name: sam, roh: 0.1}",
        "method: {name: smm}",
        "method: {name: sam, rho: -1}",
        "method: {name: sam, rho: {log_unifrom: [0.1, 1]}}",
        "method: {name: sam, rho: {log_uniform: [0.1]}}",
        "method: {name: sam, rho: {log_uniform: [0.1, 1], step: 0.1}}",
        "method: {choice: [{name: sgd}, {name: sam, roh: 0.1}]}",
        "method: {name: sam}\nsearch: {training.lr: 0.1}",
        "method: {name: sam}\ntraining: {schedule: cosin}",
        "method: {name: sam}\nobjective: []",
        "method: {name: sam}\nsampler: {name: gpp}",
        "method: {name: sam}\nlayers: 3",
    ],
)
def test_what_samtune_refuses_the_schema_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="space"):
        SearchSpace.from_dict(read(HEAD + text))
    assert not VALIDATOR.is_valid(read(HEAD + text))


def test_an_editor_is_told_what_each_key_means() -> None:
    schema = space_schema()
    for name, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert value.get("description") or "const" in str(value), f"{name}.{key}"
