"""Losses against those of lightly, fetched at one pinned version; only its files of formulas are imported."""

import importlib
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from selfcell.data.dataset_table import PinnedFile
from selfcell.data.package_index import fetch
from selfcell.pretext.barlow_twins import cross_correlation, distance_from_identity
from selfcell.pretext.byol import prediction_error
from selfcell.pretext.dino import sorted_by_teacher, sorting_cross_entropy
from selfcell.pretext.moco import queue_cross_entropy
from selfcell.pretext.simclr import nt_xent
from selfcell.pretext.simsiam import negative_cosine
from selfcell.pretext.vicreg import vicreg_terms

pytestmark = pytest.mark.network

LIGHTLY = PinnedFile(
    "lightly",
    "lightly-1.5.26-py3-none-any.whl",
    "6ffc121af5b73093579941d44234523babea1046725c1826f8675ba57ecc58f7",
    891186,
)


@pytest.fixture
def lightly(monkeypatch):
    """Give a loss by module and name. The packages' own __init__, which need torchvision and more, are left out."""
    wheel = fetch(LIGHTLY)
    for name in ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.utils"):
        package = ModuleType(name)
        package.__path__ = [str(wheel / name.replace(".", "/"))]
        monkeypatch.setitem(sys.modules, name, package)
    utils = ModuleType("lightly.models.utils")
    monkeypatch.setitem(sys.modules, "lightly.models.utils", utils)
    sys.modules["lightly.models"].utils = utils
    yield lambda module, name: getattr(importlib.import_module(f"lightly.loss.{module}"), name)
    for name in [name for name in sys.modules if name.startswith("lightly.")]:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_nt_xent(lightly, draw, agree):
    first, second = draw(0, 20), draw(1, 20)
    published = lightly("ntx_ent_loss", "NTXentLoss")(temperature=0.3)
    agree(nt_xent(first, second, temperature=0.3), published(first, second), [first, second])


def test_the_cross_entropy_with_a_queue(lightly, draw, agree):
    query, key = draw(0, 20), draw(1, 20).detach()
    published = lightly("ntx_ent_loss", "NTXentLoss")(temperature=0.3, memory_bank_size=(30, 5))
    published.memory_bank.bank = F.normalize(draw(2, 30).detach(), dim=1)
    queue = published.memory_bank.bank.clone()
    agree(queue_cross_entropy(query, key, queue=queue, temperature=0.3), published(query, key), [query])


def test_barlow_twins(lightly, draw, agree):
    first, second = draw(0, 20), draw(1, 20)
    invariance, redundancy = distance_from_identity(cross_correlation(first, second))
    published = lightly("barlow_twins_loss", "BarlowTwinsLoss")(lambda_param=0.0051)
    agree(invariance + 0.0051 * redundancy, published(first, second), [first, second])


def test_vicreg(lightly, draw, agree):
    first, second = draw(0, 20), draw(1, 20)
    terms = vicreg_terms(first, second)
    published = lightly("vicreg_loss", "VICRegLoss")()
    total = 25 * terms.invariance + 25 * terms.variance + terms.covariance
    agree(total, published(first, second), [first, second])


def test_negative_cosine(lightly, draw, agree):
    prediction, projection = draw(0, 20), draw(1, 20).detach()
    published = lightly("negative_cosine_similarity", "NegativeCosineSimilarity")()
    agree(negative_cosine(prediction, projection), published(prediction, projection), [prediction])
    agree(prediction_error(prediction, projection), 2 + 2 * published(prediction, projection), [prediction])


def test_dino(lightly, draw, agree):
    first_student, second_student = draw(0, 20), draw(1, 20)
    first_teacher, second_teacher, center = draw(2, 20).detach(), draw(3, 20).detach(), draw(4, 1).detach()[0]
    published = lightly("dino_loss", "DINOLoss")(
        output_dim=5, student_temp=0.1, teacher_temp=0.0625, center_momentum=0.9
    )
    # It keeps the temperature in float32, which 1/16 is exact in.
    published.center = center[None, None]
    expected = published([first_teacher, second_teacher], [first_student, second_student])
    total = 0.5 * sorting_cross_entropy(
        second_student, sorted_by_teacher(first_teacher, center=center, temperature=0.0625), temperature=0.1
    ) + 0.5 * sorting_cross_entropy(
        first_student, sorted_by_teacher(second_teacher, center=center, temperature=0.0625), temperature=0.1
    )
    agree(total, expected, [first_student, second_student])
    mean = torch.cat([first_teacher, second_teacher]).mean(dim=0)
    torch.testing.assert_close(published.center[0, 0], center.lerp(mean, 0.1))
