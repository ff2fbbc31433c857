"""Cells with known programmes: training on hidden programmes finds out which genes belong together."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from selfcell.data.loader import cell_loader
from selfcell.data.simulate import simulate_programs
from selfcell.data.source import open_cells
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings


def make_task(programs, settings):
    torch.manual_seed(0)
    encoder = MlpEncoder(EncoderSettings(hidden_sizes=(32,), n_latent=8, dropout=0.0), n_genes=programs.n_genes)
    return MaskedAutoencoder(settings, encoder=encoder, programs=programs)


def same_program_auc(task, programs):
    """How well the similarity of two genes' output weights tells whether they are of one programme; 0.5 is chance."""
    weight = torch.nn.functional.normalize(task.decoder[-1].weight.detach(), dim=1).numpy()
    member = np.full(programs.n_genes, -1)
    for program, genes in enumerate(programs.genes):
        member[genes] = program
    first, second = np.triu_indices(programs.n_genes, k=1)
    together = (member[first] == member[second]) & (member[first] >= 0)
    return roc_auc_score(together, (weight[first] * weight[second]).sum(axis=1))


def activity_explained(task, minibatch, activity):
    """Share of the variance of programme activities that a linear map finds in the embedding of other cells."""
    with torch.no_grad():
        embedding = task.encoder(minibatch.expression()).numpy()
    half = len(activity) // 2
    return Ridge(1.0).fit(embedding[:half], activity[:half]).score(embedding[half:], activity[half:])


@pytest.mark.parametrize("mask", ["programs", "isolated_program"])
def test_programme_masks_recover_which_genes_belong_together(mask):
    adata, programs = simulate_programs(n_cells=1200, seed=0)
    cells = open_cells(adata)
    fraction = 0.25 if mask == "programs" else 0.5
    task = make_task(programs, MaskedAutoencoderSettings(mask=mask, mask_fraction=fraction, programs="known"))
    everything = next(iter(cell_loader(cells.counts, minibatch_size=1200)))
    before = same_program_auc(task, programs), activity_explained(task.eval(), everything, adata.obsm["activity"])
    optimizer = torch.optim.AdamW(task.train().parameters(), lr=3e-3)
    loader = cell_loader(cells.counts, minibatch_size=100, shuffle_seed=0)
    for epoch in range(30):
        loader.set_epoch(epoch)
        for step, minibatch in enumerate(loader):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            optimizer.zero_grad()
            task.compute_loss(minibatch, generator=generator).total.backward()
            optimizer.step()
    after = same_program_auc(task, programs), activity_explained(task.eval(), everything, adata.obsm["activity"])
    assert abs(before[0] - 0.5) < 0.05, "random weights know no programmes"
    assert after[0] > 0.7
    assert after[1] > before[1] + 0.02
