"""The methods as a search space sees them: names, bounds, defaults, messages, passes."""

from __future__ import annotations

import math

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from samtune.config.field_texts import field_texts
from samtune.config.method import BuiltinMethodConfig, MethodConfig, SAMConfig
from samtune.config.sections import config_classes, names_of

ADAPTER = TypeAdapter(MethodConfig)
CLASSES = list(config_classes(BuiltinMethodConfig))


def parse(text):
    return ADAPTER.validate_python(yaml.safe_load(text))


def refusal(text):
    with pytest.raises(ValidationError) as caught:
        parse(text)
    return caught.value.errors()[0]["msg"]


def test_names():
    assert {name for config in CLASSES for name in names_of(config)} == {
        *("sgd", "adamw", "sam", "asam", "ssam_f", "ssam_d", "gsam", "looksam", "momentum_sam"),
        *("usam", "wsam", "fsam", "vasso", "rwp", "aesam", "esam", "fisher_sam", "mesa"),
        *("trace_sam", "frob_sam", "det_sam", "universal"),
    }


@pytest.mark.parametrize("config", CLASSES, ids=lambda config: config.__name__)
def test_every_field_is_described_and_survives_a_round_trip_through_yaml(config):
    assert field_texts(config).keys() == config.model_fields.keys()
    made = config()
    assert ADAPTER.validate_python(yaml.safe_load(yaml.safe_dump(made.model_dump(mode="json")))) == made


@pytest.mark.parametrize("text", ["inf", ".inf", "'inf'"])
def test_p_may_be_infinite(text):
    assert parse(f"{{name: sam, p: {text}}}").p == math.inf
    assert parse(f"{{name: asam, p: {text}}}").p == math.inf


def test_m_is_a_number_or_a_word():
    assert [parse(f"{{name: sam, m: {m}}}").m for m in ("worker", "global", "16")] == ["worker", "global", 16]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: sam, rho: -0.1}", "Input should be greater than or equal to 0"),
        ("{name: sam, rho: .inf}", "Input should be a finite number"),
        ("{name: sam, p: 0.5}", "Input should be greater than or equal to 1"),
        ("{name: sam, p: .nan}", "Input should be greater than or equal to 1"),
        ("{name: sam, m: 0}", "Input should be greater than or equal to 1"),
        ("{name: asam, p: 3}", "Value error, must be 2 or inf (got 3)"),
        ("{name: sgd, rho: 0.1}", "Extra inputs are not permitted"),
        ("{name: frob_sam, num_directions: 1}", "Input should be greater than or equal to 2"),
        ("{name: ssam_f, sparsity: 1.0}", "Input should be less than 1"),
        (
            "{name: sam, second_order: true, p: 3}",
            "Value error, second_order needs p = 2, ascent_steps = 1 and ascent gradient "
            "(p is 3.0, ascent_steps 1, ascent gradient)",
        ),
        (
            "{name: sam, ascent: random, ascent_steps: 2}",
            "Value error, ascent random needs p = 2 and ascent_steps = 1 (p is 2.0, ascent_steps 2)",
        ),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("{name: sgd}", 1),
        ("{name: adamw}", 1),
        ("{name: sam}", 2),
        ("{name: sam, rho: 0.0}", 1),
        ("{name: sam, rho: 0.0, rho_schedule: linear, rho_final: 0.1}", 2),
        ("{name: sam, rho: 0.0, rho_schedule: linear}", 1),
        ("{name: sam, ascent: random}", 1),
        ("{name: sam, ascent_steps: 4}", 5),
        ("{name: sam, second_order: true}", 4),
        ("{name: asam}", 2),
        ("{name: ssam_f}", 2),
        ("{name: ssam_d}", 2),
        ("{name: gsam}", 2),
        ("{name: looksam, k: 5}", 1.2),
        ("{name: momentum_sam}", 1),
        ("{name: rwp}", 1),
        ("{name: aesam}", 1.5),
        ("{name: aesam, threshold_start: 0.0, threshold_end: 0.0}", 1.5),
        ("{name: esam}", pytest.approx(4 / 3 + 0.5)),
        ("{name: esam, gamma: 1.0}", 2),
        ("{name: fisher_sam}", 2),
        ("{name: mesa}", pytest.approx(4 / 3)),
        ("{name: rwp, mix: 0.5}", 2),
        ("{name: fsam, every: 4}", 1.25),
        ("{name: trace_sam}", 2),
        ("{name: frob_sam}", 3),
        ("{name: det_sam}", 2),
        ("{name: universal, num_directions: 3}", 4),
    ],
)
def test_passes_per_step(text, passes):
    assert parse(text).passes_per_step == passes


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_rho_schedule_goes_from_rho_to_rho_final(schedule):
    config = SAMConfig(rho=0.4, rho_schedule=schedule, rho_final=0.2)
    assert config.rho_at(0.0) == pytest.approx(0.4)
    assert config.rho_at(0.5) == pytest.approx(0.4 if schedule == "constant" else 0.3)
    assert config.rho_at(1.0) == pytest.approx(0.4 if schedule == "constant" else 0.2)
