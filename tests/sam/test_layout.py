"""How a batch is split: the four cases of m in METHODS section 1, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from samtune.sam.layout import GroupLayout


def layout(m, rank=0, batch_size=32, num_workers=4):
    return GroupLayout.resolve(m, batch_size=batch_size, num_workers=num_workers, rank=rank)


# B = 32 on 4 workers, so b = 8
@pytest.mark.parametrize(
    ("m", "rank", "forward_size", "num_micro_groups", "workers_per_group", "num_groups", "first_group"),
    [
        (2, 3, 2, 4, 1, 16, 12),  # m < b: worker 3 owns rows 24..31, groups 12..15
        (8, 3, 8, 1, 1, 4, 3),
        ("worker", 3, 8, 1, 1, 4, 3),
        (16, 3, 8, 1, 2, 2, 1),  # workers 2 and 3 share group 1
        (16, 1, 8, 1, 2, 2, 0),
        (32, 3, 8, 1, 4, 1, 0),
        ("global", 3, 8, 1, 4, 1, 0),
    ],
)
def test_groups_of_a_worker(m, rank, forward_size, num_micro_groups, workers_per_group, num_groups, first_group):
    found = layout(m, rank)
    assert (found.forward_size, found.num_micro_groups, found.workers_per_group) == (
        forward_size,
        num_micro_groups,
        workers_per_group,
    )
    assert (found.num_groups, found.first_group) == (num_groups, first_group)


@pytest.mark.parametrize("m", [1, 2, 4, 8, 16, 32])
def test_every_row_is_in_exactly_one_forward_and_groups_do_not_depend_on_workers(m):
    for num_workers in (1, 2, 4, 8):
        group_of_row = {}
        for rank in range(num_workers):
            found = layout(m, rank, num_workers=num_workers)
            for micro in range(found.num_micro_groups):
                for row in range(found.forward_size):
                    position = rank * found.worker_batch_size + micro * found.forward_size + row
                    assert position not in group_of_row
                    group_of_row[position] = found.first_group + micro
        assert group_of_row == {row: row // m for row in range(32)}


def test_one_worker_and_one_example():
    found = layout("worker", batch_size=1, num_workers=1)
    assert (found.group_size, found.forward_size, found.num_groups) == (1, 1, 1)


@pytest.mark.parametrize(
    ("m", "batch_size", "num_workers", "message"),
    [
        (
            3,
            32,
            4,
            "m must divide the examples per worker, or be a multiple of them that divides batch_size "
            "(m is 3, examples per worker 8, batch_size 32)",
        ),
        (
            24,
            32,
            4,
            "m must divide the examples per worker, or be a multiple of them that divides batch_size "
            "(m is 24, examples per worker 8, batch_size 32)",
        ),
        (
            64,
            32,
            4,
            "m must divide the examples per worker, or be a multiple of them that divides batch_size "
            "(m is 64, examples per worker 8, batch_size 32)",
        ),
        (
            "worker",
            30,
            4,
            "batch_size must be a positive multiple of num_workers (batch_size is 30, num_workers 4)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_rule_and_values(m, batch_size, num_workers, message):
    with pytest.raises(ValueError, match=r"^batch_size|^m") as caught:
        layout(m, batch_size=batch_size, num_workers=num_workers)
    assert str(caught.value) == message


def test_layout_and_methods_do_not_load_torch():
    code = (
        "import sys, samtune.sam, samtune.sam.layout, samtune.config.method; "
        "sys.exit('torch is loaded' if 'torch' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
