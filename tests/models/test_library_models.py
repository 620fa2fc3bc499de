"""Networks of timm and transformers by name: fitted to the data, weights from files, nothing downloaded."""

from __future__ import annotations

import argparse
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from samtune.cli.parts import models
from samtune.config.library_model import TimmConfig, TransformersConfig, refuse_missing_library
from samtune.config.space import SearchSpace
from samtune.errors import SpaceError, UsageError
from samtune.experiments.plan_checks import check_space
from samtune.models import build_model, load_model
from samtune.train.first_batch import try_first_batch
from samtune.train.trial import TrialRun
from samtune.user_source import named_functions

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES, TEXT = (1, 32, 32), {"input_ids": (6,), "attention_mask": (6,), "labels": ()}
SMALL = {"dim": 8, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 20, "max_position_embeddings": 6}
SMALL_VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing in this thread connects to the network, not even to go on without it."""
    connect, addresses = socket.socket.connect, []

    def refuse(self: socket.socket, address: Any) -> None:
        if threading.current_thread() is not threading.main_thread():  # what other tests have begun
            return connect(self, address)
        addresses.append(address)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not addresses


def of_timm(name: str = "test_vit", num_classes: int = 3, shape: Any = IMAGES, **keys: Any) -> nn.Module:
    pytest.importorskip("timm", reason="needs the extra `timm`")
    return build_model(TimmConfig(name=f"timm:{name}", **keys), num_classes=num_classes, input_shape=shape, seed=0)


def of_transformers(name: str = "distilbert", num_classes: int = 3, shape: Any = TEXT, **keys: Any) -> nn.Module:
    pytest.importorskip("transformers", reason="needs the extra `transformers`")
    config = TransformersConfig(name=f"transformers:{name}", **keys)
    return build_model(config, num_classes=num_classes, input_shape=shape, seed=0)


def equal(one: nn.Module, other: nn.Module, *, but: str = "-") -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items() if but not in key)


class TestTimm:
    @pytest.mark.parametrize("name", ["test_vit", "test_resnet", "resnet18.a1_in1k"])  # there are weights of all
    def test_a_network_suits_the_data(self, name: str) -> None:
        model = of_timm(name)
        assert equal(model, of_timm(name))
        assert not equal(model, build_model(TimmConfig(name=f"timm:{name}"), num_classes=3, input_shape=IMAGES, seed=1))
        assert model(torch.zeros(2, *IMAGES)).shape == (2, 3)

    def test_options_are_the_architecture_s(self) -> None:
        model = of_timm(options={"drop_path_rate": 0.25, "img_size": 48})
        assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.25)
        assert model(torch.zeros(2, 1, 48, 48)).shape == (2, 3)

    @pytest.mark.parametrize("kind", ["a.safetensors", "a.pth", "checkpoint.pth.tar"])
    def test_weights_in_timm_s_formats(self, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        donor, path = of_timm(num_classes=3), tmp_path / kind
        state = {key: value + 1 for key, value in donor.state_dict().items()}
        if kind.endswith(".safetensors"):
            save_file(state, path)
        elif kind.endswith(".pth"):
            torch.save(state, path)
        else:  # as train.py writes it, distributed
            wrapped = {f"module.{key}": value for key, value in state.items()}
            torch.save({"epoch": 1, "arch": "test_vit", "state_dict": wrapped, "args": argparse.Namespace(lr=1)}, path)
        donor.load_state_dict(state)
        caplog.set_level(logging.INFO, "samtune")
        assert equal(of_timm(num_classes=3, weights=str(path)), donor)
        assert not [record for record in caplog.records if record.name.startswith("samtune")]
        other = of_timm(num_classes=5, weights=str(path))
        assert equal(other, donor, but="head.")
        assert other.head.weight.shape == (5, 64)
        assert f"{path}: its head of 3 classes is left out; the new one of 5 starts afresh" in caplog.text

    def test_weights_for_other_images_are_fitted(self, tmp_path: Path) -> None:
        donor, path = of_timm(shape=(3, 64, 64)), tmp_path / "a.pth"
        torch.save(donor.state_dict(), path)
        model = of_timm(weights=str(path))
        expected = donor.patch_embed.proj.weight.sum(dim=1, keepdim=True)  # a gray image is three equal channels
        torch.testing.assert_close(model.patch_embed.proj.weight, expected)
        assert model.pos_embed.shape == (1, 1 + 2 * 2, 64)
        assert torch.equal(model.blocks[0].attn.qkv.weight, donor.blocks[0].attn.qkv.weight)

    def test_what_does_not_fit_is_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pth"
        torch.save(of_timm().state_dict(), path)
        for arguments, message in (
            ({"name": "tst_vit"}, r"^model\.name: timm has no tst_vit; did you mean 'test_vit'\?$"),
            ({"name": "hf-hub:timm/resnet18"}, r"^model\.name: timm has no hf-hub:timm/resnet18"),
            ({"options": {"drop_path_rat": 0.1}}, r"^model\.options\.drop_path_rat: unknown .* 'drop_path_rate'\?$"),
            ({"options": {"patch_size": "large"}}, r"^model\.name: timm:test_vit refuses its options: "),
            ({"name": "test_resnet", "weights": str(path)}, r"^model\.weights: .*a\.pth is not of this network \("),
            ({"weights": str(tmp_path)}, r"^model\.weights: .* cannot be read \(Is a directory\)$"),
            ({"shape": (4,)}, r"^model\.name timm:test_vit needs images"),
        ):
            with pytest.raises(UsageError, match=message) as caught:
                of_timm(**arguments)  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)


class TestTransformers:
    def test_a_network_suits_the_data(self) -> None:
        ids = {"input_ids": torch.zeros(2, 6, dtype=torch.long), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
        assert of_transformers(options=SMALL)(**ids).logits.shape == (2, 3)
        images = torch.zeros(2, *IMAGES)
        for name in ("vit", "ViTForImageClassification"):
            model = of_transformers(name, shape=IMAGES, options=SMALL_VIT)
            assert model(images).logits.shape == (2, 3)
            assert model.config.image_size == 32
        with torch.device("meta"):
            assert of_transformers("hiera", shape=(3, 224, 224)).config.image_size == [224, 224]
            assert of_transformers("vit", shape=(3, 32, 48)).config.image_size == [32, 48]

    def test_weights_of_a_folder_and_of_a_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        donor = of_transformers(options=SMALL)
        donor.save_pretrained(tmp_path)
        caplog.set_level(logging.INFO, "samtune")
        for weights, options in ((tmp_path, {}), (tmp_path / "model.safetensors", SMALL)):
            assert equal(of_transformers(weights=str(weights), options=options), donor)
            assert not caplog.records
            other = of_transformers(num_classes=5, weights=str(weights), options=options)
            assert equal(other, donor, but="classifier.")
            assert other.classifier.weight.shape == (5, 8)
            assert "classifier.bias, classifier.weight of 5 classes start afresh" in caplog.text
            caplog.clear()

    def test_what_does_not_fit_is_one_line(self, tmp_path: Path) -> None:
        of_transformers(options=SMALL).save_pretrained(tmp_path)
        weights, empty = str(tmp_path), tmp_path / "empty"
        empty.mkdir()
        for arguments, message in (
            ({"name": "distilbrt"}, r"^model\.name: transformers has no classifier distilbrt; did you mean 'distilb"),
            ({"shape": IMAGES}, r"^model\.name: transformers:distilbert classifies text, and the data has images$"),
            ({"name": "vit"}, r"^model\.name: transformers:vit classifies images, and the data has no images$"),
            ({"options": {"hidden_dimm": 2}}, r"^model\.options\.hidden_dimm: unknown .* 'hidden_dim'\?$"),
            ({"options": {"dim": "wide"}}, r"^model\.options: transformers:distilbert refuses its options: .*dim"),
            ({"options": {**SMALL, "n_heads": 3}}, r"^model\.name: transformers:distilbert refuses .*n_heads 3"),
            ({"name": "bert", "weights": weights}, r"config\.json is of type distilbert: write model\.name transf"),
            ({"weights": str(empty)}, r"^model\.weights: .*config\.json cannot be read"),
            ({"weights": weights, "options": {"dim": 16}}, r"is not of this network \(distilbert\..* is \(8,\), exp"),
            ({"weights": weights, "options": {"n_layers": 2}}, r"is not of this network \(16 names are missing, as"),
        ):
            with pytest.raises(UsageError, match=message) as caught:
                of_transformers(**arguments)  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)

    def test_code_that_a_folder_names_does_not_run(self, tmp_path: Path) -> None:
        of_transformers(options=SMALL).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(file.read_text().replace("{", '{"auto_map": {"AutoConfig": "evil.Config"}, ', 1))
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        of_transformers(weights=str(tmp_path))
        assert not (tmp_path / "ran").exists()


def space(model: Any, data: Any = "digits", **training: Any) -> SearchSpace:
    method = {"name": "sam", "rho": 0.05, "m": 8}
    training = {"epochs": 1, "batch_size": 16, "lr": 0.05, **training}
    return SearchSpace.from_dict(
        {"name": "small", "model": model, "data": data, "method": method, "training": training}
    )


def test_options_are_searched_and_names_too() -> None:
    pytest.importorskip("timm", reason="needs the extra `timm`")
    rate = {"uniform": [0.0, 0.2]}
    found = space({"name": {"choice": ["timm:test_vit", "timm:test_resnet"]}, "options": {"drop_path_rate": rate}})
    assert check_space(found) == []
    assert named_functions(found.model_dump()) == []  # nothing of the user's is imported
    trial = found.trial({"model.name": "timm:test_resnet", "model.options.drop_path_rate": 0.1})
    assert trial.model == TimmConfig(name="timm:test_resnet", options={"drop_path_rate": 0.1})


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "num_classes"])
def test_what_is_no_option_is_refused_at_its_line(key: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"name: a\ndata: digits\nmethod: sam\nmodel:\n  name: timm:test_vit\n  options: {{{key}: 1}}\n")
    with pytest.raises(SpaceError, match=rf"a\.yaml:6: model\.options: must not have {key}: "):
        SearchSpace.from_yaml(file)


def test_a_space_is_refused_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the extra `timm`")
    with pytest.raises(UsageError, match=r"^model\.name: timm has no vit_smal_patch16_224; did you mean 'vit_small_p"):
        check_space(space("timm:vit_smal_patch16_224"))
    torch.save(of_timm(shape=(3, 64, 64)).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"^model\.weights: .* is not of this network"):
        check_space(space({"name": "timm:test_resnet", "weights": str(tmp_path / "a.pth")}))
    with pytest.raises(UsageError, match=r"^model\.name: samtunes-own is not installed: pip install 'samtune\[samtun"):
        refuse_missing_library("samtunes-own")


def test_the_installed_ones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="needs the extra `timm`")
    models("timm:test_vi*")
    assert "timm:test_vit\n" in capsys.readouterr().out
    models("timm:test_vit")
    assert "weights: text or none" in capsys.readouterr().out
    models()
    assert "transformers:architecture" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"timm has no such network; did you mean 'test_vit'\?$"):
        models("timm:tst_vit")


@pytest.mark.parametrize(
    ("library", "model", "data"),
    [
        ("timm", {"name": "timm:test_vit", "options": {"patch_size": 4}}, {"name": "digits", "num_train": 64}),
        (
            "transformers",
            {"name": "transformers:distilbert", "options": SMALL},
            {"name": "helpers.hf_parts:load", "validation_fraction": 0.25},
        ),
    ],
)
def test_a_trial_trains_one_and_its_weights_are_loaded_again(
    library: str, model: Any, data: Any, tmp_path: Path
) -> None:
    pytest.importorskip(library, reason=f"needs the extra `{library}`")
    trial = space(model, data).trial({})
    try_first_batch(trial, 1, CPU)
    run = TrialRun(trial, rank=0, num_workers=1, device=CPU)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    record = run.train_epoch(1)
    assert 0 <= record["val_accuracy"] <= 1
    assert record["num_passes"] == 2
    assert not all(map(torch.equal, before, run.model.parameters()))
    run.save_weights(str(tmp_path / "best.safetensors"))
    loaded = load_model(tmp_path / "best.safetensors")
    assert equal(loaded[1], run.model)
