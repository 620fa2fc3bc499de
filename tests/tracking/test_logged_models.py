"""A trained network as a model in MLflow, and what cannot be one."""

from __future__ import annotations

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from samtune.tracking.models import ModelNotLoggedError, log_model
from samtune.tracking.store import used_by_mlflow


class Tokens(nn.Module):
    """Takes token ids, which floats are not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(ids).mean(1))
        return out


class Branches(nn.Module):
    """Decides by its data, which an exported graph cannot."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) if float(inputs.sum()) > 1 else -inputs.flatten(1)


class Gives(nn.Module):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": inputs}


class Refuses(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise KeyError("only real\nimages")


@pytest.fixture
def run(tmp_path) -> tuple[str, str]:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("models", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.set_terminated(run_id, "FINISHED")
    return uri, run_id


def test_a_network_of_token_ids_is_logged_and_loads(run):
    model = Tokens().eval()
    uri = log_model(*run, model, (5,))
    with used_by_mlflow(run[0]):
        loaded = mlflow.pytorch.load_model(uri)
    ids = torch.tensor([[1, 2, 3, 4, 6], [0, 0, 5, 1, 1]])
    torch.testing.assert_close(loaded(ids), model(ids))


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (Branches(), "torch.export cannot export it: "),
        (Gives(), "it returns no tensor, but dict"),
        (Refuses(), r"it fails on made-up inputs: 'only real\nimages'"),
    ],
)
def test_what_cannot_be_a_model_is_said_in_a_line_and_fails_no_run(run, network, problem):
    with pytest.raises(ModelNotLoggedError) as error:
        log_model(*run, network.eval(), (2, 3))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert MlflowClient(run[0]).get_run(run[1]).info.status == "FINISHED"
