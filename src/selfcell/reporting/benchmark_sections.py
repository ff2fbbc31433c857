"""What a benchmark's page says, question by question: words, figures, tables."""

from collections.abc import Iterator

import pandas as pd

from selfcell.benchmark.intervals import Estimate
from selfcell.benchmark.results import GIVEN
from selfcell.benchmark.saturation import MARGIN, enough_from
from selfcell.benchmark.verdicts import FREQUENT_COLUMNS
from selfcell.core.words import counted
from selfcell.downstream.metrics import FEW_CELLS
from selfcell.reporting.benchmark_figures import draw_cost, draw_differences, draw_sizes
from selfcell.reporting.benchmark_overall import over_all_targets, ranked
from selfcell.reporting.benchmark_tables import (
    RELATIONS,
    BenchmarkTables,
    Drawing,
    Section,
    headline_scores,
    of_question,
)
from selfcell.reporting.names import encoder_name, fullest, method_name, metric_name

PRETRAINED, SCRATCH = "fine_tuned", "from_scratch"
ALPHA = 0.05
_FEW_TARGETS = 2
_OF_TYPES = ("zero_shot", "probe", "fine_tuned", "from_scratch", "logistic_regression")
_NOT_SETTLED = "Not settled: the interval leaves more, or seeds are too few for a verdict."
_CURVE = ["line", "size", "mean", "low", "high"]


def sections(tables: BenchmarkTables) -> list[Section]:
    """Give the answers that the tables allow."""
    answers = (
        _worth,
        _zero_shot,
        _baselines,
        over_all_targets,
        _encoders,
        _corpora,
        _labels,
        _types,
        _cost,
        _everything,
        _failures,
    )
    return [section for answer in answers for section in answer(tables)]


def worth_sentence(verdicts: pd.DataFrame) -> str:
    """Say in one sentence at how many targets pre-training helps."""
    rows = of_question(verdicts, PRETRAINED, SCRATCH)
    if rows.empty:
        return "Networks from pre-trained and from random weights were not compared."
    n_of, n_targets = rows["finding"].value_counts(), rows["target"].nunique()
    clear = rows[rows["finding"].isin(["helps", "hurts"])]
    medians = ", ".join(
        f"{part['difference'].median():+.3f} in {metric_name(str(metric))}"
        for metric, part in rows.groupby("metric", sort=False)
    )
    stand = int((clear["p_holm"] < ALPHA).sum())
    return (
        f"From pre-trained weights instead of random ones, a network is better at {n_of.get('helps', 0)} of "
        f"{len(rows)} comparisons ({counted(n_targets, 'target')}), worse at {n_of.get('hurts', 0)}, and at "
        f"{len(rows) - len(clear)} there is no evidence of either. Of the verdicts {stand} stand where p is "
        f"corrected for so many comparisons (below {ALPHA} by Holm's method). Median difference: {medians}."
    )


def _worth(tables: BenchmarkTables) -> Iterator[Section]:
    rows = of_question(tables.verdicts, PRETRAINED, SCRATCH)
    if rows.empty:
        return
    relation = rows.apply(lambda row: tables.relation(row["target"], row["corpus"], row["encoder"]), axis=1)
    drawings: list[Drawing] = []
    sentences: list[str] = []
    for name, words in RELATIONS.items():
        part = rows[relation == name]
        if len(part):
            sentences.append(f"{words[0].upper()}{words[1:]}: {_tally(part)}.")
            drawings.append(_differences(tables, part, f"fine-tuned-or-scratch-{name}", words))
    if (n_blind := int((~(rows["detectable"] <= MARGIN)).sum())) and len(rows) > 1:
        sentences.append(
            f"At {n_blind} of {len(rows)} a difference of {MARGIN} would have had less than a chance of 0.8 of a "
            "verdict (visible from): there, no evidence is no evidence of absence."
        )
    yield Section("Does pre-training help a network that is then trained for the task?", sentences, drawings)


def _zero_shot(tables: BenchmarkTables) -> Iterator[Section]:
    drawings = []
    for against in ("pca_knn", "pca", "untrained_encoder"):
        rows = of_question(tables.verdicts, "zero_shot", against)
        if len(rows):
            words = f"zero-shot minus {method_name(against)}"
            drawings.append(_differences(tables, rows, f"zero-shot-or-{against}", words))
    if drawings:
        yield Section("What is the encoder worth as pre-training left it, zero-shot?", [], drawings)


