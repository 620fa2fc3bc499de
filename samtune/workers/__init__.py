"""Warm worker groups: Ray Train groups that live as long as the search and train one trial after another.

    Trainable ──assign──▶ Coordinator (one zero-CPU actor) ◀──asks── every worker of every group
        ▲                    │  state, not a queue                    │
        └────── records ─────┘◀────────── one record an epoch ────────┘

`coordinator_state` holds who trains what, `coordinator` answers questions about it, `protocol` has the messages between
them, `worker_loop` runs on every worker, and `pool` starts and ends the groups from the driver.
"""
