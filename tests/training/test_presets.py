"""The settings of the paper's models."""

import numpy as np
import pytest

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


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"Unknown preset 'paper-rnadom'\. Did you mean 'paper-random'"):
        selfcell.preset("paper-rnadom")
