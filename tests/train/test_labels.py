"""Training labels that are not the files': changed at random, or predicted by a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.hosted import LocalHost
from helpers.midway import begin, make_spec
from helpers.ranks import run_ranks

from samtune.config.trial import TrialSpec, data_digest
from samtune.data import load_dataset
from samtune.errors import UsageError
from samtune.models.saved import load_model
from samtune.preflight import check_relabel
from samtune.train.labels import keep_changed_labels
from samtune.train.loops import train_trial
from samtune.train.session import Place
from samtune.train.trial import TrialRun

NOISY = ("data.num_train=1200", "data.label_noise=0.3", "resources.num_workers=1")


def labels_of(rank: int, num_workers: int, spec: TrialSpec) -> torch.Tensor:
    return begin(spec, rank, num_workers).dataset.train.labels


@pytest.fixture
def network(tmp_path: Path) -> str:
    """A network that was trained on noisy labels."""
    run = begin(make_spec(*NOISY))
    assert isinstance(run, TrialRun)
    for epoch in (1, 2, 3):
        run.train_epoch(epoch)
    run.save_weights(str(tmp_path / "best.safetensors"))
    return str(tmp_path / "best.safetensors")


def test_the_predictions_of_a_network_take_the_place_of_the_labels(network: str) -> None:
    noisy, spec = make_spec(*NOISY), make_spec(*NOISY, f"data.relabel={network}")
    before = load_dataset(noisy.data)
    after = begin(spec).dataset
    inputs = before.train.images.float() / 255
    assert torch.equal(after.train.labels, load_model(network)(inputs).argmax(1))
    assert torch.equal(after.validation.labels, before.validation.labels)
    assert torch.equal(after.train.indices, before.train.indices)
    clean = load_dataset(make_spec("data.num_train=1200", "resources.num_workers=1").data).train.labels
    wrong_before, wrong_after = (before.train.labels != clean).sum(), (after.train.labels != clean).sum()
    assert wrong_after < wrong_before / 2  # what the protocol is for
    assert torch.equal(after.flipped, after.train.indices[after.train.labels != clean])
    assert torch.equal(load_dataset(noisy.data).train.labels, before.train.labels)  # which others share: unchanged


def test_every_rank_predicts_its_share(network: str) -> None:
    spec = make_spec(*NOISY, f"data.relabel={network}")
    alone, both = labels_of(0, 1, spec), run_ranks(2, labels_of, spec)
    assert torch.equal(both[0], alone)
    assert torch.equal(both[1], alone)


def test_what_was_changed_is_written_once(network: str, tmp_path: Path) -> None:
    folder = tmp_path / "label_noise"
    keep_changed_labels([begin(make_spec()).dataset], make_spec(), str(folder))
    assert not folder.exists()
    for spec in (make_spec(*NOISY), make_spec(*NOISY, f"data.relabel={network}")):
        dataset = begin(spec).dataset
        keep_changed_labels([dataset], spec, str(folder))
        (file,) = folder.glob(f"{data_digest(spec.params())}.json")
        written = file.read_text()
        assert json.loads(written) == dataset.label_noise()
        assert {row for row, _, _ in json.loads(written)["flipped"]} == set(dataset.flipped.tolist())
        file.write_text("{}")
        keep_changed_labels([dataset], spec, str(folder))
        assert file.read_text() == "{}"
    assert len(list(folder.iterdir())) == 2


def test_what_was_changed_in_each_fold_is_written(tmp_path: Path) -> None:
    spec = make_spec(*NOISY, "data.num_train=300", "data.folds=3")
    train_trial(spec, Place(0, 1, torch.device("cpu")), LocalHost(str(tmp_path), until=1))
    (file,) = (tmp_path / "label_noise").iterdir()
    written = json.loads(file.read_text())
    assert written["flipped"] == written["flipped_of_each"][0] != written["flipped_of_each"][1]
    clean = load_dataset(spec.data.model_copy(update={"folds": None, "label_noise": 0.0}))
    true = dict(zip(clean.train.indices.tolist(), clean.train.labels.tolist(), strict=True))
    for fold, entries in enumerate(written["flipped_of_each"]):
        train = load_dataset(spec.data, fold).train
        noisy = dict(zip(train.indices.tolist(), train.labels.tolist(), strict=True))
        assert len(entries) == round(0.3 * len(noisy))
        assert all(noisy[row] == new != old for row, old, new in entries)
        unchanged = noisy.keys() - {row for row, _, _ in entries}
        assert all(noisy[row] == true[row] for row in unchanged & true.keys())


def test_a_network_that_is_not_there_is_found_before_anything_starts(tmp_path: Path) -> None:
    check_relabel(None)
    with pytest.raises(UsageError, match=r"data\.relabel: .*none\.safetensors is not there: `samtune train` leaves"):
        check_relabel(str(tmp_path / "none.safetensors"))
    with pytest.raises(UsageError, match=r"data\.relabel: abc://x cannot be read"):
        check_relabel("abc://x")


def test_a_network_of_other_classes_is_refused(network: str) -> None:
    spec = make_spec(*NOISY)
    dataset = load_dataset(spec.data)
    from samtune.train.labels import relabelled

    dataset.traits = type(dataset.traits)(**{**vars(dataset.traits), "num_classes": 7})
    with pytest.raises(UsageError, match=r"data\.relabel: the network tells 10 classes apart, the data set 7"):
        relabelled(dataset, network, spec.model, rank=0, num_workers=1, device=torch.device("cpu"))


def test_noise_of_the_trials_own_seed(tmp_path: Path) -> None:
    """`label_noise_seed: trial`: each repeat and replica has its own wrong labels, as many of them, kept apart."""
    first, again, other = (
        make_spec(*NOISY, "data.label_noise_seed=trial").model_copy(update={"seed": seed}) for seed in (3, 3, 4)
    )
    labels = [labels_of(0, 1, spec) for spec in (first, again, other)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    fixed = make_spec(*NOISY, "data.label_noise_seed=3")
    assert torch.equal(labels[0], labels_of(0, 1, fixed))
    for spec in (first, other):
        keep_changed_labels([begin(spec).dataset], spec, str(tmp_path))
    written = [json.loads((tmp_path / f"{data_digest(spec.params())}.json").read_text()) for spec in (first, other)]
    assert [record["label_noise_seed"] for record in written] == [3, 4]
    assert written[0]["flipped"] != written[1]["flipped"]
    assert len(written[0]["flipped"]) == len(written[1]["flipped"])
