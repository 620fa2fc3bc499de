"""A RayJob for KubeRay that runs a search: a CPU head with the driver, and GPU workers as many as it asks for."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from samtune.config.search import ResourcesConfig
from samtune.errors import UsageError
from samtune.launch.k8s_services import mlflow_objects, volume_claim
from samtune.raylib.cluster import Node, group_capacity

_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")
_IMAGE = re.compile(r"[\w][\w./:@-]*")
SPACE_FOLDER, STORAGE_FOLDER = "/etc/samtune", "/mnt/samtune"

HEADER = """\
# Written by `samtune k8s`. Needs the KubeRay operator (1.5 or newer), and before `kubectl apply -f FILE`:
#   - the image below, with samtune and Ray {ray} in it (the recipe is in `samtune docs clusters`);
{needs}# To resume a search that was stopped: `kubectl delete rayjob {name}`, and apply the file again.
"""


@dataclass(frozen=True)
class KubernetesJob:
    """What the manifest asks of Kubernetes, and what it runs.

    Attributes:
        space: text of the YAML file, which travels in a ConfigMap.
        name: of the study, the RayJob and what belongs to it.
        image: with samtune in it.
        workers: most pods with workers; `gpus` and `cpus` are of each.
        storage_path: a bucket; None: a claim for a volume that all nodes mount (ReadWriteMany).
        tracking_uri: of an MLflow that is there; None: one is started, with a PostgreSQL.
        secret: name of a Secret whose keys become environment variables, e.g. a bucket's credentials; None: none.
    """

    space: str
    name: str
    image: str
    workers: int = 4
    gpus: int = 1
    cpus: int = 8
    memory: str = "32Gi"
    storage_path: str | None = None
    tracking_uri: str | None = None
    secret: str | None = None
    ray_version: str = "2.60.0"

    def check(self, resources: ResourcesConfig) -> None:
        """Raises UsageError where Kubernetes would refuse a value, or the pods can never hold a trial's workers."""
        names = {"name": self.name} | ({} if self.secret is None else {"secret": self.secret})
        for argument, text in names.items():
            if not _LABEL.fullmatch(text):
                problem = "must be lower-case letters, digits and -, at most 42, and begin with a letter"
                raise UsageError(problem, argument=argument, value=text)
        if not _IMAGE.fullmatch(self.image):
            raise UsageError("must be the name of an image, e.g. registry.example/samtune:1", argument="image")
        if not re.fullmatch(r"\d+(Mi|Gi|M|G)", self.memory):
            raise UsageError("must be as Kubernetes writes it, e.g. 32Gi", argument="memory", value=self.memory)
        for argument, number, least in (("workers", self.workers, 1), ("cpus", self.cpus, 1), ("gpus", self.gpus, 0)):
            if number < least:
                raise UsageError(f"must be at least {least}", argument=argument, value=number)
        if self.storage_path is not None and "://" not in self.storage_path:
            problem = "must be a bucket, e.g. s3://bucket/path; without it, a volume is claimed"
            raise UsageError(problem, argument="storage_path", value=self.storage_path)
        group_capacity(resources, [Node(float(self.cpus), float(self.gpus))] * self.workers)

    def manifest(self) -> str:
        """The text, for `kubectl apply -f`."""
        objects = [self._config_map()]
        if self.storage_path is None:
            objects.append(volume_claim(f"{self.name}-studies", "ReadWriteMany", "100Gi"))
        if self.tracking_uri is None:
            objects += mlflow_objects(self.name, self.image)
        objects.append(self._ray_job())
        return HEADER.format(ray=self.ray_version, name=self.name, needs=self._needs()) + yaml.dump_all(
            objects, Dumper=Readable, sort_keys=False, width=110
        )

    def _needs(self) -> str:
        lines = []
        if self.tracking_uri is None:
            options = '--from-literal=password="$(openssl rand -hex 24)"'
            command = f"kubectl create secret generic {self.name}-postgres {options}"
            lines.append(f"a password for MLflow's database: `{command}`;")
        if self.secret is not None:
            lines.append(f"the Secret {self.secret}, whose keys become environment variables of all pods;")
        if self.storage_path is None:
            lines.append("a storage class that offers ReadWriteMany, for the claim of a volume below;")
        return "".join(f"#   - {line}\n" for line in lines)

    def _config_map(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{self.name}-space"},
            "data": {"space.yaml": self.space},
        }

    def _ray_job(self) -> dict[str, Any]:
        head = self._group("head", {"cpu": "4", "memory": "16Gi"}, {"num-cpus": "0", "dashboard-host": "0.0.0.0"})
        limits = {"cpu": str(self.cpus), "memory": self.memory}
        if self.gpus:
            limits["nvidia.com/gpu"] = str(self.gpus)
        worker = self._group("worker", limits, {})
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": self.name},
            "spec": {
                "entrypoint": self.entrypoint,
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 60,
                # A search that failed is resumed by hand: to run it again at once would hide why.
                "backoffLimit": 0,
                "rayClusterSpec": {
                    "rayVersion": self.ray_version,
                    "authOptions": {"mode": "token"},
                    "enableInTreeAutoscaling": True,
                    "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 600},
                    "headGroupSpec": head,
                    "workerGroupSpecs": [
                        {"groupName": "workers", "replicas": 0, "minReplicas": 0, "maxReplicas": self.workers, **worker}
                    ],
                },
            },
        }

    @property
    def entrypoint(self) -> str:
        """What runs on the head: resumes the study where it is there already."""
        storage = shlex.quote(self.storage_path or STORAGE_FOLDER)
        tracking = shlex.quote(self.tracking_uri or f"http://{self.name}-mlflow:5000")
        where = f"--storage-path {storage}"
        search = f"samtune search {where} --address auto --trust --max-concurrent {self.workers * max(1, self.gpus)}"
        script = (
            f"if samtune status {self.name} {where} > /dev/null 2>&1; "
            f"then {search} --resume {self.name}; "
            f"else {search} --space {SPACE_FOLDER}/space.yaml --name {self.name} --tracking-uri {tracking}; fi"
        )
        return f"bash -c {shlex.quote(script)}"

    def _group(self, kind: str, limits: dict[str, str], start: dict[str, str]) -> dict[str, Any]:
        mounts = [{"name": "space", "mountPath": SPACE_FOLDER, "readOnly": True}]
        volumes: list[dict[str, Any]] = [{"name": "space", "configMap": {"name": f"{self.name}-space"}}]
        if self.storage_path is None:
            mounts.append({"name": "studies", "mountPath": STORAGE_FOLDER})
            volumes.append({"name": "studies", "persistentVolumeClaim": {"claimName": f"{self.name}-studies"}})
        # The default, 64 MB, is less than the batches that two processes of a worker hold in common.
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}})
        container: dict[str, Any] = {
            "name": f"ray-{kind}",
            "image": self.image,
            "resources": {"limits": dict(limits), "requests": dict(limits)},
            "volumeMounts": mounts,
        }
        if self.secret is not None:
            container["envFrom"] = [{"secretRef": {"name": self.secret}}]
        pod: dict[str, Any] = {"containers": [container], "volumes": volumes}
        if "nvidia.com/gpu" in limits:
            pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        return {"rayStartParams": start, "template": {"spec": pod}}


class Readable(yaml.SafeDumper):
    """Longer texts as they are, and everything written out where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        """With `|` where it has several lines."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


Readable.add_representer(str, Readable.represent_text)


def read_space(path: Path) -> str:
    """The text of a space, for the ConfigMap.

    Raises:
        UsageError: it is larger than Kubernetes takes (1 MiB).
    """
    text = path.read_text(encoding="utf-8")
    if len(text.encode()) > 1_000_000:
        raise UsageError(f"{path}: must be smaller than 1 MB for a ConfigMap (has {len(text.encode()):,} bytes)")
    return text
