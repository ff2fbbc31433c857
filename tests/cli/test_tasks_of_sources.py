"""Every task on every kind of file, from the training to the command that writes its answer."""

import anndata
import mudata
import numpy as np
import pytest

from selfcell.core.config import build
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import load
from selfcell.training.settings import PretrainSettings

N_CELLS = 90
TINY = {
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 1, "minibatch_size": 32, "device": "cpu"},
}
QUICK = ["--set", "training.max_epochs=1", "--set", "training.minibatch_size=32", "--set", "training.device=cpu"]
TASKS = {
    "cell_type": (["--label", "cell_type"], ["annotate"]),
    "reconstruction": ([], ["impute", "--gene", "GENE3"]),
    "integration": (["--batch", "batch"], ["embed"]),
    "cross_modality": (["--target", "protein_counts"], ["predict"]),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, take_proteins):
    """The same cells as a file, as a MuData file and as an atlas, and a model."""
    folder = tmp_path_factory.mktemp("sources")
    adata = simulate_cells(n_cells=N_CELLS, n_genes=40, n_types=3, n_donors=3, n_proteins=5, seed=0)
    pretrain(adata, build(PretrainSettings, TINY), out=folder / "base", show_progress=False)
    adata.write_h5ad(folder / "cells.h5ad")
    proteins = take_proteins(adata)
    with mudata.set_options(pull_on_update=False):
        mudata.MuData({"rna": adata, "prot": proteins}).write(folder / "cells.h5mu")
    build_atlas([folder / "cells.h5ad"], folder / "atlas", shard_cells=40)
    return folder


def answer_in(adata, task):
    """Give what the command has written, a row a cell."""
    if task == "cell_type":
        return adata.obs["predicted_type_confidence"].to_numpy()
    if task == "reconstruction":
        return adata[:, "GENE3"].layers["imputed"]
    return adata.obsm["X_selfcell" if task == "integration" else "predicted_protein_counts"]


@pytest.mark.parametrize("source", ["cells.h5ad", "cells.h5mu", "atlas"])
@pytest.mark.parametrize("task", list(TASKS))
def test_a_task_goes_all_the_way(run, sources, tmp_path, task, source):
    columns, command = TASKS[task]
    cells, tuned = sources / source, tmp_path / "tuned"
    code, _, errors = run("finetune", sources / "base", cells, "--task", task, *columns, *QUICK, "--out", tuned)
    if (task, source) == ("cross_modality", "atlas"):
        assert code == 1 and "atlas is an atlas, which keeps counts and obs alone" in errors
        assert not tuned.exists()
        return
    assert code == 0, errors
    name, *options = command
    code, said, errors = run(name, tuned, cells, *options, "--out", tmp_path / "answer.h5ad")
    assert code == 0 and "answer.h5ad" in said, errors
    found = anndata.read_h5ad(tmp_path / "answer.h5ad")
    assert sorted(found.obs_names) == sorted(anndata.read_h5ad(sources / "cells.h5ad").obs_names)
    answer = np.asarray(answer_in(found, task))
    assert len(answer) == N_CELLS and np.isfinite(answer).all() and answer.std() > 0


def test_a_fine_tuning_takes_its_seed(run, sources, tmp_path):
    quick = ["--set", "training.max_epochs=1", "--set", "training.device=cpu", "--label", "cell_type"]
    for seed in (3, 4):
        out = tmp_path / str(seed)
        assert run("finetune", sources / "base", sources / "cells.h5ad", *quick, "--seed", seed, "--out", out)[0] == 0
    assert load(tmp_path / "3").manifest["seed"] == 3
    assert load(tmp_path / "3").weights_digest != load(tmp_path / "4").weights_digest