def _baselines(tables: BenchmarkTables) -> Iterator[Section]:
    drawn = {(PRETRAINED, SCRATCH), ("zero_shot", "pca_knn"), ("zero_shot", "pca"), ("zero_shot", "untrained_encoder")}
    pairs = zip(tables.verdicts["method"], tables.verdicts["against"], strict=True)
    rows = tables.verdicts[[pair not in drawn for pair in pairs]]
    if rows.empty:
        return
    sentences = [f"{question} {_tally(part)}." for question, part in rows.groupby("question", sort=False)]
    yield Section("Is it better than strong baselines?", sentences, tables=[("baselines", _readable(tables, rows))])


def _encoders(tables: BenchmarkTables) -> Iterator[Section]:
    rows = tables.pairs[tables.pairs["varied"] == "encoder"]
    if rows.empty:
        return
    drawings = []
    for method, part in rows.groupby("method", sort=False):
        labels = [
            f"{encoder_name(row['encoder'], row['corpus'])}: {row['target']}, {row['budget']}"
            for row in part.to_dict("records")
        ]
        words = f"{method_name(str(method))}, minus {', '.join(dict.fromkeys(part['against']))}"
        figure = draw_differences(part, labels, xlabel=f"difference ({words})")
        drawings.append(Drawing(f"encoders-{method}", words, figure, _readable_pairs(part)))
    sentences = []
    estimates = headline_scores(tables.estimates)
    of_encoders = estimates[estimates["method"].isin(["zero_shot", "probe", "fine_tuned"])]
    for (method, is_given), part in of_encoders.groupby(["method", of_encoders["corpus"] == GIVEN], sort=False):
        if part["encoder"].nunique() > 1:
            words = method_name(str(method)) + (", models that were trained before" if is_given else "")
            sentence, drawn = ranked(part, "encoder", words)
            sentences.append(sentence)
            drawings += drawn
    yield Section("Masked or contrastive, and which of them?", sentences, drawings)


def _corpora(tables: BenchmarkTables) -> Iterator[Section]:
    rows = tables.pairs[tables.pairs["varied"] == "corpus"]
    if rows.empty:
        return
    n_of = pd.DataFrame(tables.about["pretrainings"]).groupby(["corpus", "encoder"])["n_train"].first()
    drawings, settled = [], []
    sentences = [
        f"Enough: from how many cells on the largest corpus gains less than {MARGIN}, by the 95 % interval. "
        f"{_NOT_SETTLED}"
    ]
    if len({tables.plan["corpora"][name]["cells"] for name in {*rows["corpus"], *rows["against"]}}) > 1:
        sentences.append("Corpora of different cells differ in more than their size, and so may what they gain.")
    for (target, encoder), part in rows.groupby(["target", "encoder"], sort=False):
        n_train = n_of.xs(encoder, level="encoder")
        of_target = headline_scores(tables.estimates).query("target == @target and encoder == @encoder")
        of_target = of_target[of_target["method"].isin(["zero_shot", "probe", "fine_tuned"])]
        line = of_target["method"].map(method_name) + ", " + of_target["budget"]
        curves = of_target.assign(line=line, size=of_target["corpus"].map(n_train))[_CURVE]
        score = metric_name(str(of_target["metric"].iloc[0]))
        figure = draw_sizes(curves, xlabel="cells pre-trained on", ylabel=score)
        caption = f"{tables.title(target)}, {encoder}"
        drawings.append(Drawing(f"corpus-size-{target}-{encoder}", caption, figure, curves))
        for (method, budget), of_line in part.groupby(["method", "budget"], sort=False):
            told = {"target": tables.title(target), "encoder": encoder, "method": method_name(str(method))}
            settled.append({**told, "learned from": budget, "enough": _saturation(of_line, n_train)})
    told_of = [("enough-cells", pd.DataFrame(settled))]
    yield Section("How many cells to pre-train on until it stops mattering?", sentences, drawings, told_of)


