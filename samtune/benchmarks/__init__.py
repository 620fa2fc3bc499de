"""What a search costs beside its training: `python -m samtune.benchmarks`.

`documented` is the pattern of Ray's guide, a new trainer in every trial; `warm` the same trials with samtune; `noop` a
search whose trials take no time, so that only the driver's own work is left.
"""
