"""The one door to Ray's private side: every undocumented name, environment variable and override, with its reason.

The rest of samtune uses Ray's public API or this package (`tests/raylib/test_names.py`). It knows clusters, nodes and
worker groups, and nothing of trials; it must not import torch, which the driver and Tune's actors do without.

- `names`, `environment`: what is used of Ray, as data.
- `cluster`: connects to a cluster, and says what it holds. `storage_check` and `runtime_env` prepare its nodes.
- `group_trainer`: Ray Train's data-parallel trainer, light and killable.
- `schedulers`, `population`: Tune's schedulers, mended.
"""