def _saturation(pairs: pd.DataFrame, n_train: pd.Series) -> str:
    """Say from which corpus on the largest gains too little to matter, if it is the largest that others are against."""
    largest, sizes = str(pairs["against"].iloc[0]), pairs["corpus"].map(n_train)
    if not (sizes < n_train[largest]).all():
        return f"nothing follows: {largest} is not the largest corpus"
    enough = enough_from(sizes.to_list(), (-_decided(pairs, "low")).to_list())
    return "not settled" if enough is None else f"from {enough:,.0f} of {n_train[largest]:,} cells on"


def _decided(rows: pd.DataFrame, bound: str) -> pd.Series:
    """Give a bound of differences, NaN where seeds are too few for a verdict."""
    return rows[bound].mask(rows["finding"].str.startswith("no verdict"))


def _labels(tables: BenchmarkTables) -> Iterator[Section]:
    shown = ("fine_tuned", "from_scratch", "probe", "zero_shot", "logistic_regression", "pca_knn")
    of_methods = headline_scores(tables.estimates)
    of_methods = of_methods[of_methods["method"].isin(shown)]
    drawings, settled = [], []
    for (target, corpus, encoder), part in of_methods.groupby(["target", "corpus", "encoder"], sort=False):
        if part["n_labelled_cells"].nunique() < _FEW_TARGETS:
            continue
        words = f"{tables.title(target)}, {encoder_name(encoder, corpus)}"
        curves = part.assign(line=part["method"].map(method_name), size=part["n_labelled_cells"])
        curves = curves[_CURVE]
        figure = draw_sizes(curves, xlabel="labelled cells", ylabel=metric_name(str(part["metric"].iloc[0])))
        drawings.append(Drawing(f"labels-{target}-{encoder}-{corpus}", words, figure, curves))
        rows = of_question(tables.verdicts, PRETRAINED, SCRATCH).query(
            "target == @target and corpus == @corpus and encoder == @encoder"
        )
        if rows.empty:
            continue
        n_labelled = part.drop_duplicates("budget").set_index("budget")["n_labelled_cells"]
        enough = enough_from(rows["budget"].map(n_labelled).to_list(), _decided(rows, "high").to_list())
        told = {"target": tables.title(target), "encoder": encoder_name(encoder, corpus)}
        settled.append({**told, "enough": "not settled" if enough is None else f"from {enough:,.0f} labelled cells on"})
    if drawings:
        sentence = (
            f"Enough: from how many labelled cells on pre-training is worth less than {MARGIN}, by the 95 % interval. "
            f"{_NOT_SETTLED}"
        )
        told_of = [("enough-labels", pd.DataFrame(settled))] if settled else []
        yield Section("How many labels until it stops mattering?", [sentence] if settled else [], drawings, told_of)


def _types(tables: BenchmarkTables) -> Iterator[Section]:
    if tables.classes.empty:
        return
    parts, sentences = [], []
    for target, part in tables.classes.groupby("target", sort=False):
        budget = fullest(list(dict.fromkeys(part["budget"])))
        of_types = part[part["budget"] == budget].groupby("class")[["n_cells", "has_few_cells"]].first()
        few = [str(name) for name in of_types.index[of_types["has_few_cells"].astype(bool)]]
        sentences.append(
            f"{tables.title(str(target))}: {len(few)} of {counted(len(of_types), 'type')} have fewer than {FEW_CELLS} "
            f"test cells{': ' + ', '.join(few) if few else ''}."
        )
        shown = part[(part["budget"] == budget) & part["method"].isin(_OF_TYPES)]
        f1 = shown.pivot_table(index="class", columns="method", values="f1")
        f1 = f1.rename(columns=lambda method: f"F1, {method_name(method)}")
        marks = of_types["has_few_cells"].map({True: f"fewer than {FEW_CELLS}", False: ""})
        told = {"target": tables.title(str(target)), "type": of_types.index, "test cells": of_types["n_cells"]}
        parts.append(pd.DataFrame({**told, "few": marks, "labelled": budget}, index=of_types.index).join(f1))
    sentences.append(
        "The F1 of such a type hangs on a few cells. Every difference between methods in macro F1 is given without "
        "them too, in the tables of differences, and every macro F1 among all scores."
    )
    table = pd.concat(parts, ignore_index=True)
    yield Section("Which types have few test cells?", sentences, tables=[("types", table)])


