"""The data and model sections of a search space: descriptions, round trip, strictness."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from samtune.config.base import Config
from samtune.config.data import DataConfig
from samtune.config.field_texts import field_texts
from samtune.config.library_model import LibraryModelConfig
from samtune.config.model import ModelConfig
from samtune.config.sections import config_classes

CONFIGS = [*config_classes(DataConfig), *config_classes(ModelConfig)]
REQUIRED = {"image_folder": {"image_size": 32}}


def names_of(config: type[Config]) -> tuple[str, ...]:
    """One's own parts have any import path for a name, a library's networks one with its prefix."""
    if issubclass(config, LibraryModelConfig):
        return (f"{config.library}:vit_tiny",)
    return get_args(config.model_fields["name"].annotation) or ("my_package.parts:make",)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
class TestEveryConfig:
    def test_every_field_is_described(self, config: type[Config]) -> None:
        assert config.__doc__
        texts = field_texts(config)
        assert texts.keys() == config.model_fields.keys()
        assert [name for name, text in texts.items() if not text.endswith(".")] == []

    def test_is_chosen_by_its_name_and_survives_a_round_trip(self, config: type[Config]) -> None:
        adapter = TypeAdapter(DataConfig if config.__module__ == "samtune.config.data" else ModelConfig)
        for name in names_of(config):
            parsed = adapter.validate_python({"name": name, **REQUIRED.get(name, {})})
            assert type(parsed) is config
            assert adapter.validate_json(adapter.dump_json(parsed)) == parsed
            if config.__module__ == "samtune.config.data":  # a process keeps data sets by their configuration
                assert hash(adapter.validate_python(parsed.model_dump())) == hash(parsed)

    def test_unknown_keys_are_refused(self, config: type[Config]) -> None:
        name = names_of(config)[0]
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            config.model_validate({"name": name, **REQUIRED.get(name, {}), "no_such_key": 1})


def test_names_are_unique() -> None:
    names = [name for config in CONFIGS for name in names_of(config) if ":" not in name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_fraction": -0.1}, "greater than or equal to 0"),
        ({"validation_fraction": 1.0}, "less than 1"),
        ({"fraction": 0.0}, "greater than 0"),
        ({"fraction": 1.1}, "less than or equal to 1"),
        ({"num_train": 1}, "greater than or equal to 2"),
        ({"num_train": 10.5}, "valid integer"),
        ({"label_noise": -0.1}, "greater than or equal to 0"),
        ({"label_noise": 1.5}, "less than or equal to 1"),
        ({"augmentation": "flip"}, "'none', 'basic'"),
        ({"cutout": -1}, "greater than or equal to 0"),
        ({"mixup": "1"}, "valid number"),
        ({"download": "yes"}, "valid boolean"),
    ],
)
def test_values_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(DataConfig).validate_python({"name": "cifar10", **change})
