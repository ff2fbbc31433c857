"""The card of a model: what it is, what it was trained on, how good it is, and where not to use it."""

import json
from typing import Any

from markupsafe import Markup

from selfcell.core.words import counted
from selfcell.publishing.card_scores import CardScores
from selfcell.publishing.markdown import fill_in
from selfcell.training.hub_address import address_in
from selfcell.training.run_folder import TrainedModel

_TAGS = ("biology", "genomics", "single-cell", "scRNA-seq", "transcriptomics", "anndata", "self-supervised-learning")
_TASKS = {
    "cell_type": ("cell-type annotation", "selfcell.annotate(adata, model)  # obs['predicted_type']"),
    "reconstruction": ("the reconstruction of expression", "selfcell.impute(adata, model)  # layers['imputed']"),
    "cross_modality": ("the prediction of another modality", "selfcell.predict_modality(adata, model)  # in obsm"),
    "integration": ("the integration of batches", "selfcell.embed(adata, model)  # obsm['X_selfcell']"),
}
_EMBED = "selfcell.embed(adata, model)  # obsm['X_selfcell']"


def write_card(
    model: TrainedModel,
    repository: str,
    *,
    license_id: str,
    trained_on: str | None = None,
    scores: CardScores | None = None,
    with_cells: bool = False,
) -> str:
    """Write the card of a model, in Markdown with the front matter that the Hub reads.

    Parameters
    ----------
    model
        The model.
    repository
        ``org/name``.
    license_id
        The identifier of the licence, as the Hub lists them.
    trained_on
        What the cells are, in the words of who publishes it.
    scores
        How good it is; None where that was not measured.
    with_cells
        Whether what tells its cells again is published too.
    """
    return fill_in(
        "model_card.md.j2",
        front_matter=Markup(_front_matter(model, license_id)),
        title=repository.partition("/")[2],
        repository=Markup(repository),
        summary=_summary(model),
        usage=Markup(_usage(model, repository)),
        trained_on=_trained_on(model, trained_on),
        network=_network(model),
        labels=", ".join(model.labels or ()),
        scores=scores,
        limits=_limits(model, with_cells=with_cells),
        license_id=Markup(license_id),
        versions=model.manifest["versions"],
    )


def _front_matter(model: TrainedModel, license_id: str) -> str:
    """Give the head of the card; a line of JSON is one of YAML too."""
    made_by = [str(value) for name in ("pretext", "task") if (value := model.manifest.get(name))]
    fields: dict[str, Any] = {
        "library_name": "selfcell",
        "license": license_id,
        "pipeline_tag": "feature-extraction",
        "tags": [*_TAGS, *(value.replace("_", "-") for value in made_by)],
    }
    began_from = address_in(str(model.manifest.get("start", "")))
    if began_from is not None and began_from.commit is not None:
        fields |= {"base_model": began_from.repository, "base_model_relation": "finetune"}
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _summary(model: TrainedModel) -> str:
    n_latent, n_genes = model.encoder.n_latent, len(model.genes)
    what = f"An encoder of single-cell RNA-seq: from {n_genes:,} genes of a cell to {n_latent} numbers"
    task = model.manifest.get("task")
    if task is not None:
        return f"{what}, trained with labels or targets for {_TASKS[task][0]}."
    return f"{what}, pre-trained without labels."


def _usage(model: TrainedModel, repository: str) -> str:
    task = model.manifest.get("task")
    lines = [
        "import anndata",
        "import selfcell",
        'adata = anndata.read_h5ad("cells.h5ad")  # raw counts',
        f'model = selfcell.load("{repository}")',
        _EMBED if task is None else _TASKS[task][1],
    ]
    return "\n".join(lines)


def _trained_on(model: TrainedModel, said: str | None) -> list[tuple[str, str]]:
    data = model.manifest["data"]
    facts = [("Cells, as said by who published it", said)] if said else []
    facts.append(("File", data["origin"]))
    if "imported" in model.manifest:
        return [*facts, ("Cells", "not known: the weights are those of an imported checkpoint")]
    counts = {"to learn from": "n_train", "to watch the loss on": "n_validation", "set aside": "n_test"}
    parts = [f"{data[key]:,} {what}" for what, key in counts.items() if data.get(key)]
    facts.append(("Cells", f"{data['n_cells']:,}" + (f": {', '.join(parts)}" if parts else "")))
    facts += [(name.capitalize(), _listed(sizes)) for name, sizes in model.manifest.get("composition", {}).items()]
    facts.append(("Donors", _donors(model)))
    if model.manifest.get("label_key"):
        facts.append(("Labels", f"the column {model.manifest['label_key']}"))
    return facts


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} ({counted(size, 'cell')})" for name, size in sizes.items())


def _donors(model: TrainedModel) -> str:
    split = model.split or {}
    if "donors" not in split or split.get("unit") == "query":
        return "not known: cells were split one by one"
    numbers = {part: len(named) for part, named in split["donors"].items() if named}
    words = {
        "train": "to learn from",
        "validation": "to watch the loss on",
        "test": "set aside",
        "left_out": "left out",
    }
    return ", ".join(f"{number} {words.get(part, part)}" for part, number in numbers.items())


def _network(model: TrainedModel) -> list[tuple[str, str]]:
    manifest, network, genes = model.manifest, model.encoder.settings, model.genes
    layers = "-".join(map(str, (len(genes), *network.hidden_sizes, network.n_latent)))
    named = [symbol or name for name, symbol in zip(genes.ids[:3], genes.symbols[:3], strict=True)]
    facts = [
        ("Genes", f"{len(genes):,}, in genes.csv: {', '.join(named)}, ..."),
        ("Layers", f"{layers}, fully connected, {network.activation}"),
        ("Pretext task", str(manifest.get("pretext") or "none")),
    ]
    settings = manifest.get("pretext_settings") or {}
    plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
    if plain:
        facts.append(("Its settings", ", ".join(f"{name}={value}" for name, value in plain.items())))
    if manifest.get("task"):
        facts += [("Trained further for", str(manifest["task"])), ("Start", str(manifest.get("start", "not known")))]
    if "target_names" in manifest:
        facts.append(("Predicts", f"{counted(len(manifest['target_names']), 'target')} of {manifest['target']}"))
    if "fit" in manifest:
        facts.append(("Epochs", f"{manifest['fit']['epochs']:.4g}"))
    return [*facts, ("Seed", str(manifest["seed"]))]


def _limits(model: TrainedModel, *, with_cells: bool) -> list[str]:
    limits = [
        "Not for diagnosis, nor for any decision about a patient: it is for research.",
        "Not for cells unlike those it was trained on (species, tissue, assay, disease) before it was judged on such: "
        "selfcell evaluate.",
        "Not for values that are no raw counts. Genes other than its own count for nothing, and cells with under half "
        "of its genes are refused.",
        "Not as evidence that self-supervision helps: compare it with the same network trained from scratch, and with "
        "plain baselines.",
    ]
    if not with_cells:
        limits.append(
            "Its donors and cells are not told: selfcell evaluate cannot say whether test cells were trained on, nor "
            "finetune leave out what was set aside. Judge it on cells that you know to be new."
        )
    if model.labels is not None:
        limits.append("Types that it does not know it calls by the name of one that it knows.")
        if "calibration" not in model.manifest:
            limits.append("How sure it says it is, is not calibrated.")
    if warning := (model.manifest.get("imported") or {}).get("warning"):
        limits.append(str(warning))
    return limits
