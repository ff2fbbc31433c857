"""Plans: what is made of them, and what is refused before cells are read."""

from pathlib import Path

import numpy as np
import pytest
import tomli_w

from selfcell.benchmark.plan import planned_encoders, planned_studies, read_plan
from selfcell.benchmark.plan_cells import PlanCells
from selfcell.benchmark.starter_plan import starter_plan
from selfcell.core.errors import InputError
from selfcell.data.dataset_table import DATASETS
from selfcell.data.simulate import simulate_cells

PLAN = {
    "name": "small",
    "seeds": {"pretraining": [0, 1], "finetuning": [0, 2]},
    "cells": {"made": {"source": "made.h5ad", "label": "cell_type", "donor": "donor"}},
    "corpora": {"made": {"cells": "made", "settings": {"data": {"donor_key": "donor"}, "training": {"max_epochs": 3}}}},
    "encoders": {
        "masks": {"grid": {"pretext.mask_fraction": [0.25, 0.5], "network.n_latent": [8, 16]}},
        "byol": {"settings": {"pretext": {"name": "byol"}, "training": {"minibatch_size": 32}}},
    },
    "targets": {"types": {"cells": "made", "budgets": [{"donors": 2, "max_epochs": 5}, {}]}},
}


def plan_of(tmp_path, **changes):
    """Write the plan with sections replaced, and read it."""
    file = tmp_path / "plan.toml"
    file.write_text(tomli_w.dumps({**PLAN, **changes}))
    return read_plan(file)


def test_a_grid_makes_every_combination_over_the_settings_of_the_corpus(tmp_path):
    encoders = {one.encoder: one for one in planned_encoders(plan_of(tmp_path))}
    assert list(encoders) == [
        *(f"masks, mask_fraction {share}, n_latent {size}" for share in (0.25, 0.5) for size in (8, 16)),
        "byol",
    ]
    assert encoders["masks, mask_fraction 0.25, n_latent 16"].settings.network.n_latent == 16
    byol = encoders["byol"].with_seed(7)
    assert byol.training.seed == 7 and byol.training.max_epochs == 3 and byol.training.minibatch_size == 32
    assert byol.data.donor_key == "donor" and byol.pretext.name == "byol"


def test_a_target_is_asked_of_the_encoders_it_names(tmp_path):
    targets = {"all": {"cells": "made"}, "some": {"cells": "made", "encoders": ["masks"], "baselines": []}}
    plan = plan_of(tmp_path, targets=targets)
    studies = planned_studies(plan, planned_encoders(plan))
    assert [study.target for study in studies] == ["all"] * 5 + ["some"] * 4
    assert studies[0].plan.seeds == (0, 2) and studies[0].plan.crossed and studies[0].plan.label_key == "cell_type"
    assert studies[-1].plan.methods == ("zero_shot", "probe", "fine_tuned", "from_scratch")


def test_without_encoders_there_is_the_default_one(tmp_path):
    assert [one.encoder for one in planned_encoders(plan_of(tmp_path, encoders={}))] == ["default"]


