"""The training methods, one rule each: see `base.Rule`."""
