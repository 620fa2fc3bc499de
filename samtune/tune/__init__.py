"""Ray Tune and Optuna: the searcher, Optuna's samplers, the concurrency limiter, the recorder, the trainable.

Knows worker groups and the store; must not import MLflow, or the private side of Ray (`samtune.raylib` does).
"""
