"""Files that start a search elsewhere: a batch script for Slurm, a manifest for Kubernetes.

Text from a space and a few numbers; knows the configuration and what a cluster can hold; starts nothing, and must not
import torch, Ray or MLflow.
"""
