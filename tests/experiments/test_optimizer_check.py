"""Optimizers and parameter groups that do not fit the network, found before a worker starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from samtune.config.model import BuiltinModelConfig
from samtune.config.space import SearchSpace
from samtune.data import DatasetInfo
from samtune.errors import UsageError
from samtune.experiments.optimizer_check import check_optimizers
from samtune.experiments.plan import plan_search
from samtune.experiments.plan_checks import check_space
from samtune.raylib.cluster import Node

COLOUR = DatasetInfo(num_classes=10, input_shape=(3, 64, 64), num_train=100, num_validation=10)
NAMES = sorted({c.model_fields["name"].default for c in BuiltinModelConfig.__origin__.__args__} - {"no_model"})


def space(model: Any = "digits_cnn", **training: Any) -> SearchSpace:
    parts = {"data": "digits", "method": {"name": "sam", "rho": {"log_uniform": [0.01, 0.1]}}}
    return SearchSpace.from_dict({"name": "small", "model": model, "training": training, **parts})


class Whole(torch.optim.SGD):
    """One of the user's."""

    def __init__(self, params: Any, lr: float, share: float = 0.5) -> None:
        if share > 1:
            raise ValueError("share must not exceed 1")
        super().__init__(params, lr=lr * share)


@pytest.mark.parametrize("check", [check_space, lambda found: plan_search(found, [Node(4, 0)])])
@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"groups": [{"match": "bias"}, {"match": "stem"}]},
            r"^training\.groups\.1\.match: 'stem' matches no parameter",
        ),
        (
            {"optimizer": {"name": "adamw", "betas": [0.9, 1.5]}},
            r"^training\.optimizer: adamw refuses its .*Invalid beta",
        ),
        ({"optimizer": "muon"}, r"^training\.optimizer: muon refuses its options or parameters: .*2D"),
    ],
)
def test_what_does_not_fit_is_one_line(check: Any, training: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(space(**training))


def test_a_class_of_the_user_s_is_called_where_its_code_may_run() -> None:
    found = space(optimizer={"name": f"{__name__}:Whole", "share": 2.0})
    assert check_space(found) == []
    with pytest.raises(UsageError, match=r"^training\.optimizer: .*:Whole refuses its .*share must not exceed 1"):
        plan_search(found, [Node(4, 0)])


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_names_without_weights(name: str) -> None:
    found = space({"name": name}, groups=[{"match": r"weight$", "lr_factor": 2}])
    infos = {found.trial({"method.rho": 0.05}).data.model_dump_json(): COLOUR}
    check_optimizers([found.trial({"method.rho": 0.05})], infos, import_code=False)
    wrong = found.replace({"training": {"groups": [{"match": "no such name"}]}}).trial({"method.rho": 0.05})
    with pytest.raises(UsageError, match="matches no parameter"):
        check_optimizers([wrong], infos, import_code=False)
