"""Networks, data, losses and metrics of the user's: trained like samtune's own, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from samtune.config.data import OwnDataConfig
from samtune.config.model import DigitsCnnConfig, OwnModelConfig, TorchvisionConfig
from samtune.config.space import SearchSpace
from samtune.config.training import TrainingConfig
from samtune.data import check_dataset, dataset_info, load_dataset, train_batches
from samtune.errors import UsageError
from samtune.preflight import check_model, check_training
from samtune.train.trial import TrialRun

CPU = torch.device("cpu")


def run_of(**sections: Any) -> TrialRun:
    raw = {
        "name": "own",
        "data": {"name": "helpers.own_parts:blobs", "options": {"count": 400}},
        "model": {"name": "helpers.own_parts:make_net", "options": {"width": 6}},
        "method": {"name": "sam", "rho": 0.1, "m": 20},
        "training": {"epochs": 3, "batch_size": 40, "lr": 0.3},
    }
    spec = SearchSpace.from_dict({**raw, **sections}).trial({})
    return TrialRun(spec, rank=0, num_workers=1, device=CPU)


def test_own_network_and_tensors_are_trained() -> None:
    run = run_of()
    assert isinstance(run.model[1], nn.Linear)
    assert run.model[1].weight.shape == (6, 2)
    for epoch in (1, 2, 3):
        record = run.train_epoch(epoch)
    assert record["val_accuracy"] > 0.85  # two Gaussians, 2·√2 apart
    assert record["num_passes"] == 6.0
    assert len(run.dataset.train) == 360
    assert len(run.dataset.load_test()) == 200


def test_own_loss_and_metrics() -> None:
    training = {"epochs": 1, "batch_size": 40, "lr": 1e-6, "metrics": ["helpers.own_parts:share_of_zeros"]}
    plain = run_of(training=training).train_epoch(1)
    doubled = run_of(training={**training, "loss": "helpers.own_parts:twice_cross_entropy"}).train_epoch(1)
    assert doubled["train_loss"] == pytest.approx(2 * plain["train_loss"], rel=1e-3)
    assert doubled["val_loss"] == pytest.approx(2 * plain["val_loss"], rel=1e-3)
    assert doubled["val_accuracy"] == plain["val_accuracy"]
    assert 0 <= plain["val_share_of_zeros"] <= 1
    space = {"name": "own", "data": {"name": "digits"}, "model": {"name": "mlp"}, "method": {"name": "sgd"}}
    objective = {"metric": "val_share_of_zeros", "mode": "min"}
    SearchSpace.from_dict({**space, "training": training, "objective": objective})
    with pytest.raises(UsageError, match=r"unknown metric 'val_share_of_zeroes'; did you mean 'val_share_of_zeros'\?"):
        SearchSpace.from_dict({**space, "training": training, "objective": {"metric": "val_share_of_zeroes"}})


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_torch_dataset_that_augments_is_keyed_by_the_example(processes: int) -> None:
    config = OwnDataConfig(name="helpers.own_parts:noisy", loader_processes=processes, validation_fraction=0.1)
    dataset = load_dataset(config)

    def inputs(num_workers: int, epoch: int) -> torch.Tensor:
        where: dict[str, Any] = {"batch_size": 18, "seed": 4, "epoch": epoch, "device": CPU}
        ranks = [
            list(train_batches(dataset, config, rank=rank, num_workers=num_workers, **where))
            for rank in range(num_workers)
        ]
        return torch.cat([torch.cat([share[0] for share in shares]) for shares in zip(*ranks, strict=True)])

    first = inputs(1, 0)
    assert torch.equal(inputs(2, 0), first)
    assert torch.equal(inputs(1, 0), first)
    numbers = first.floor()[:, 0].long()
    assert sorted(numbers.tolist()) == dataset.train.indices.tolist()
    again = inputs(1, 1)
    same = again[again.floor()[:, 0].long().argsort()] == first[numbers.argsort()]
    assert not same.any()  # the next epoch draws anew
    if processes == 0:
        return
    alone = load_dataset(config.model_copy(update={"loader_processes": 0}))
    where: dict[str, Any] = {"batch_size": 18, "rank": 0, "num_workers": 1, "seed": 4, "epoch": 0, "device": CPU}
    assert torch.equal(torch.cat([batch for batch, _ in train_batches(alone, alone.config, **where)]), first)


def test_own_images_are_augmented_and_normalised() -> None:
    config = OwnDataConfig(name="helpers.own_parts:images", augmentation="basic", cutout=2, mixup=0.3)
    dataset = load_dataset(config)
    inputs, targets = next(
        train_batches(dataset, config, batch_size=72, rank=0, num_workers=1, seed=0, epoch=0, device=CPU)
    )
    assert inputs.dtype == torch.float32
    assert abs(float(inputs.mean())) < 0.3
    assert targets.shape == (72, 4)
    plain = next(
        train_batches(
            load_dataset(OwnDataConfig(name="helpers.own_parts:images")),
            OwnDataConfig(name="helpers.own_parts:images"),
            batch_size=72,
            rank=0,
            num_workers=1,
            seed=0,
            epoch=0,
            device=CPU,
        )
    )[0]
    assert float(plain.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(plain.std()) == pytest.approx(1.0, abs=0.02)


def test_sizes_are_known_before_a_worker_starts() -> None:
    config = OwnDataConfig(name="helpers.own_parts:blobs", options={"count": 50}, num_classes=3)
    check_dataset(config)
    info = dataset_info(config)
    assert (info.num_classes, info.input_shape, info.num_train, info.num_validation) == (3, (2,), 45, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "own_parst:blobs"}, "data.name: own_parst:blobs cannot be imported: No module named 'own_parst'"),
        ({"name": "helpers.own_parts:blops"}, "data.name: helpers.own_parts:blops cannot be imported: AttributeError"),
        ({"name": "helpers.own_parts:NOT_CALLABLE"}, "must be a function or a class (it is of type int)"),
        ({"name": "helpers.own_parts:blobs", "options": {"cuont": 3}}, "got an unexpected keyword argument 'cuont'"),
        ({"name": "helpers.own_parts:wrong"}, "data.name: helpers.own_parts:wrong: train: 4 inputs and 3 targets"),
        ({"name": "helpers.own_parts:blobs", "num_classes": 1}, "classes must be in 0..0 (found 1)"),
        ({"name": "helpers.own_parts:noisy", "validation_fraction": 0.0}, "has no test set to evaluate instead"),
        (
            {"name": "helpers.own_parts:make_net", "options": {"num_classes": 2, "input_shape": [2]}},
            "must return (train, test)",
        ),
    ],
)
def test_bad_data_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_dataset(OwnDataConfig(**options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_inputs_that_are_no_images_are_not_augmented() -> None:
    with pytest.raises(UsageError, match=r"data\.augmentation: helpers.own_parts:blobs gives no uint8 tensors"):
        load_dataset(OwnDataConfig(name="helpers.own_parts:blobs", augmentation="basic"))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            OwnModelConfig(name="helpers.own_parts:make_nte"),
            (2,),
            "model.name: helpers.own_parts:make_nte cannot be imported",
        ),
        (
            OwnModelConfig(name="helpers.own_parts:make_net", options={"depth": 3}),
            (2,),
            "unexpected keyword argument 'depth'",
        ),
        (DigitsCnnConfig(), (2,), "digits_cnn needs images [channels, height, width] (got inputs (2,))"),
        (DigitsCnnConfig(), (1, 3, 8), "needs images of at least 4x4 pixels (got 3x8)"),
        (TorchvisionConfig(), (1, 32, 32), "model.architecture resnet50 needs colour images (got 1 channels)"),
        (
            TorchvisionConfig(architecture="vit_b_16"),
            (3, 40, 40),
            "vit_b_16 needs square images of a multiple of 16 pixels (40x40)",
        ),
        (TorchvisionConfig(architecture="vgg16"), (3, 28, 28), "needs images of at least 32x32 pixels (got 28x28)"),
        (
            TorchvisionConfig(weights="nowhere.pth"),
            (3, 32, 32),
            "nowhere.pth cannot be read (No such file",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_one_line(
    model: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_model(model, num_classes=2, input_shape=shape)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "side"), [("alexnet", 63), ("vgg11", 32), ("densenet121", 29), ("squeezenet1_1", 17)])
def test_the_smallest_image_is_the_smallest_that_the_network_takes(name: str, side: int) -> None:
    from torchvision.models import get_model

    model = get_model(name, weights=None, num_classes=2).eval()
    config = TorchvisionConfig(architecture=name)  # type: ignore[arg-type]
    check_model(config, num_classes=2, input_shape=(3, side, side))
    model(torch.zeros(1, 3, side, side))
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, side - 1, side - 1))
    with pytest.raises(UsageError):
        check_model(config, num_classes=2, input_shape=(3, side - 1, side - 1))


def test_weights_that_no_library_wrote_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    config = TorchvisionConfig(weights=str(path))
    for legacy in (False, True):
        torch.save({}, path, _use_new_zipfile_serialization=not legacy)
        check_model(config, num_classes=2, input_shape=(3, 32, 32))
    save_file({"a": torch.zeros(1)}, path)
    check_model(config, num_classes=2, input_shape=(3, 32, 32))
    for save, kept in ((torch.save, -100), (save_file, 10)):
        save({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UsageError, match=r"not a file that torch\.save or safetensors wrote, or not all of it"):
            check_model(config, num_classes=2, input_shape=(3, 32, 32))


def test_a_function_that_returns_no_network_is_named() -> None:
    with pytest.raises(UsageError, match=r"helpers.own_parts:not_a_net must return a torch\.nn\.Module \(got str\)"):
        run_of(model={"name": "helpers.own_parts:not_a_net"})


def test_own_losses_and_metrics_are_checked() -> None:
    with pytest.raises(UsageError, match=r"training\.loss: helpers.own_parts:noisy.* cannot be called with \(…, …\)"):
        check_training(TrainingConfig(loss="helpers.own_parts:noisy"))
    with pytest.raises(UsageError, match=r"training\.metrics\.1: helpers.own_parts:nothing cannot be imported"):
        check_training(TrainingConfig(metrics=["helpers.own_parts:share_of_zeros", "helpers.own_parts:nothing"]))
    with pytest.raises(ValueError, match="label_smoothing needs loss cross_entropy"):
        TrainingConfig(loss="helpers.own_parts:twice_cross_entropy", label_smoothing=0.1)


def test_flipped_labels_are_told_with_what_they_were() -> None:
    run = run_of(data={"name": "helpers.own_parts:images", "label_noise": 0.25, "label_noise_seed": 5})
    told = run.dataset.label_noise()
    assert run_of().dataset.label_noise()["flipped"] == []
    assert (told["label_noise"], told["label_noise_seed"], len(told["flipped"])) == (0.25, 5, 18)
    labels = dict(zip(run.dataset.train.indices.tolist(), run.dataset.train.labels.tolist(), strict=True))
    for row, clean, noisy in told["flipped"]:
        assert clean == row % 4 != noisy == labels[row]
    changed = {row for row, _, _ in told["flipped"]}
    assert all(labels[row] == row % 4 for row in labels.keys() - changed)
    json.dumps(told)


@pytest.mark.parametrize(("fraction", "evaluated"), [(0.1, 1.0), (0.5, 1.0), (0.0, 2.0)])
def test_a_validation_set_of_ones_own(fraction: float, evaluated: float) -> None:
    """All of the training set is trained on; at 0 the test set is evaluated, as everywhere."""
    config = OwnDataConfig(name="helpers.own_parts:three_sets", validation_fraction=fraction)
    info, dataset = dataset_info(config), load_dataset(config)
    assert (info.num_train, len(dataset.train)) == (40, 40)
    assert info.num_validation == len(dataset.validation) == (10 if fraction else 0)
    split = dataset.validation if fraction else dataset.load_test()
    assert split.images[:, 0].unique().tolist() == [evaluated]
    assert dataset.train.images[:, 0].unique().tolist() == [0.0]


def test_three_sets_without_a_validation_set_hold_a_share_out() -> None:
    config = OwnDataConfig(name="helpers.own_parts:three_sets", options={"validation": False})
    assert (dataset_info(config).num_train, dataset_info(config).num_validation) == (36, 4)


def test_a_validation_set_of_another_shape_is_refused() -> None:
    config = OwnDataConfig(name="helpers.own_parts:three_sets", options={"wide": True})
    with pytest.raises(UsageError, match=r"validation has inputs \(4,\), .*; train has inputs \(3,\)"):
        check_dataset(config)
