"""A first plan for somebody's own cells, with its choices explained."""

import json
from pathlib import Path

from selfcell.benchmark.query import labelled_cells
from selfcell.core.errors import InputError
from selfcell.core.words import counted
from selfcell.data.cellxgene import donor_column, needed_label_column
from selfcell.data.counts import Scale
from selfcell.data.source import obs_column, open_cells

_FEW_CELLS, _MANY_GENES, _N_TOP_GENES = 20_000, 5_000, 2_000
_EPOCHS_OF_CELLS = 600_000
"""Cells that pre-training is to see, all epochs together, within limits of epochs."""
_LEAST_EPOCHS, _MOST_EPOCHS = 5, 40


def starter_plan(
    cells: Path,
    *,
    label_key: str | None = None,
    donor_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    scale: Scale = "auto",
    gene_column: str | None = None,
    beside: Path,
) -> str:
    """Write a plan that asks whether self-supervision helps with the types of some cells.

    Parameters
    ----------
    cells
        A file of cells.
    label_key, donor_key, batch_key
        Columns of ``obs``. Types that are not named are those of ``cell_type``, donors those of ``donor_id``, where it
        is there; an empty text stands for no donors.
    layer, scale, gene_column
        As in :func:`selfcell.embed`.
    beside
        The folder that the plan is to lie in.

    Returns
    -------
    The plan as TOML, with comments.

    Raises
    ------
    InputError
        If the cells cannot be worked with, or there are too few types or donors.
    """
    opened = open_cells(cells, layer=layer, scale=scale, gene_column=gene_column)
    label_key, donor_key = needed_label_column(opened, label_key), donor_column(opened, donor_key)
    types = obs_column(labelled_cells(opened, label_key).obs, label_key, role="label")
    if types.nunique() < 2:
        raise InputError(f"obs[{label_key!r}] has a single type, {types.iloc[0]!r}: there is nothing to tell apart.")
    n_donors = 0 if donor_key is None else obs_column(opened.obs, donor_key, role="donor").nunique()
    if donor_key is not None and n_donors < 3:
        raise InputError(
            f"obs[{donor_key!r}] has {counted(n_donors, 'donor')}, but three are needed: to learn from, to watch the "
            "loss on, and to judge on. With --donor '' cells are split one by one, which overstates results on new "
            "donors."
        )
    columns = {"label": label_key, "donor": donor_key, "batch": batch_key}
    found = {"layer": layer, "scale": None if scale == "auto" else scale, "gene_column": gene_column}
    named = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (columns | found).items() if value is not None)
    return _TEMPLATE.format(
        name=json.dumps(cells.stem),
        title=json.dumps(f"Does self-supervision help on {cells.stem}?"),
        source=json.dumps(_path_from(beside, cells)),
        columns=named,
        facts=f"{len(opened):,} cells, {len(opened.genes):,} genes, {types.nunique()} types, {_donors(n_donors)}",
        split=_split(donor_key),
        data=_data(donor_key, n_cells=len(opened), n_genes=len(opened.genes)),
        epochs=max(_LEAST_EPOCHS, min(_MOST_EPOCHS, _EPOCHS_OF_CELLS // max(len(opened), 1))),
        minibatch=256 if len(opened) > 5_000 else 64,
        budgets=_budgets(n_donors),
    )


def _donors(n_donors: int) -> str:
    return counted(n_donors, "donor") if n_donors else "no donors named"


def _path_from(folder: Path, cells: Path) -> str:
    try:
        return cells.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return cells.resolve().as_posix()


def _split(donor_key: str | None) -> str:
    if donor_key is not None:
        return (
            "Donors of 30 % of the cells are set aside: nothing is trained on them, and everything is judged on them."
        )
    return "No donors are named, so 30 % of the cells are set aside one by one: that overstates results on new donors."


def _data(donor_key: str | None, *, n_cells: int, n_genes: int) -> str:
    parts = [] if donor_key is None else [f"donor_key = {json.dumps(donor_key)}"]
    parts.append("test_fraction = 0.3")
    if n_cells < _FEW_CELLS and n_genes > _MANY_GENES:
        parts.append(f"n_top_genes = {_N_TOP_GENES}")
        why = "# Few cells of many genes: with the 2,000 most variable ones the encoder is better.\n"
        return f"{why}data = {{ {', '.join(parts)} }}"
    return f"data = {{ {', '.join(parts)} }}"


def _budgets(n_donors: int) -> str:
    few = [n_labelled for n_labelled in (2, 5) if n_labelled < 0.6 * n_donors]
    lines = [f"  {{ donors = {n_labelled}, max_epochs = 40 }}," for n_labelled in few]
    if not few:
        lines = ["  { fraction = 0.05, max_epochs = 100 },"]
    return "\n".join([*lines, "  {},"])


_TEMPLATE = """\
# {facts}.
# selfcell benchmark THIS_FILE --out DIR --dry-run says what it takes; without --dry-run it is run.
name = {name}
title = {title}

# Three of each is the least that an interval can be made of. Every pre-training is fine-tuned with every other seed.
[seeds]
pretraining = [0, 1, 2]
finetuning = [0, 1, 2]

[cells.mine]
source = {source}
{columns}

# What is pre-trained on: the same cells, without their labels. Name further cells, such as a larger atlas of the same
# tissue, for a second corpus: [cells.atlas] and [corpora.atlas].
[corpora.mine]
cells = "mine"
[corpora.mine.settings]
# {split}
{data}
training = {{ max_epochs = {epochs}, minibatch_size = {minibatch}, patience = 0 }}

# How: masked autoencoder and BYOL, the paper's best two kinds. Another: [encoders.NAME] and its settings.
[encoders.masked]
[encoders.contrastive]
settings = {{ pretext = {{ name = "byol" }} }}

[targets.types]
title = "Cell types"
cells = "mine"
# What is labelled, few first: that is where pre-training may help most. {{}} is all training donors.
budgets = [
{budgets}
]
# "usual" stands for the quick baselines; add "scvi" and "scanvi" where scvi-tools is installed.
baselines = ["usual"]
"""
