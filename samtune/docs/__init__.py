"""The documentation: one Markdown file per topic, shipped with the package and shown by `samtune docs`."""

from __future__ import annotations

import difflib
from importlib.resources import files

from samtune.errors import UsageError

TOPICS = {
    "search-spaces": "the YAML: distributions, branches, constraints, objectives, schedulers, budgets",
    "methods": "the training methods and their mathematics, with sources",
    "your-own-code": "your own networks, data, losses, metrics and training loops; data sets by name; what is trusted",
    "integrations": "SAM in Lightning, HF's Trainer, accelerate, skorch and timm",
    "from-search-to-answer": "confirm, report, plot, export, and results in Python",
    "mlflow": "what is logged and under which names; TensorBoard and W&B as well",
    "fault-tolerance": "what happens when a worker, the driver, a node or the tracking server fails",
    "clusters": "ray up, storage in a bucket, how far it scales",
    "gpus": "checking and timing a card, what is on by default",
    "sharpness": "curvature, m-sharpness, bounds and loss surfaces of trained weights",
    "python-api": "the public classes and functions (generated from their docstrings)",
    "architecture": "the journeys of a configuration and of a metric, the layers, why groups are warm",
    "contributing": "set-up, checks, and how to add a method, a model, a data set, a sampler or a command",
    "changelog": "versions, what the format of a study guarantees, how deprecation works",
}
"""Every topic with a line about it, in the order in which one reads them."""

_FOUND_IN = {
    "asha": "search-spaces",
    "budget": "search-spaces",
    "kubernetes": "clusters",
    "lightning": "integrations",
    "slurm": "clusters",
    "tensorboard": "mlflow",
    "wandb": "mlflow",
}
"""Words that people look for, and the topic that has them."""


def read_topic(topic: str) -> str:
    """The Markdown of a topic, or of the one that a word is found in.

    Raises:
        UsageError: there is no such topic; names the nearest.
    """
    name = topic.lower().removesuffix(".md").replace("_", "-")
    name = _FOUND_IN.get(name, name)
    if name not in TOPICS:
        near = difflib.get_close_matches(name, TOPICS, n=1, cutoff=0.0)
        raise UsageError(f"{topic}: no such topic; the nearest is {near[0]} (`samtune docs` lists all)")
    return files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")
