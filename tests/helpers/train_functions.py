"""Training functions of a user's: a module that ranks and workers import."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from samtune import TrialContext


def make_data() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation examples of two classes that are not linearly separable."""
    inputs = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    classes = (inputs[:, :2].prod(dim=1) > 0).long()
    return TensorDataset(inputs[:80], classes[:80]), TensorDataset(inputs[80:], classes[80:])


def make_model(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def by_step(trial: TrialContext) -> None:
    """With a step of any method."""
    train, held_out = make_data()
    loader, validation = trial.loader(train), trial.loader(held_out, train=False)
    model = make_model(trial.config["width"])
    step = trial.train_step(model, cross_entropy, loader)
    for epoch in trial.epochs():
        for inputs, targets in loader:
            step(inputs + 0.1 * torch.randn_like(inputs), targets)  # augmented, by the epoch's random numbers
        metrics = trial.evaluate(model, validation, val_loss=cross_entropy, val_accuracy=accuracy)
        trial.state["best"] = max(metrics["val_accuracy"], trial.state.get("best", 0.0))
        trial.report(**metrics, best=trial.state["best"], seen=epoch)


def by_closure(trial: TrialContext) -> None:
    """With an optimizer that takes closures, and a scheduler of one's own."""
    _by_closure(trial, trial.distribute(make_model(trial.config["width"])))


def keeps_a_part(trial: TrialContext) -> None:
    """Puts weights of which each worker has a part into its own state."""
    model = trial.distribute(make_model(trial.config["width"]))
    for _ in trial.epochs():
        trial.state["weight"] = next(model.parameters()).detach()
        trial.report(val_accuracy=1.0)


def shards_by_itself(trial: TrialContext) -> None:
    """The same on parts of the network."""
    _by_closure(trial, trial.distribute(make_model(trial.config["width"]), parallel="fsdp"))


def _by_closure(trial: TrialContext, model: nn.Module) -> None:
    train, held_out = make_data()
    loader, validation = trial.loader(train), trial.loader(held_out, train=False)
    optimizer = trial.optimizer(model, loader)
    shift = Shift()
    for _ in trial.epochs(shift=shift):
        for inputs, targets in loader:
            optimizer.step(trial.closure(model, cross_entropy, inputs + shift.value, targets))
        shift.value += 0.01
        trial.report(**trial.evaluate(model, validation, val_accuracy=accuracy))
        model.eval()
        with torch.no_grad():
            losses = [cross_entropy(model(inputs), targets) for inputs, targets in validation]
        trial.report(average=True, val_loss=torch.stack(losses).mean())  # equal shares: 40 examples


def plain_step(trial: TrialContext) -> None:
    """A network without random numbers and running statistics, with `train_step`."""
    loader = trial.loader(make_data()[0])
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    step = trial.train_step(model, cross_entropy, loader)
    for _ in trial.epochs():
        for inputs, targets in loader:
            step(inputs, targets)
        trial.report(**trial.evaluate(model, loader, val_accuracy=cross_entropy))


def plain_closure(trial: TrialContext) -> None:
    """The same with an optimizer that takes closures."""
    loader = trial.loader(make_data()[0])
    model = trial.distribute(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)))
    optimizer = trial.optimizer(model, len(loader))
    for _ in trial.epochs():
        for inputs, targets in loader:
            optimizer.step(trial.closure(model, cross_entropy, inputs, targets))
        trial.report(**trial.evaluate(model, loader, val_accuracy=cross_entropy))


class Shift:
    """Something of the user's with a state."""

    def __init__(self) -> None:
        self.value = torch.zeros(())

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.value = state["value"].clone()


def reports_the_order(trial: TrialContext) -> None:
    loader = trial.loader(range(40))  # type: ignore[arg-type]
    for _ in trial.epochs():
        (order, _) = loader
        trial.report(val_accuracy=(order * torch.arange(20)).sum())


def counts_its_passes(trial: TrialContext) -> None:
    for epoch in trial.epochs():
        more = {"num_passes": 3.0 * epoch} if trial.config["width"] == 3 else {}
        trial.report(val_accuracy=0.5, **more)


def never_reports(trial: TrialContext) -> None:
    for _ in trial.epochs():
        pass


def reports_another(trial: TrialContext) -> None:
    for _ in trial.epochs():
        trial.report(val_loss=1.0, f1=0.5)


def reads_another_key(trial: TrialContext) -> None:
    assert trial.config.get("depth") is None
    make_model(trial.config["depth"])


def returns_early(trial: TrialContext) -> None:
    for epoch in trial.epochs():
        trial.report(val_accuracy=0.5)
        if epoch == 2:
            return


def never_begins(trial: TrialContext) -> None:
    return


def trains_twice(trial: TrialContext) -> None:
    for _ in range(2):
        for _ in trial.epochs():
            trial.report(val_accuracy=0.5)


def reports_too_early(trial: TrialContext) -> None:
    trial.report(val_accuracy=0.5)


def reports_text(trial: TrialContext) -> None:
    for _ in trial.epochs():
        trial.report(val_accuracy="good")  # type: ignore[arg-type]


def reports_the_epoch(trial: TrialContext) -> None:
    for epoch in trial.epochs():
        trial.report(val_accuracy=0.5, epoch=epoch)


def keeps_an_object(trial: TrialContext) -> None:
    for _ in trial.epochs():
        trial.state["parts"] = [Shift()]
        trial.report(val_accuracy=0.5)


class Pair(NamedTuple):
    one: int
    other: int


def keeps_a_subclass(trial: TrialContext) -> None:
    for _ in trial.epochs():
        trial.state["pair"] = Pair(1, 2)
        trial.report(val_accuracy=0.5)


def makes_its_network_late(trial: TrialContext) -> None:
    for _ in trial.epochs():
        trial.distribute(make_model(2))
        trial.report(val_accuracy=0.5)


def evaluates_midway(trial: TrialContext) -> None:
    data, _ = make_data()
    model = trial.distribute(nn.Sequential(make_model(2), nn.Dropout()))
    for _ in trial.epochs():
        model[1].eval()  # type: ignore[index]
        trial.evaluate(model, trial.loader(data, train=False), val_accuracy=accuracy)
        modes = model.training, model[0].training, model[1].training  # type: ignore[index]
        trial.report(val_accuracy=0.5, is_as_before=float(modes == (True, True, False)))


def saves_a_number(trial: TrialContext) -> None:
    for _ in trial.epochs(best=0.5):
        trial.report(val_accuracy=0.5)


def diverges(trial: TrialContext) -> None:
    for epoch in trial.epochs():
        trial.report(val_accuracy=0.5 if epoch == 1 else float("nan"))


def raises(trial: TrialContext) -> None:
    for _ in trial.epochs():
        raise ValueError("the user's own")


def evaluates_nothing(trial: TrialContext) -> None:
    trial.evaluate(make_model(2), [], val_accuracy=accuracy)


def iterates(trial: TrialContext) -> None:
    trial.loader(iter([]))  # type: ignore[arg-type]


def takes_a_large_batch(trial: TrialContext) -> None:
    trial.loader(make_data()[0], batch_size=81)


def takes_no_length(trial: TrialContext) -> None:
    trial.train_step(make_model(2), cross_entropy, iter([]))  # type: ignore[arg-type]


def optimizes(trial: TrialContext) -> None:
    trial.optimizer(make_model(2), range(4))
