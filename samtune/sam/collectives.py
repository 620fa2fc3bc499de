"""Which collectives a piece of code runs, and how many elements they carry. For tests and the benchmark."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def all_reduce_sizes(function: Callable[[], object]) -> list[int]:
    """The number of elements of every all-reduce over gloo that a function runs, in order."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        function()
    events = [event for event in recorded.events() or () if event.name == "gloo:all_reduce"]
    return [int(event.input_shapes[0][0]) for event in sorted(events, key=lambda event: event.time_range.start)]
