"""The settings of the paper's models."""

import numpy as np
import pytest
import torch

import selfcell
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.genes import GeneTable
from selfcell.data.programs import GenePrograms
from selfcell.training.presets import presets
from selfcell.training.pretrain import make_task
from selfcell.training.settings import PretrainSettings

GENES = GeneTable(tuple(f"ENSG{place:011d}" for place in range(30)), tuple(f"G{place}" for place in range(30)))


@pytest.mark.parametrize("name", presets())
def test_every_preset_makes_its_task(name):
    settings = build(PretrainSettings, selfcell.preset(name))
    programs = None
    if settings.pretext.uses_programs:
        programs = GenePrograms(("A", "B"), (np.arange(5), np.arange(5, 12)), 30, np.array([20, 21]))
    task = make_task(settings, GENES, programs)
    assert task.encoder.settings.hidden_sizes == (512, 512, 256, 256) and task.encoder.n_latent == 64


def test_the_settings_are_the_papers():
    random = build(PretrainSettings, selfcell.preset("paper-random"))
    assert (random.pretext.mask_fraction, random.training.minibatch_size) == (0.5, 8192)
    byol = build(PretrainSettings, selfcell.preset("paper-byol"))
    assert byol.training.patience == 0 and byol.pretext.projector_sizes == (4096, 256)
    assert {name for name in presets() if not name.startswith("paper-")} == set()


HEADS = {
    "paper-byol": {
        "projector": [(64, 4096), (4096, 256)],
        "predictor": [(256, 4096), (4096, 256)],
    },
    "paper-simsiam": {
        "projector": [(64, 4096), (4096, 4096), (4096, 256)],
        "predictor": [(256, 4096), (4096, 256)],
    },
    "paper-barlow-twins": {"projector": [(64, 256), (256, 256), (256, 512), (512, 512)]},
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_have_the_papers_layers(name):
    task = make_task(build(PretrainSettings, selfcell.preset(name)), GENES)
    for head, sizes in HEADS[name].items():
        layers = [layer for layer in getattr(task, head) if isinstance(layer, torch.nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in layers] == sizes


def test_contrastive_presets_train_as_the_released_scripts_do():
    byol, barlow = (build(PretrainSettings, selfcell.preset(f"paper-{name}")) for name in ("byol", "barlow-twins"))
    assert (byol.network.dropout, byol.training.learning_rate_decay, byol.pretext.target_momentum) == (0, 1, 0.99)
    assert (barlow.network.dropout, barlow.training.gradient_clip, barlow.training.optimizer) == (0, 0, "lars")
    assert barlow.pretext.second_views == () and barlow.training.schedule == "cosine"


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"Unknown preset 'paper-rnadom'\. Did you mean 'paper-random'"):
        selfcell.preset("paper-rnadom")
