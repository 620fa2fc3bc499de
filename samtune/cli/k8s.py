"""`samtune k8s`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from samtune.cli.options import (
    OUTPUT,
    WHERE,
    Debug,
    Space,
    SpaceFile,
    StoragePath,
    option,
    print_or_write,
    required_space,
)


def k8s(
    space_file: SpaceFile = None,
    space: Space = None,
    image: Annotated[
        str, option(WHERE, "Container image that has samtune installed.")
    ] = "registry.example/samtune:latest",
    workers: Annotated[int, option(WHERE, "Maximum number of worker pods; they start as the search needs them.")] = 4,
    gpus: Annotated[int, option(WHERE, "GPUs of each worker pod.")] = 1,
    cpus: Annotated[int, option(WHERE, "CPU cores of each worker pod.")] = 8,
    memory: Annotated[str, option(WHERE, "Memory of each worker pod.")] = "32Gi",
    name: Annotated[str | None, option(WHERE, "Name of the study and the RayJob. Default: the space's name.")] = None,
    storage_path: StoragePath = None,
    tracking_uri: Annotated[
        str | None,
        option(WHERE, "An MLflow server that already runs. Default: the manifest starts one, with PostgreSQL."),
    ] = None,
    secret: Annotated[str | None, option(WHERE, "Secret whose keys become environment variables of the pods.")] = None,
    output: Annotated[Path | None, option(OUTPUT, "Write it to this file instead of stdout.", "-o", "--output")] = None,
    debug: Debug = False,
) -> None:
    """Write a Kubernetes manifest that runs a search: a RayJob for KubeRay, with MLflow."""
    chosen = required_space(space_file, space, "`samtune k8s my.yaml > job.yaml`")
    from samtune.config.builtin_spaces import find_builtin
    from samtune.config.space import SearchSpace
    from samtune.launch.k8s import KubernetesJob, read_space

    loaded = SearchSpace.from_yaml(chosen)
    file = Path(chosen).expanduser()
    job = KubernetesJob(
        space=read_space(file if file.is_file() else find_builtin(chosen)),
        name=name or loaded.name.lower().replace("_", "-"),
        image=image,
        workers=workers,
        gpus=gpus,
        cpus=cpus,
        memory=memory,
        storage_path=storage_path,
        tracking_uri=tracking_uri,
        secret=secret,
    )
    job.check(loaded.resources)
    print_or_write(job.manifest(), output, f"read its first lines, then `kubectl apply -f {output}`")
