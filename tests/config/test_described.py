"""What `samtune models | data | methods | samplers` say is what a space takes."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.config.described import part_of, parts_of
from samtune.config.sections import classes_of, fields_of, keys_of, names_of
from samtune.errors import UsageError

SECTIONS = {"model": "models", "data": "data", "method": "methods", "sampler": "samplers"}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_choice_is_listed_with_its_keys(section: str) -> None:
    parts = parts_of(section)
    names = [name for cls in classes_of(section) for name in names_of(cls)]
    assert [part.name for part in parts if ":" not in part.name] == names
    for name in names:
        part = part_of(section, name)
        assert {key.name for key in part.keys} == set(keys_of(section, name)) - {"name"}
        assert part.summary.endswith(".")
        assert all(key.rule for key in part.keys)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_default_that_is_shown_is_the_default(section: str) -> None:
    for cls in classes_of(section):
        for name in names_of(cls):
            shown = {key.name: key for key in part_of(section, name).keys}
            for key, field in fields_of(cls).items():
                if key == "name":
                    continue
                assert (shown[key].default == "required") is field.is_required()
                if isinstance(field.default, int) and not isinstance(field.default, bool):
                    assert shown[key].default == str(field.default)


def test_ranges_are_those_that_are_enforced() -> None:
    keys = {key.name: key for key in part_of("method", "gsam").keys}
    assert next(iter(keys)) == "alpha"  # its own first
    assert (keys["alpha"].rule, keys["alpha"].default) == ("number >= 0", "0.4")
    assert keys["m"].rule == "integer >= 1 or worker, global"
    assert keys["probability"].rule == "number from 0 to 1"
    assert keys["rho_warmup"].rule == "number > 0 and <= 1"
    (gsam,) = classes_of("method", "gsam")
    for wrong in ({"alpha": -0.1}, {"m": 0}, {"probability": 1.1}, {"rho_warmup": 0.0}):
        with pytest.raises(ValidationError):
            gsam(**wrong)
    assert part_of("sampler", "tpe").to_dict()["keys"][0]["rule"] == "integer >= 1"


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="gsan: no such method; did you mean 'gsam'"):
        part_of("method", "gsan")


@pytest.mark.parametrize(("section", "command"), SECTIONS.items())
def test_the_commands_print_both(section: str, command: str) -> None:
    listed = CliRunner().invoke(app, [command])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [part.name for part in parts_of(section)]
    name = parts_of(section)[0].name
    shown = CliRunner().invoke(app, [command, name])
    for key in part_of(section, name).keys:
        assert f"\n{key.name}: {key.rule} (" in shown.stdout
    parsed = json.loads(CliRunner().invoke(app, [command, name, "--json"]).stdout)
    assert parsed == json.loads(json.dumps(part_of(section, name).to_dict()))
