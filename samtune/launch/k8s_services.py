"""MLflow with a PostgreSQL for it, beside a search on Kubernetes. Both are reachable within the cluster alone."""

from __future__ import annotations

from typing import Any

POSTGRES_IMAGE = "postgres:17"


def volume_claim(name: str, mode: str, size: str) -> dict[str, Any]:
    """A claim for a volume of the cluster's default storage class."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": size}}},
    }


def mlflow_objects(name: str, image: str) -> list[dict[str, Any]]:
    """The objects for MLflow of a search.

    The database's password is in the Secret `NAME-postgres`, under `password`, which the manifest names and lacks.

    Args:
        name: of the search.
        image: with MLflow and psycopg in it.
    """
    password = {"secretKeyRef": {"name": f"{name}-postgres", "key": "password"}}
    database = {
        "name": "postgres",
        "image": POSTGRES_IMAGE,
        "env": [
            {"name": "POSTGRES_USER", "value": "mlflow"},
            {"name": "POSTGRES_DB", "value": "mlflow"},
            {"name": "POSTGRES_PASSWORD", "valueFrom": password},
            # A folder in the volume: its root holds lost+found, on which initdb refuses to work.
            {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
        ],
        "ports": [{"containerPort": 5432}],
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-U", "mlflow"]}, "periodSeconds": 5},
    }
    server = {
        "name": "mlflow",
        "image": image,
        # Kubernetes puts $(NAME) in place; the password is in no argument that the manifest shows.
        "env": [
            {"name": "DATABASE_PASSWORD", "valueFrom": password},
            {
                "name": "MLFLOW_BACKEND_STORE_URI",
                "value": f"postgresql://mlflow:$(DATABASE_PASSWORD)@{name}-postgres:5432/mlflow",
            },
        ],
        "command": ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"],
        "args": ["--artifacts-destination", "/artifacts", "--allowed-hosts", f"{name}-mlflow:5000,localhost:5000"],
        "ports": [{"containerPort": 5000}],
        "volumeMounts": [{"name": "data", "mountPath": "/artifacts"}],
        "readinessProbe": {
            "httpGet": {
                "path": "/health",
                "port": 5000,
                "httpHeaders": [{"name": "Host", "value": "localhost:5000"}],
            },
            "periodSeconds": 5,
        },
    }
    return [
        volume_claim(f"{name}-postgres", "ReadWriteOnce", "20Gi"),
        *_served(f"{name}-postgres", database, 5432),
        volume_claim(f"{name}-mlflow", "ReadWriteOnce", "50Gi"),
        *_served(f"{name}-mlflow", server, 5000),
    ]


def _served(name: str, container: dict[str, Any], port: int) -> list[dict[str, Any]]:
    """A container that runs once, on the volume of its name, behind a Service of its name."""
    labels = {"app": name}
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # the volume is mounted by one pod at a time
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": [volume]}},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": labels, "ports": [{"port": port}]},
    }
    return [deployment, service]
