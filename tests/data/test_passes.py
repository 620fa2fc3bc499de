"""Reading what can only be gone through: the same examples from any place, pass after pass."""

from __future__ import annotations

import pytest
import torch
from helpers.streams import Noisy, Passes, WithState, example, from_function

from samtune.data.passes import StreamReader, stream_eval_batches, stream_train_batches
from samtune.data.sources.own_stream import OwnStream, is_stream
from samtune.errors import DatasetError
from samtune.sam import tree

CPU = torch.device("cpu")


def reader_of(given: object, seed: int = 0) -> StreamReader:
    return StreamReader(OwnStream(given, "here"), seed=seed)


def inputs_of(reader: StreamReader, count: int) -> torch.Tensor:
    return torch.stack([inputs for inputs, _ in reader.take(count)])


def test_passes_follow_one_another_and_know_their_number() -> None:
    expected = torch.stack([example(number, index)[0] for number in range(3) for index in range(4)])
    assert torch.equal(inputs_of(reader_of(Passes(4)), 12), expected)


@pytest.mark.parametrize("given", [Passes(7), from_function(7), Noisy(), WithState(7)], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("before", [0, 3, 7, 12])
def test_a_reader_goes_on_where_another_was(given: object, before: int) -> None:
    reader = reader_of(given)
    reader.take(before)
    state = reader.state_dict()
    rest = inputs_of(reader, 20)  # what is read after the state was taken does not change it
    torch.rand(3)
    resumed = reader_of(given)
    resumed.load_state_dict(state)
    assert torch.equal(inputs_of(resumed, 20), rest)


def test_a_state_of_its_own_saves_reading_it_again() -> None:
    reader = reader_of(WithState(20))
    reader.take(13)
    state, resumed = reader.state_dict(), reader_of(WithState(20))
    before = WithState.made
    resumed.load_state_dict(state)
    resumed.take(1)
    assert WithState.made == before + 1


def test_random_numbers_are_those_of_seed_pass_and_example_and_leave_no_trace() -> None:
    one, other = inputs_of(reader_of(Noisy()), 25), inputs_of(reader_of(Noisy(), seed=1), 25)
    assert not torch.equal(one, other)
    assert not torch.equal(one[:10], one[10:20])  # two passes
    torch.manual_seed(5)
    untouched = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(inputs_of(reader_of(Noisy()), 25), one)
    assert torch.equal(torch.rand(1), untouched)


def test_trials_side_by_side_do_not_disturb_each_other() -> None:
    stream = OwnStream(WithState(5), "here")
    one, other = StreamReader(stream, seed=0), StreamReader(stream, seed=0)
    found = [(inputs_of(one, 3), inputs_of(other, 3)) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in found)


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_have_their_rows_of_the_same_batches(num_workers: int) -> None:
    ranks = [
        list(
            stream_train_batches(
                reader_of(Passes(11)), 3, batch_size=8, rank=rank, num_workers=num_workers, accumulate=2, device=CPU
            )
        )
        for rank in range(num_workers)
    ]
    parts = [part for step in zip(*ranks, strict=True) for part in step]  # of each half batch the workers' in turn
    examples = [example(number, index) for number in range(3) for index in range(11)][:24]
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), torch.stack([inputs for inputs, _ in examples]))
    assert torch.cat([targets for _, targets in parts]).tolist() == [target for _, target in examples]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_an_evaluation_sees_each_example_once(num_workers: int) -> None:
    found = [
        inputs
        for rank in range(num_workers)
        for inputs, _ in stream_eval_batches(
            reader_of(Passes(10)), batch_size=2, rank=rank, num_workers=num_workers, device=CPU
        )
    ]
    rows = sorted(torch.cat(found).tolist())
    assert rows == sorted(example(0, index)[0].tolist() for index in range(10))
    assert max(tree.num_examples(inputs) for inputs in found) <= 2


def test_a_pass_that_is_shorter_after_a_resume_is_one_line() -> None:
    reader = reader_of(Passes(9))
    reader.take(8)
    with pytest.raises(DatasetError, match=r"^here: pass 0 ended after 5 examples, and had at least 8 before"):
        reader_of(Passes(5)).load_state_dict(reader.state_dict())


def test_what_has_places_is_no_stream() -> None:
    tensors = torch.zeros(2, 3), torch.zeros(2)
    streams = [Passes(), from_function(3), WithState(), iter([1])]
    others = [tensors, [1, 2], WithState, {"a": 1}, torch.zeros(2), torch.utils.data.TensorDataset(*tensors)]
    assert [is_stream(given) for given in streams] == [True] * 4
    assert [is_stream(given) for given in others] == [False] * 6
