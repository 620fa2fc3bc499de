"""Warm worker groups: Ray Train groups that live as long as the search and train one trial after another.

    Trainable ──assign──▶ Mailbox (one zero-CPU actor) ◀──asks── every worker of every group
        ▲                    │  state, not a queue                    │
        └────── records ─────┘◀────────── one record an epoch ────────┘

`mailbox` holds who trains what, `messages` is what is said to it and by it, `loop` runs on every worker, `group` and
`trainer` start and end the groups from the driver.
"""
