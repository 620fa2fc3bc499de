"""A Lightning program on two ranks of this machine; the first writes the weights. Argument: the file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

sys.path.insert(0, str(Path(__file__).parents[1]))

from integrations.conftest import run_program
from integrations.test_libraries import lightning_trainer, make_data, make_net, weights

if __name__ == "__main__":
    module = run_program("PyTorch Lightning")["Module"](make_net())
    trainer = lightning_trainer(devices=2, strategy="ddp", use_distributed_sampler=False)  # Lightning's shuffles
    data, rank = make_data(), trainer.strategy.cluster_environment.local_rank()
    trainer.fit(module, DataLoader(Subset(data, range(rank, len(data), 2)), 8))
    if trainer.global_rank == 0:
        torch.save(weights(module.net), sys.argv[1])
