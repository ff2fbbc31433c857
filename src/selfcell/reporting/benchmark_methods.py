"""The methods paragraphs of a benchmark's page, written from the settings that were used."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from selfcell.benchmark.sessions import sessions_of
from selfcell.core.words import counted
from selfcell.reporting.benchmark_tables import BenchmarkTables, headline_scores
from selfcell.reporting.names import VISIBLE_FROM, encoder_name, method_name, metric_name

_TOLD_VERSIONS = ("selfcell", "torch", "python")


def methods_paragraphs(tables: BenchmarkTables) -> list[str]:
    """Say what was trained on what and how, what it was asked, and by which scores it was judged."""
    return [
        *_of_pretraining(tables),
        *_of_targets(tables),
        VISIBLE_FROM,
        _made_by(sessions_of(tables.about)),
    ]


def _made_by(sessions: Sequence[Mapping[str, Any]]) -> str:
    """Name the commands, and the versions where they are not the same in all sessions."""
    told = [one["command"] + (f" ({', '.join(facts)})" if (facts := _when(one)) else "") for one in sessions]
    versions = {name: [one["versions"].get(name) for one in sessions] for name in _TOLD_VERSIONS}
    differing = [
        f"{name} {', then '.join(map(str, _runs_of(of_name)))}"
        for name, of_name in versions.items()
        if len(set(of_name)) > 1
    ]
    made = (
        f"Made with selfcell {sessions[-1]['versions']['selfcell']} by {'; '.join(told)}. These are the sessions that "
        "came to their end in this folder."
    )
    return made + (f" Versions differ between sessions: {'; '.join(differing)}." if differing else "")


def _when(session: Mapping[str, Any]) -> list[str]:
    seconds = session["seconds"]
    return [
        *([session["when"]] if session["when"] else []),
        *([f"{session['times']} times"] if session["times"] > 1 else []),
        *([] if seconds is None else [f"{seconds:,.0f} seconds"]),
    ]


def _runs_of(values: Sequence[Any]) -> list[Any]:
    return [value for value, _ in groupby(values)]


def _of_pretraining(tables: BenchmarkTables) -> list[str]:
    plan = tables.plan
    runs = pd.DataFrame(tables.about["pretrainings"], columns=["corpus", "encoder", "seed", "n_train", "seconds"])
    given = f"Models that were trained before ({', '.join(plan.get('models', {}))}) were taken as they are."
    if runs.empty:
        return [given] if plan.get("models") else []
    corpora = "; ".join(
        f"{name} ({_range(part['n_train'])} training cells of {plan['corpora'][name]['cells']})"
        for name, part in runs.groupby("corpus", sort=False)
    )
    trained = set(zip(runs["corpus"], runs["encoder"], strict=True))
    encoders = [one for one in tables.about["settings"]["encoders"] if (one["corpus"], one["encoder"]) in trained]
    sentences = [
        f"Encoders ({', '.join(dict.fromkeys(runs['encoder']))}) were pre-trained without labels on {corpora}, each "
        f"with {counted(len(plan['seeds']['pretraining']), 'seed')} ({len(runs)} runs).",
        *(
            f"{what}: {_by_encoder(encoders, section, words)}."
            for what, section, words in (
                ("Network", "network", _network),
                ("Pretext task", "pretext", _pretext),
                ("Cells", "data", _split),
                ("Training", "training", _training),
            )
        ),
    ]
    return [" ".join([*sentences, given] if plan.get("models") else sentences)]


def _range(numbers: pd.Series) -> str:
    least, most = int(numbers.min()), int(numbers.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _of_targets(tables: BenchmarkTables) -> list[str]:
    plan, settings = tables.plan, tables.about["settings"]["targets"]
    estimates = headline_scores(tables.estimates)
    if estimates.empty:
        return []
    methods = ", ".join(method_name(method) for method in dict.fromkeys(estimates["method"]))
    scores = estimates.drop_duplicates("target").set_index("target")["metric"].to_dict()
    asked = {name: plan["targets"][name] for name in scores}
    trainings = {
        name: _training(settings[name]["training"], tell_epochs=not _have_epochs(target))
        for name, target in asked.items()
    }
    seeds = counted(len(plan["seeds"]["finetuning"]), "seed")
    return [
        f"All were judged at {counted(len(asked), 'target')} with {seeds} of fine-tuning for every pre-training: "
        f"{methods}. Networks from pre-trained and from random weights differ in nothing but these. Score: "
        f"{_grouped({name: metric_name(metric) for name, metric in scores.items()})}. Cells to learn from and to judge "
        f"on: {_grouped({name: _judged(target) for name, target in asked.items()})}. Labelled: "
        f"{_grouped({name: _budgets(target) for name, target in asked.items()})}. Training for the task, of fine-tuned "
        f"networks and of those from scratch: {_grouped(trainings)}."
    ]


def _by_encoder(encoders: Sequence[Mapping[str, Any]], section: str, words: Callable[[Mapping[str, Any]], str]) -> str:
    """Say what the settings are, by encoder or by corpus alone where they depend on no more."""
    for naming in (
        lambda one: one["encoder"],
        lambda one: one["corpus"],
        lambda one: encoder_name(one["encoder"], one["corpus"]),
    ):
        told: dict[str, set[str]] = {}
        for one in encoders:
            told.setdefault(naming(one), set()).add(words(one["settings"][section]))
        if all(len(said) == 1 for said in told.values()):
            break
    return _grouped({name: said.pop() for name, said in told.items()})


def _grouped(words: Mapping[str, str]) -> str:
    """Say what holds of all once, and else of which it holds."""
    names: dict[str, list[str]] = {}
    for name, said in words.items():
        names.setdefault(said, []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{', '.join(of)}: {said}" for said, of in names.items())


def _network(settings: Mapping[str, Any]) -> str:
    hidden = " and ".join(f"{size:,}" for size in settings["hidden_sizes"]) or "no"
    return (
        f"{hidden} hidden units and {settings['n_latent']} dimensions ({settings['activation']}, dropout "
        f"{settings['dropout']:g})"
    )


def _pretext(settings: Mapping[str, Any]) -> str:
    told = ", ".join(
        name.replace("_", " ") + ("" if value is True else f" {_value(value)}")
        for name, value in settings.items()
        if name != "name"
        and value is not None
        and value is not False
        and value not in ([], {}, "")
        # Where there are no programmes, what they would be is of no matter.
        and not (name.startswith("program") and settings.get("programs") is None)
    )
    return f"{settings['name'].replace('_', ' ')}{f' ({told})' if told else ''}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(_value, value))
    if isinstance(value, dict):
        return _pretext(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _split(settings: Mapping[str, Any]) -> str:
    unit = f"by {settings['donor_key']}" if settings.get("donor_key") else "by cell"
    parts = [
        f"{settings['test_fraction']:.0%} set aside {unit} to be judged on" if settings["test_fraction"] else "",
        f"{settings['validation_fraction']:.0%} to watch the loss, split {unit}",
        f"{settings['train_donor_fraction']:.3g} of the training donors"
        if settings["train_donor_fraction"] < 1
        else "",
        f"only those with {settings['where']}" if settings.get("where") else "",
        f"the {settings['n_top_genes']:,} most variable genes" if settings.get("n_top_genes") else "",
    ]
    return ", ".join(filter(None, parts))


def _have_epochs(target: Mapping[str, Any]) -> bool:
    """Tell whether each label budget has a number of epochs of its own."""
    return all(budget.get("max_epochs") for budget in target.get("budgets", [{}]))


def _training(settings: Mapping[str, Any], *, tell_epochs: bool = True) -> str:
    stop = f", until {counted(settings['patience'], 'epoch')} bring no gain" if settings.get("patience") else ""
    cells = settings["minibatch_size"]
    size = "a size by the number of cells" if cells == "auto" else f"{cells:,} cells"
    epochs = f"{counted(settings['max_epochs'], 'epoch')}{' at most' if stop else ''}{stop}, "
    return (
        f"{epochs if tell_epochs else ''}minibatches of {size}, "
        f"{settings['optimizer']} with a learning rate of {settings['learning_rate']:g} and a weight decay of "
        f"{settings['weight_decay']:g}"
    )


def _judged(target: Mapping[str, Any]) -> str:
    cells = f"{target['n_cells']:,} cells of {target['cells']}" if target.get("n_cells") else str(target["cells"])
    if target.get("query"):
        return f"{cells if target.get('n_cells') else f'all of {cells}'} and all of {target['query']}"
    if target.get("test_where"):
        return f"{cells}, judged on those with {target['test_where']}"
    share = f"{target['test_fraction']:.0%}" if target.get("test_fraction") else "30%"
    return f"{cells}, judged on what pre-training set aside, else on {share} of it"


def _budgets(target: Mapping[str, Any]) -> str:
    told = []
    for budget in target.get("budgets", [{}]):
        words = "all"
        if budget.get("donors"):
            words = counted(budget["donors"], "donor")
        if budget.get("fraction"):
            words = f"{budget['fraction']:.3g} of the cells"
        told.append(words + (f" ({counted(budget['max_epochs'], 'epoch')})" if budget.get("max_epochs") else ""))
    return " or ".join(told)
