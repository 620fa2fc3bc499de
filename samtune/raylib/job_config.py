"""A job whose processes do not import from the driver's working directory."""

from __future__ import annotations

from ray.job_config import JobConfig


class IsolatedJobConfig(JobConfig):
    """Ray puts the driver's working directory, and the folder of its script, first on the path of every worker.

    Every library there would then import a `redis.py` that lies in it. The user's own modules are found all the same,
    by the user's own code (`samtune.user_path`).
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True  # asked only for whether to add the two folders