def _cost(tables: BenchmarkTables) -> Iterator[Section]:
    if tables.estimates.empty:
        return
    seconds = tables.estimates.groupby("method")["seconds"].median()
    memory = tables.estimates.groupby("method")["peak_memory_mb"].max()
    table = pd.DataFrame({"seconds": seconds, "peak_memory_mb": memory}).reset_index()
    drawing = Drawing("cost", "Seconds of a trial", draw_cost(seconds), table)
    runs = pd.DataFrame(tables.about.get("pretrainings", []))
    sentences = [
        "A pre-training is not part of the seconds of a trial: it is done once, and used for every target.",
        "peak_memory_mb: the most memory, in MB, of the process while the trial ran, the cells included; the largest "
        "of all trials.",
    ]
    if len(runs):
        of_runs = runs.groupby(["encoder", "corpus"], sort=False)["seconds"].median()
        sentences.append(
            f"Pre-training took {of_runs.min():,.0f} to {of_runs.max():,.0f} seconds, "
            f"{runs['seconds'].sum() / 3600:.1f} hours in all for {counted(len(runs), 'run')}."
        )
    yield Section("What does it cost?", sentences, [drawing])


def _everything(tables: BenchmarkTables) -> Iterator[Section]:
    rows = tables.estimates
    table = pd.DataFrame(
        {
            "target": rows["target"],
            "encoder": rows["encoder"],
            "corpus": rows["corpus"],
            "method": rows["method"].map(method_name),
            "learned from": rows["budget"],
            "score": rows["metric"].map(metric_name),
            "mean": rows["mean"],
            # Of a benchmark of before it was kept there is none.
            "sd over seeds": rows.get("sd", default=float("nan")),
            "low": rows["low"],
            "high": rows["high"],
            "test cells": rows["n_cells"],
            "seconds": rows["seconds"],
        }
    )
    yield Section("All scores", [], tables=[("scores", table)])


def _failures(tables: BenchmarkTables) -> Iterator[Section]:
    if len(tables.failures):
        yield Section(
            "What failed",
            ["These came to nothing; what is said above is said without them. Mend the cause, and --retry-failed."],
            tables=[("failures", tables.failures)],
        )


def _differences(tables: BenchmarkTables, rows: pd.DataFrame, name: str, caption: str) -> Drawing:
    several = rows.groupby(["target", "budget"]).size().max() > 1
    labels = [
        f"{row['target']}, {row['budget']}" + (f" ({encoder_name(row['encoder'], row['corpus'])})" if several else "")
        for row in rows.to_dict("records")
    ]
    metrics = ", ".join(metric_name(metric) for metric in dict.fromkeys(rows["metric"]))
    return Drawing(
        name, caption, draw_differences(rows, labels, xlabel=f"difference in {metrics}"), _readable(tables, rows)
    )


def _readable(tables: BenchmarkTables, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "target": rows["target"].map(tables.title),
            "encoder": [encoder_name(*one) for one in zip(rows["encoder"], rows["corpus"], strict=True)],
            "learned from": rows["budget"],
            "method": rows["method"].map(method_name),
            "against": rows["against"].map(method_name),
            "score": rows["metric"].map(metric_name),
            "difference": rows["difference"],
            "low": rows["low"],
            "high": rows["high"],
            "without rare types": _without_rare(rows),
            "p (Holm)": rows["p_holm"],
            "effect size": rows["effect_size"],
            "pairs": rows["n_pairs"],
            "pairs that agree": rows["n_agree"],
            "visible from": rows["detectable"],
            "verdict": rows["finding"],
        }
    )


def _readable_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the difference without rare types, and its interval, into one column; leave it out where there is none."""
    shown = rows.drop(columns=["varied", *FREQUENT_COLUMNS], errors="ignore")
    if "frequent_difference" not in rows or rows["frequent_difference"].isna().all():
        return shown
    shown.insert(list(shown).index("high") + 1, "without rare types", _without_rare(rows))
    return shown


def _without_rare(rows: pd.DataFrame) -> list[str]:
    columns = (rows[name] for name in FREQUENT_COLUMNS)
    found = (Estimate(mean, low, high, ()) for mean, low, high in zip(*columns, strict=True))
    return ["" if pd.isna(one.mean) else one.with_sign() for one in found]


def _tally(rows: pd.DataFrame) -> str:
    counts = rows["finding"].value_counts()
    return ", ".join(f"{name} at {number}" for name, number in counts.items()) + f" of {len(rows)}"
