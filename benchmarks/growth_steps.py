"""The plain dense step and selfcell's own, of any size: arms of benchmarks/growth.py, each in a process of its own."""

import importlib.metadata
import itertools

import lightning.pytorch as pl
import scipy.sparse as sp
import torch
from speed import OurStep, PlainStep
from step_timing import N_LATENT, StepClock, StepRequest, hidden_sizes, run
from torch import nn

from selfcell.core.config import build
from selfcell.core.memory import keep_freed_memory
from selfcell.data.genes import GeneTable
from selfcell.data.loader import cell_loader
from selfcell.network.compute import Compute, quick_float32, set_compute
from selfcell.training.pretrain import make_task
from selfcell.training.settings import PretrainSettings

MOST_STEPS = 2_000


class PlainStepOfSize(PlainStep):
    """The plain step on any number of genes, at any width.

    Parameters
    ----------
    n_genes
        Genes.
    width
        Factor on the hidden sizes.
    """

    def __init__(self, *, n_genes: int, width: float) -> None:
        pl.LightningModule.__init__(self)
        hidden = hidden_sizes(width)
        sizes = [n_genes, *hidden, N_LATENT, *reversed(hidden)]
        blocks: list[nn.Module] = []
        for place, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            is_embedding = place == len(hidden)
            blocks += [nn.Linear(n_in, n_out)] if is_embedding else [nn.Linear(n_in, n_out), nn.SELU(), nn.Dropout(0.1)]
        self.network = nn.Sequential(*blocks, nn.Linear(hidden[0], n_genes), nn.Sigmoid())
        self.member, self.scores = None, nn.ModuleList()


class OurStepOfSize(OurStep):
    """A step of selfcell's on any number of genes, at any width.

    Parameters
    ----------
    n_genes
        Genes.
    width
        Factor on the hidden sizes.
    dtype
        Of products of matrices.
    """

    def __init__(self, *, n_genes: int, width: float, dtype: torch.dtype) -> None:
        pl.LightningModule.__init__(self)
        self.settings = build(PretrainSettings, {"network": {"hidden_sizes": hidden_sizes(width)}})
        names = tuple(f"gene{place}" for place in range(n_genes))
        self.task = make_task(self.settings, GeneTable(names, names))
        set_compute(self.task, Compute(dtype=dtype))


def train(request: StepRequest, counts: sp.csr_matrix, clock: StepClock) -> None:
    """Train on the same two minibatches again and again, until the clock says stop."""
    minibatches = list(cell_loader(counts, minibatch_size=request.minibatch))
    module: pl.LightningModule
    if request.arm == "plain":
        module = PlainStepOfSize(n_genes=counts.shape[1], width=request.width)
    else:
        keep_freed_memory()
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[request.arm]
        module = OurStepOfSize(n_genes=counts.shape[1], width=request.width, dtype=dtype)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[clock],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    steps = list(itertools.islice(itertools.cycle(minibatches), MOST_STEPS))
    with quick_float32(exact=request.arm == "plain"):
        trainer.fit(module, torch.utils.data.DataLoader(steps, batch_size=None))


if __name__ == "__main__":
    run(train, package=f"selfcell {importlib.metadata.version('selfcell')}")
