"""The page on a pretext task of one's own: what it shows works, and what goes wrong is said."""

import re
import sys
from pathlib import Path

import pytest

import selfcell
from selfcell.core import code_version as hashing
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.training.settings import PretrainSettings

PAGE = Path(__file__).parents[2] / "docs" / "own-task.md"


@pytest.fixture
def own_task(tmp_path, monkeypatch) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    path = tmp_path / "replaced.py"
    path.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "replaced", raising=False)
    return path


def test_the_task_of_the_page_trains_resumes_and_embeds(own_task, adata, tmp_path):
    settings = {
        "data": {"donor_key": "donor"}, "network": {"hidden_sizes": [32], "n_latent": 8},
        "pretext": {"name": "replaced:Replaced", "fraction": 0.2},
    }  # fmt: skip
    whole = selfcell.pretrain(
        adata, settings | {"training": {"max_epochs": 4, "minibatch_size": 64}}, out=tmp_path / "whole"
    )
    part = settings | {"training": {"max_epochs": 2, "minibatch_size": 64}}
    selfcell.pretrain(adata, part, out=tmp_path / "part")
    more = settings | {"training": {"max_epochs": 4, "minibatch_size": 64}}
    resumed = selfcell.pretrain(adata, more, out=tmp_path / "part", resume=True)
    assert resumed.weights_digest == whole.weights_digest
    selfcell.embed(adata, whole)
    assert adata.obsm["X_selfcell"].shape == (adata.n_obs, 8)
    assert whole.manifest["pretext"] == "replaced:Replaced" and whole.manifest["pretext_settings"]["fraction"] == 0.2


def test_a_model_is_used_without_the_module_of_its_task(own_task, adata, tmp_path, monkeypatch):
    settings = {"pretext": {"name": "replaced:Replaced"}, "training": {"max_epochs": 1, "minibatch_size": 64}}
    model = selfcell.pretrain(adata, settings, out=tmp_path / "run")
    monkeypatch.delitem(sys.modules, "replaced")
    own_task.write_text("raise RuntimeError('it was imported')")
    selfcell.embed(adata, str(model.path))
    training = {"max_epochs": 1, "minibatch_size": 64}
    selfcell.finetune(model.path, adata, label_key="cell_type", settings={"training": training}, out=tmp_path / "tuned")


def test_its_code_is_part_of_a_hash(own_task):
    before = hashing.code_version(["replaced"])
    own_task.write_text(own_task.read_text().replace("roll(1", "roll(2"))
    hashing._digest.cache_clear()
    hashing._imported_by.cache_clear()
    assert hashing.code_version(["replaced"]) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Task", r"The pretext task nowhere:Task cannot be imported: there is no module 'nowhere'.*PYTHONPATH"),
        ("replaced:Task", r"The module replaced \(.*replaced\.py\) has no 'Task'"),
        ("replaced:Loss", r"replaced:Loss is no pretext task: it must be a class derived from"),
        ("replaced.Replaced", r"Unknown pretext task 'replaced\.Replaced'"),
    ],
)
def test_what_is_no_task_is_told(own_task, name, message):
    with pytest.raises(InputError, match=message):
        build(PretrainSettings, {"pretext": {"name": name}})


def test_settings_are_checked_as_those_of_other_tasks_are(own_task):
    with pytest.raises(InputError, match="fraction"):
        build(PretrainSettings, {"pretext": {"name": "replaced:Replaced", "fraction": 2}})
    with pytest.raises(InputError, match="it is one of masked_autoencoder"):
        build(PretrainSettings, {"pretext": {"name": "replaced:Replaced", "mask_fraction": 0.5}})
