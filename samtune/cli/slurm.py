"""`samtune slurm`."""

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


def slurm(
    space_file: SpaceFile = None,
    space: Space = None,
    nodes: Annotated[int, option(WHERE, "Nodes of the job.")] = 1,
    gpus: Annotated[int, option(WHERE, "GPUs of each node.")] = 0,
    cpus: Annotated[int, option(WHERE, "CPU cores of each node.")] = 8,
    time: Annotated[str | None, option(WHERE, "Slurm's time limit, e.g. 4:00:00. Default: the partition's.")] = None,
    partition: Annotated[str | None, option(WHERE, "Slurm's partition.")] = None,
    account: Annotated[str | None, option(WHERE, "Slurm's account.")] = None,
    name: Annotated[str | None, option(WHERE, "Name of the study. Default: the space's name.")] = None,
    storage_path: StoragePath = None,
    tracking_uri: Annotated[str | None, option(WHERE, "MLflow tracking URI. Default: in the storage path.")] = None,
    output: Annotated[Path | None, option(OUTPUT, "Write it to this file instead of stdout.", "-o", "--output")] = None,
    debug: Debug = False,
) -> None:
    """Write a Slurm batch script that runs a search, saves it when Slurm ends the job, and resumes it."""
    chosen = required_space(space_file, space, "`samtune slurm my.yaml --nodes 4 > job.sh`")
    from samtune.config.space import SearchSpace
    from samtune.launch.slurm import SlurmJob

    loaded = SearchSpace.from_yaml(chosen)
    job = SlurmJob(
        space=chosen,
        study=name or loaded.name,
        nodes=nodes,
        time=time,
        gpus=gpus,
        cpus=cpus,
        partition=partition,
        account=account,
        storage_path=storage_path,
        tracking_uri=tracking_uri,
    )
    job.check(loaded.resources)
    print_or_write(job.script(), output, f"`sbatch {output}` submits it")