CELLS = PLAN["cells"]["made"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targts": {}}, r"Unknown section 'targts'\. Did you mean 'targets'\?"),
        ({"seeds": {"pretraining": [1, 1]}}, r"\[seeds\] pretraining: \[1, 1\] must be different seeds"),
        ({"seeds": {"finetuning": []}}, r"\[seeds\] finetuning: \[\] must be different seeds, at least one"),
        ({"targets": {}}, r"has no \[targets\.NAME\]"),
        ({"targets": {"a": {"cells": "mde"}}}, r"\[targets\.a\] cells: there are no cells 'mde'\. Did you mean 'made'"),
        ({"targets": {"a": {"cells": "made", "task": "cell_typ"}}}, r"task 'cell_typ': Did you mean 'cell_type'"),
        ({"targets": {"a": {"cells": "made", "encoders": ["byl"]}}}, r"unknown 'byl'\. Did you mean 'byol'"),
        ({"targets": {"a": {"cells": "made", "corpora": ["none"]}}}, r"\[targets\.a\] corpora: unknown 'none'"),
        ({"targets": {"a": {"cells": "made", "baselines": ["pca_kn"]}}}, r"\[targets\.a\]: Unknown baseline"),
        ({"targets": {"a": {"cells": "made", "query": "made", "test_where": "x"}}}, "not on both"),
        ({"targets": {"a": {"cells": "made", "settings": {"n_neighbrs": 3}}}}, r"Did you mean 'n_neighbors'"),
        ({"targets": {"a": {"cells": "made", "budgets": [{"donors": 0}]}}}, "donors"),
        ({"corpora": {"a": {"cells": "made", "settings": {"trainin": {}}}}}, r"on a: Unknown section 'trainin'"),
        ({"corpora": {"a": {"cells": "made", "preset": "paper-randm"}}}, r"Did you mean 'paper-random'"),
        (
            {"encoders": {"a": {"grid": {"mask_fraction": [0.5]}}}},
            r'write "section\.name", such as "pretext\.mask_fraction"',
        ),
        (
            {"encoders": {"a": {"grid": {"pretext.mask_fraction": [1.5]}}}},
            r"Pre-training a, mask_fraction 1\.5 on",
        ),
        ({"models": {"masks": {"source": "run"}}}, r"\[models\.masks\]: an encoder has this name"),
        ({"corpora": {"given": {"cells": "made"}}}, r"\[corpora\.given\]: .*take another name"),
        ({"corpora": {}}, r"has no \[corpora\.NAME\]"),
        (
            {"models": {"m": {"source": "run"}}, "targets": {"a": {"cells": "made", "models": ["n"]}}},
            r"\[targets\.a\] models: unknown 'n'",
        ),
        ({"targets": {"a": {"cells": "made", "encoders": []}}}, r"\[targets\.a\] asks no encoder"),
        ({"cells": {"made": {**CELLS, "genes_of": "made"}}}, "genes_of goes in a circle: made -> made"),
        (
            {"cells": {"made": {**CELLS, "genes_of": "b"}, "b": {**CELLS, "genes_of": "made"}}},
            "genes_of goes in a circle: made -> b -> made",
        ),
        ({"seeds": {"pretraining": [-1]}}, "greater than or equal to 0"),
        ({"targets": {"a": {"cells": "made", "test_where": "x", "test_fraction": 0.2}}}, "leave test_fraction out"),
        ({"targets": {"a": {"cells": "made", "budgets": [{"donors": 2, "fraction": 0.1}]}}}, "not both"),
        (
            {"targets": {"a": {"cells": "made", "settings": {"training": {"freeze_encoder": True}}}}},
            "the regime probe is the one that freezes",
        ),
        ({"targets": {"a": {"cells": "made", "settings": {"training": {"budget": "1h"}}}}}, "machine's speed"),
        (
            {"targets": {"a": {"cells": "made", "settings": {"training": {"devices": 2}}}}},
            "devices and nodes must be 1",
        ),
        ({"cells": {"made": {"source": "made.h5ad"}}}, r"must name the column of types: label"),
        (
            {"cells": {"made": {"source": "made.h5ad"}}, "targets": {"a": {"cells": "made", "task": "integration"}}},
            r"must name the column of types: label",
        ),
        (
            {"corpora": {"a": {"cells": "made", "settings": {"training": {"seed": 7}}}}},
            r"on a: training\.seed has no place .*\[seeds\] pretraining",
        ),
        (
            {"corpora": {"a": {"cells": "made", "settings": {"training": {"budget": "8h"}}}}},
            r"with training\.budget encoders would depend on the machine's speed",
        ),
        ({"encoders": {"a": {"grid": {"training.seed": [1, 2]}}}}, r"Pre-training a, seed 1 on made: training\.seed"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_its_place(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, **changes)


def test_a_starter_plan_can_be_read_and_says_why(tmp_path):
    cells = tmp_path / "my cells.h5ad"
    simulate_cells(n_cells=120, n_genes=50, n_types=3, n_donors=9, seed=0).write_h5ad(cells)
    text = starter_plan(cells, label_key="cell_type", donor_key="donor", batch_key="batch", beside=tmp_path)
    (tmp_path / "plan.toml").write_text(text)
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.cells["mine"].source == "my cells.h5ad" and plan.name == "my cells"
    assert [budget.donors for budget in plan.targets["types"].budgets] == [2, 5, None]
    assert "120 cells, 50 genes, 3 types, 9 donors." in text and "nothing is trained on them" in text
    assert set(plan.encoders) == {"masked", "contrastive"}
    (tmp_path / "plan.toml").write_text(starter_plan(cells, label_key="cell_type", beside=tmp_path / "elsewhere"))
    plan = read_plan(tmp_path / "plan.toml")
    assert plan.cells["mine"].source == str(cells) and plan.targets["types"].budgets[0].fraction == 0.05


def test_a_starter_plan_needs_types_and_donors(tmp_path):
    adata = simulate_cells(n_cells=60, n_genes=50, n_types=3, n_donors=2, seed=0)
    adata.obs["one"] = "T cell"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for columns, message in (
        ({"label_key": "one"}, r"obs\['one'\] has a single type, 'T cell'"),
        ({"label_key": "cell_type", "donor_key": "donor"}, r"obs\['donor'\] has 2 donors, but three are needed"),
        ({"label_key": "cell_typ"}, "Did you mean 'cell_type'"),
    ):
        with pytest.raises(InputError, match=message):
            starter_plan(tmp_path / "cells.h5ad", beside=tmp_path, **columns)


def test_a_starter_plan_takes_what_counts_and_columns_are_called(tmp_path, caplog):
    adata = simulate_cells(n_cells=60, n_genes=50, n_types=3, n_donors=4, seed=0)
    adata.obs["donor_id"] = adata.obs["donor"]
    adata.var["symbol"], adata.layers["normal"] = adata.var_names, adata.X.copy()
    scaled = adata.layers["normal"].multiply(1e4 / adata.X.sum(axis=1)).tocsr()
    adata.layers["normal"] = scaled.log1p().astype(np.float32)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found = {"layer": "normal", "scale": "log1p", "gene_column": "symbol"}
    with caplog.at_level("INFO", "selfcell"):
        text = starter_plan(tmp_path / "cells.h5ad", beside=tmp_path, **found)
    assert "Types are those of obs['cell_type']" in caplog.text and "Donors are those of obs['donor_id']" in caplog.text
    (tmp_path / "plan.toml").write_text(text)
    plan = read_plan(tmp_path / "plan.toml")
    assert len(PlanCells(plan, tmp_path)["mine"]) == 60 and plan.cells["mine"].model_dump(exclude_defaults=True) == {
        "source": "cells.h5ad", "label": "cell_type", "donor": "donor_id", **found
    }  # fmt: skip
    by_cell = starter_plan(tmp_path / "cells.h5ad", donor_key="", beside=tmp_path, **found)
    assert "No donors are named" in by_cell and "donor =" not in by_cell
    adata.obs = adata.obs.drop(columns="cell_type")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"--label COLUMN .*no obs\['cell_type'\]. In obs there is .*donor_id"):
        starter_plan(tmp_path / "cells.h5ad", beside=tmp_path)


def test_what_is_said_of_cells_is_said_once_however_often_they_are_read(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("selfcell.benchmark.plan_cells._HELD", 1)
    for name, n_genes in (("many", 60), ("few", 40)):
        simulate_cells(n_cells=60, n_genes=n_genes, n_types=3, seed=0).write_h5ad(tmp_path / f"{name}.h5ad")
    made = {"many": {"source": "many.h5ad"}, "few": {"source": "few.h5ad", "genes_of": "many"}}
    (tmp_path / "plan.toml").write_text(tomli_w.dumps({**PLAN, "cells": {**PLAN["cells"], **made}}))
    cells = PlanCells(read_plan(tmp_path / "plan.toml"), tmp_path)
    with caplog.at_level("INFO", "selfcell"):
        for _ in range(3):
            assert len(cells["few"].genes) == 60 and len(cells["many"]) == 60
    assert caplog.text.count("of the encoder's 60 genes") == 1


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "plans").glob("*.toml")), ids=lambda file: file.stem
)
def test_shipped_plans_can_be_carried_out(file):
    plan = read_plan(file)
    assert planned_studies(plan, planned_encoders(plan)) and plan.name == file.stem
    for cells in plan.cells.values():
        assert cells.label_map is None or (file.parent / cells.label_map).exists()
        for source in [cells.source] if isinstance(cells.source, str) else cells.source:
            assert source in DATASETS or file.stem == "paper"
