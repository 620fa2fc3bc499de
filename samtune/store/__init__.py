"""A study on disk or in a bucket: its journal, folder, lease and Optuna file.

Knows studies, search spaces and file systems; must not import Ray Tune or MLflow.
"""
