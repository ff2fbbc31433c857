"""The cells of the real-data studies, and the encoders that are pre-trained on them."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import scipy.sparse as sp

from selfcell.core.config import build
from selfcell.data import datasets
from selfcell.data.label_maps import read_label_map
from selfcell.data.source import Cells, open_cells
from selfcell.training.pretrain import pretrain
from selfcell.training.run_folder import TrainedModel, load, read_manifest
from selfcell.training.settings import PretrainSettings

BLOOD_TYPES = read_label_map(Path(__file__).parents[2] / "plans" / "blood_types.csv")
STUDIES = ("Tritschler et al. 2022", "Fasolino et al. 2022", "Muraro et al. 2016", "Tosti et al. 2021")
"""The studies of ``pancreas_4_studies``."""
_LABEL_KEYS = {"liu_covid_pbmc": "mergedcelltype", "pbmc3k": "louvain"}


@functools.lru_cache(maxsize=4)
def cells_of(name: str) -> Cells:
    """Give a data set, with ``blood_type`` in ``obs`` where its types have names in common with others."""
    adata = datasets.load(name)
    if name == "pancreas_4_studies":
        # What a study did not measure is zero in all its cells, and would tell studies apart.
        adata = adata[:, adata.var.filter(like="exist_in_").all(axis=1)].copy()
    key = _LABEL_KEYS.get(name, "cell_type")
    if key in adata.obs:
        labels = adata.obs[key].astype(str)
        adata.obs["blood_type"] = labels.map(lambda label: BLOOD_TYPES.get(label, label))
    return dataclasses.replace(open_cells(adata), origin=name)


def auxiliary_blood() -> Cells:
    """Put together all blood cells but those of ``liu_covid_pbmc``, on its genes."""
    target = cells_of("liu_covid_pbmc")
    parts = []
    for name in ("kang_ifnb", "teaseq_pbmc", "pbmc4k", "pbmc3k"):
        cells = dataclasses.replace(open_cells(datasets.load(name)), obsm={}).aligned_to(target.genes)
        obs = cells.obs[[]].assign(source=name)
        obs.index = name + " " + obs.index.astype(str)
        parts.append(anndata.AnnData(sp.csr_matrix(cells.counts), obs=obs))
    joined = anndata.concat(parts)
    joined.var_names = list(target.genes.names)
    return dataclasses.replace(open_cells(joined), genes=target.genes, origin="kang, teaseq, pbmc4k, pbmc3k")


@dataclass(frozen=True)
class Corpus:
    """Cells to pre-train on, and how."""

    name: str
    cells: Callable[[], Cells]
    settings: dict[str, Any]

    def models(self, folder: Path, *, n_seeds: int, network: dict[str, Any]) -> list[TrainedModel]:
        """Give the encoders of all seeds, pre-training those that are not there yet."""
        return [self._model(folder / self.name / f"seed{seed}", seed, network) for seed in range(n_seeds)]

    def _model(self, out: Path, seed: int, network: dict[str, Any]) -> TrainedModel:
        begun = (out / "manifest.json").exists()
        if begun and read_manifest(out)["status"] == "finished":
            return load(out)
        training = self.settings.get("training", {})
        settings = build(
            PretrainSettings,
            {**self.settings, "network": network, "training": {**training, "seed": seed}},
        )
        return pretrain(self.cells(), settings, out=out, resume=begun)


def _training(max_epochs: int, minibatch_size: int = 256) -> dict[str, Any]:
    return {"max_epochs": max_epochs, "minibatch_size": minibatch_size, "patience": 0}


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "liu",
            lambda: cells_of("liu_covid_pbmc"),
            {"data": {"donor_key": "Donor", "test_fraction": 0.3}, "training": _training(20)},
        ),
        Corpus("blood", auxiliary_blood, {"training": _training(20)}),
        *(
            corpus
            for name, genes in (("", {"n_top_genes": 2_000}), ("_all_genes", {}))
            for corpus in (
                Corpus(
                    f"kang_control{name}",
                    lambda: cells_of("kang_ifnb"),
                    {"data": {"where": "condition == 'control'", **genes}, "training": _training(30)},
                ),
                *(
                    Corpus(
                        f"pancreas_without_{study.split()[0]}{name}",
                        lambda: cells_of("pancreas_4_studies"),
                        {
                            "data": {"where": f"Dataset != '{study}'", "donor_key": "donor_id", **genes},
                            "training": _training(40, 128),
                        },
                    )
                    for study in STUDIES
                ),
            )
        ),
        Corpus(
            "pancreas",
            lambda: cells_of("pancreas_4_studies"),
            {"data": {"donor_key": "donor_id", "test_fraction": 0.3}, "training": _training(40, 128)},
        ),
        Corpus(
            "teaseq_train",
            lambda: cells_of("teaseq_pbmc"),
            {"data": {"where": "source_split == 'train'"}, "training": _training(40, 128)},
        ),
        Corpus(
            "snareseq",
            lambda: cells_of("snareseq_cell_lines"),
            {"data": {"test_fraction": 0.3}, "training": _training(100, 64)},
        ),
    )
}
"""What encoders are pre-trained on, by name."""
