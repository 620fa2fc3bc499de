"""Whether every node of a cluster reaches the storage path: asked before anything is started."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from samtune.errors import UsageError, one_line
from samtune.storage import delete_file, is_remote, join, read_bytes, write_bytes

_PATIENCE = 30.0  # seconds, for nodes that answer late, once one has failed


def check_storage(storage: str, nodes: Iterable[str]) -> None:
    """Has every node read what is written here, and write what is read here.

    Args:
        storage: the folder of all studies, a path or URI.
        nodes: Ray's ids of the cluster's nodes.

    Raises:
        UsageError: a node cannot; names it, and its problem.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name = f".samtune-probe-{uuid.uuid4().hex}"
    here = join(storage, name)
    try:
        write_bytes(here, name.encode())
    except OSError as error:
        raise UsageError(
            f"cannot be written: {one_line(error, 300)}", argument="storage_path", value=storage
        ) from error
    probe = ray.remote(_read_and_write)
    answers = {
        node: probe.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            here, join(storage, f"{name}-{node}"), name.encode()
        )
        for node in nodes
    }
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    try:
        for node, answer in answers.items():
            problem = ray.get(answer) or _problem_here(join(storage, f"{name}-{node}"), name.encode())
            if problem:
                hint = "" if is_remote(storage) else "; on several nodes it must be s3://…, gs://… or a shared folder"
                raise UsageError(f"node {addresses[node]} {problem}{hint}", argument="storage_path", value=storage)
    except UsageError:
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=_PATIENCE)  # the others are about to write
        raise
    finally:
        for file in (here, *(join(storage, f"{name}-{node}") for node in answers)):
            delete_file(file)


def _read_and_write(theirs: str, own: str, content: bytes) -> str | None:
    """On a node: what does not work, or None."""
    try:
        if read_bytes(theirs) != content:
            return "does not see what the driver writes there"
        write_bytes(own, content)
    except OSError as error:
        return f"cannot use it: {one_line(error, 300)}"
    return None


def _problem_here(file: str, content: bytes) -> str | None:
    return None if read_bytes(file) == content else "writes what the driver does not see"
