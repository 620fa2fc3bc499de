"""Experiment tracking with MLflow. Importing this package does not import mlflow; connecting does."""

from samtune.tracking.tracker import MlflowTracker
from samtune.tracking.uris import default_tracking_uri, resolve_tracking_uri, ui_command, ui_page

__all__ = ["MlflowTracker", "default_tracking_uri", "resolve_tracking_uri", "ui_command", "ui_page"]
