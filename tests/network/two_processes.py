"""One training step of each task on the cells of one process, or of one of several; run as a script for the latter."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch import nn

from selfcell.data.loader import cell_loader
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.network.view_pair import ViewPair
from selfcell.pretext import PRETEXT_TASKS

TASKS = ("simclr", "barlow_twins", "vicreg", "byol", "simsiam", "moco", "nnclr", "dino")
N_CELLS = 12


class FixedViews(nn.Module):
    """Every other gene, and the rest: views that do not depend on which process draws them."""

    def forward(self, minibatch, *, generator):
        expression = minibatch.expression()
        even = torch.arange(minibatch.n_genes) % 2 == 0
        return ViewPair(expression.masked_fill(even, 0.0), expression.masked_fill(~even, 0.0))


def without_batch_norm(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)


def make_task(name):
    torch.manual_seed(0)
    encoder = MlpEncoder(EncoderSettings(hidden_sizes=(16,), n_latent=8, dropout=0), n_genes=60)
    task_class = PRETEXT_TASKS[name]
    sizes = {field: 20 for field in ("queue_size", "n_prototypes") if field in task_class.Settings.model_fields}
    task = task_class(task_class.Settings(projector_sizes=(10, 6), **sizes), encoder=encoder)
    task.views = FixedViews()
    without_batch_norm(task)
    return task.double().train()


def step(rank, n_processes):
    """Give loss, gradients and state after the step of each task, averaged over processes as DDP does."""
    counts = open_cells(simulate_cells(n_cells=N_CELLS, n_genes=60, n_types=3, n_donors=2, seed=0)).counts
    minibatch = list(cell_loader(counts, minibatch_size=N_CELLS // n_processes))[rank]
    minibatch.values = minibatch.values.double()
    found = {}
    for name in TASKS:
        task = make_task(name)
        loss = task.compute_loss(minibatch, generator=torch.Generator()).total
        loss.backward()
        tensors = {"loss": loss.detach()}
        tensors |= {key: parameter.grad for key, parameter in task.named_parameters() if parameter.requires_grad}
        if n_processes > 1:
            for tensor in tensors.values():
                torch.distributed.all_reduce(tensor)
                tensor /= n_processes
        if hasattr(task, "update_target"):
            task.update_target(progress=0.0)
        found[name] = {**tensors, **{f"after {key}": tensor for key, tensor in task.state_dict().items()}}
    return found


def main():
    rank, n_processes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=n_processes,
        timeout=timedelta(seconds=120),
    )
    torch.save(step(rank, n_processes), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
