"""A check of samtune's mathematics and speed on one card, where torch is all there is: `python -m samtune.gpucheck`.

Knows torch, `samtune.sam`, the networks and the contract's small problem; must not import Ray, pydantic, MLflow, or the
configuration: it has to run on a machine on which only torch is installed.
"""
