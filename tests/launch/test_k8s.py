"""The manifest for Kubernetes: what KubeRay's own schema takes, no secret in it, and it runs what it should."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from samtune.cli.app import app
from samtune.config.search import ResourcesConfig
from samtune.config.space import SearchSpace
from samtune.errors import ResourceError, UsageError
from samtune.launch.k8s import KubernetesJob

# Of the published CRD; "source" in it says which. A field that the CRD does not have is refused, not dropped.
SCHEMA = json.loads((Path(__file__).parent / "rayjob_schema.json").read_text(encoding="utf-8"))["schema"]
SPACE = "name: mine\ndata: digits\nmodel: digits_cnn\nmethod: sam\n"
ONE = ResourcesConfig()


def make(**options: Any) -> KubernetesJob:
    return KubernetesJob(**{"space": SPACE, "name": "mine", "image": "registry.example/samtune:1", **options})


def objects(job: KubernetesJob) -> dict[str, dict[str, Any]]:
    """By kind/name."""
    found = [each for each in yaml.safe_load_all(job.manifest()) if each]
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in found}


def ray_job(job: KubernetesJob) -> dict[str, Any]:
    return objects(job)["RayJob/mine"]


VARIANTS = [
    make(),
    make(gpus=0, workers=16, memory="512Mi"),
    make(storage_path="s3://bucket/studies", tracking_uri="https://mlflow.example", secret="aws"),
]


@pytest.mark.parametrize("job", VARIANTS, ids=["volume", "cpu", "bucket"])
def test_kuberay_takes_it(job):
    job.check(ResourcesConfig(gpus_per_worker=0))
    jsonschema.Draft202012Validator(SCHEMA).validate(ray_job(job))


def test_the_schema_refuses_what_the_crd_does_not_have():
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for change in ({"entryPoint": "x"}, {"ttlSecondsAfterFinished": "60"}, {"backoffLimit": None}):
        wrong = ray_job(make())
        wrong["spec"].update(change)
        assert not validator.is_valid(wrong), change
    wrong = ray_job(make())
    del wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]
    assert not validator.is_valid(wrong)


def test_workers_with_gpus_are_started_as_they_are_asked_for_and_the_head_has_none():
    cluster = ray_job(make(workers=8, gpus=4, cpus=32))["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 8)
    assert cluster["enableInTreeAutoscaling"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == {"cpu": "32", "memory": "32Gi", "nvidia.com/gpu": "4"}
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no worker of a trial beside the driver
    assert cluster["authOptions"] == {"mode": "token"}


def test_the_space_travels_as_it_is_written():
    text = "# mine\n" + SPACE + "search: {method.rho: {log_uniform: [0.01, 0.5]}}  # radius\n"
    job = make(space=text)
    assert objects(job)["ConfigMap/mine-space"]["data"]["space.yaml"] == text
    assert "    # mine\n    name: mine\n" in job.manifest()  # and can be read and changed there
    SearchSpace.from_text(text, "space.yaml")


def test_every_volume_claim_secret_and_service_that_is_used_is_there_or_named_in_the_head():
    manifest, found = make().manifest(), objects(make())
    claims = set(re.findall(r"claimName: (\S+)", manifest))
    assert {f"PersistentVolumeClaim/{claim}" for claim in claims} <= set(found)
    assert set(re.findall(r"secretKeyRef:\s+name: (\S+)", manifest)) == {"mine-postgres"}
    assert "kubectl create secret generic mine-postgres" in manifest
    assert {"Service/mine-mlflow", "Service/mine-postgres"} <= set(found)
    for name in ("mine-mlflow", "mine-postgres"):
        service, deployment = found[f"Service/{name}"], found[f"Deployment/{name}"]
        assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]


def test_with_a_bucket_and_an_mlflow_nothing_else_is_started():
    assert set(objects(VARIANTS[2])) == {"ConfigMap/mine-space", "RayJob/mine"}
    containers = [
        group["template"]["spec"]["containers"][0]
        for group in (
            ray_job(VARIANTS[2])["spec"]["rayClusterSpec"]["headGroupSpec"],
            *ray_job(VARIANTS[2])["spec"]["rayClusterSpec"]["workerGroupSpecs"],
        )
    ]
    assert [each["envFrom"] for each in containers] == [[{"secretRef": {"name": "aws"}}]] * 2


@pytest.mark.parametrize(("there", "expected"), [(False, "--space"), (True, "--resume")])
def test_the_entrypoint_starts_the_study_or_resumes_it(tmp_path, there, expected):
    """Run by a real shell, with a samtune that notes its arguments; its status says whether the study is there."""
    fake = tmp_path / "samtune"
    fake.write_text(f'#!/bin/bash\n[ "$1" = status ] && exit {0 if there else 1}\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    entrypoint = make(storage_path="s3://b/it's").entrypoint
    done = subprocess.run(
        shlex.split(entrypoint), env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[:3] == ["search", "--storage-path", "s3://b/it's"]
    assert words[words.index(expected) + 1] == ("mine" if there else "/etc/samtune/space.yaml")
    assert ("--tracking-uri" in words) is not there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "My_Search"}, "name My_Search: must be lower-case letters"),
        ({"secret": "a b"}, "secret a b: must be lower-case letters"),
        ({"image": "a b"}, "image: must be the name of an image"),
        ({"memory": "32 GB"}, "memory 32 GB: must be as Kubernetes writes it"),
        ({"workers": 0}, "workers 0: must be at least 1"),
        ({"gpus": -1}, "gpus -1: must be at least 0"),
        ({"storage_path": "/data"}, "storage_path /data: must be a bucket"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_here(change, message):
    with pytest.raises(UsageError) as error:
        make(**change).check(ONE)
    assert message in str(error.value)


def test_workers_that_the_pods_can_never_hold_are_refused():
    with pytest.raises(ResourceError, match="8 workers"):
        make(workers=4, gpus=1).check(ResourcesConfig(num_workers=8))


def test_the_command_writes_it(tmp_path):
    done = CliRunner().invoke(app, ["k8s", "digits.yaml", "--gpus", "0", "-o", str(tmp_path / "job.yaml")])
    assert done.exit_code == 0, done.output
    kinds = [each["kind"] for each in yaml.safe_load_all((tmp_path / "job.yaml").read_text(encoding="utf-8"))]
    assert kinds.count("RayJob") == 1
