"""fp16 with a GradScaler around the optimizer: the recipe of its docstring, and what is silently wrong without it."""

from __future__ import annotations

import pytest
import torch
from helpers.reference import flat_weights
from helpers.sam_training import batch, make_network
from torch import nn
from torch.testing import assert_close

from samtune.sam import SAM


def train(how, steps=4, scale=2.0**10):
    """Everything in float32, so that scaling by a power of two and back changes nothing at all."""
    model = make_network(torch.float32)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=how != "disabled")

    def closure(index, factor=1.0):
        sam.zero_grad()
        loss = nn.functional.cross_entropy(model(batch(index, dtype=torch.float32)[0]), batch(index)[1]) * factor
        if how == "plain":
            loss.backward()
            return loss
        scaler.scale(loss).backward()
        if how == "recipe":
            scaler.unscale_(sam)
            scaler.update()
        elif how == "by hand":
            for parameter in model.parameters():
                parameter.grad /= scaler.get_scale()
        return loss

    for index in range(steps):
        sam.step(lambda index=index: closure(index))
    return model, sam, scaler, closure


@pytest.mark.parametrize("how", ["recipe", "by hand", "disabled"])
def test_a_closure_that_unscales_takes_the_step_of_one_that_does_not_scale(how):
    assert_close(flat_weights(train(how)[0]), flat_weights(train("plain")[0]), rtol=1e-6, atol=1e-7)


def test_a_closure_that_leaves_its_gradients_scaled_is_refused():
    model = make_network(torch.float32)
    with pytest.raises(ValueError, match=r"leaves the gradients scaled: .*scaler.unscale_\(optimizer\)"):
        train("nothing", steps=1)
    assert_close(flat_weights(model), flat_weights(make_network(torch.float32)))


def test_an_overflow_skips_the_step_and_halves_the_scale():
    model, sam, scaler, closure = train("recipe")
    before, scale = flat_weights(model), scaler.get_scale()
    sam.step(lambda: closure(0, factor=1e38))
    assert torch.equal(flat_weights(model), before)
    assert scaler.get_scale() == scale / 4  # once for each pass
    sam.step(lambda: closure(0))
    assert not torch.equal(flat_weights(model), before)


def test_the_scaler_is_as_it_was():
    *_, scaler, _ = train("recipe")
    assert not {"scale", "unscale_", "get_scale"} & vars(scaler).keys()
