"""What a benchmark's page says, question by question: words, figures, tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from selfcell.benchmark.ranks import rank_methods
from selfcell.benchmark.saturation import MARGIN, enough_from
from selfcell.core.words import counted
from selfcell.reporting.benchmark_figures import draw_cost, draw_differences, draw_ranks, draw_sizes
from selfcell.reporting.names import encoder_name, method_name, metric_name

PRETRAINED, SCRATCH = "fine_tuned", "from_scratch"
_FEW_TARGETS = 2
_CURVE = ["line", "size", "mean", "low", "high"]


@dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers in it."""

    name: str
    """Of its files."""
    caption: str
    figure: Figure
    table: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """The answer to one question."""

    title: str
    sentences: list[str]
    drawings: list[Drawing] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    """Further tables, by name."""


@dataclass(frozen=True)
class BenchmarkTables:
    """What is on disk of a benchmark."""

    about: dict[str, Any]
    verdicts: pd.DataFrame
    estimates: pd.DataFrame
    pairs: pd.DataFrame
    failures: pd.DataFrame
    """One row a pair of seeds and encoder, that may share what failed."""
    n_failed: int

    @property
    def plan(self) -> dict[str, Any]:
        """The plan."""
        return dict(self.about["plan"])

    def relation(self, target: str, corpus: str) -> str:
        """Tell what pre-training cells are to a target's: of the same data set, of others alone, or not known."""
        asked, cells = self.plan["targets"][target], self.plan["cells"]
        if corpus not in self.plan["corpora"]:
            return GIVEN
        if asked.get("query") is not None:
            return UNSEEN
        of_target, of_corpus = (
            _sources(cells[name]["source"]) for name in (asked["cells"], self.plan["corpora"][corpus]["cells"])
        )
        return OWN if of_target & of_corpus else TRANSFER

    def title(self, target: str) -> str:
        """Give what people read for a target."""
        return str(self.plan["targets"][target].get("title") or target)


OWN = "pre-trained and judged on cells of one data set"
TRANSFER = "pre-trained on other data sets alone"
UNSEEN = "judged on a data set never seen"
GIVEN = "models that the plan names, whatever they were pre-trained on"


def sections(tables: BenchmarkTables) -> list[Section]:
    """Give the answers that the tables allow."""
    answers = (_worth, _zero_shot, _baselines, _encoders, _corpora, _labels, _cost, _everything, _failures)
    return [section for answer in answers for section in answer(tables)]


def worth_sentence(verdicts: pd.DataFrame) -> str:
    """Say in one sentence at how many targets pre-training helps."""
    rows = _of(verdicts, PRETRAINED, SCRATCH)
    if rows.empty:
        return "Networks from pre-trained and from random weights were not compared."
    n_of = rows["finding"].value_counts()
    n_targets = rows["target"].nunique()
    return (
        f"From pre-trained weights instead of random ones, a network is better at {n_of.get('helps', 0)} of "
        f"{len(rows)} comparisons ({counted(n_targets, 'target')}), worse at {n_of.get('hurts', 0)}, and at "
        f"{len(rows) - n_of.get('helps', 0) - n_of.get('hurts', 0)} there is no evidence of either; median difference "
        f"{rows['difference'].median():+.3f}."
    )


def _worth(tables: BenchmarkTables) -> Iterator[Section]:
    rows = _of(tables.verdicts, PRETRAINED, SCRATCH)
    if rows.empty:
        return
    relation = rows.apply(lambda row: tables.relation(row["target"], row["corpus"]), axis=1)
    drawings: list[Drawing] = []
    sentences: list[str] = []
    for name in (OWN, TRANSFER, UNSEEN, GIVEN):
        part = rows[relation == name]
        if len(part):
            sentences.append(f"{name[0].upper()}{name[1:]}: {_tally(part)}.")
            drawings.append(_differences(tables, part, f"fine-tuned-or-scratch-{len(drawings)}", name))
    if (n_blind := int((rows["detectable"] > MARGIN).sum())) and len(rows) > 1:
        sentences.append(
            f"At {n_blind} of {len(rows)} a difference of {MARGIN} could not have been seen with a probability of 0.8 "
            "(visible from): there, no evidence is no evidence of absence."
        )
    yield Section("Does pre-training help a network that is then trained for the task?", sentences, drawings)


def _zero_shot(tables: BenchmarkTables) -> Iterator[Section]:
    drawings = []
    for against in ("pca_knn", "pca", "untrained_encoder"):
        rows = _of(tables.verdicts, "zero_shot", against)
        if len(rows):
            words = f"zero-shot minus {method_name(against)}"
            drawings.append(_differences(tables, rows, f"zero-shot-or-{against}", words))
    if drawings:
        yield Section("Is the frozen embedding a better space than PCA, without any training?", [], drawings)


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
        labels = [f"{row['encoder']}: {row['target']}, {row['budget']}" for row in part.to_dict("records")]
        words = f"{method_name(str(method))}, minus {', '.join(dict.fromkeys(part['against']))}"
        figure = draw_differences(part, labels, xlabel=f"difference ({words})")
        drawings.append(Drawing(f"encoders-{method}", words, figure, part.drop(columns="varied")))
    sentences = []
    for method, ranking, drawing in _encoder_ranks(tables):
        sentences.append(
            f"{method_name(method)}: {ranking.mean_rank.index[0]} ranks first on average over {ranking.n_targets} "
            f"targets and budgets; mean ranks must differ by {ranking.critical_difference:.2f} to be told apart."
        )
        drawings.append(drawing)
    yield Section("Masked or contrastive, and which of them?", sentences, drawings)


def _encoder_ranks(tables: BenchmarkTables) -> Iterator[tuple[str, Any, Drawing]]:
    of_encoders = _headline(tables.estimates)
    for method in ("zero_shot", "probe", "fine_tuned"):
        part = of_encoders[of_encoders["method"] == method]
        place = part["target"] + ", " + part["corpus"] + ", " + part["budget"]
        scores = part.assign(place=place).pivot_table(index="place", columns="encoder", values="mean").dropna()
        if scores.shape[0] >= _FEW_TARGETS and scores.shape[1] > 1:
            ranking = rank_methods(scores)
            name = f"ranks-{method}"
            table = ranking.mean_rank.rename("mean rank").rename_axis("encoder").reset_index()
            yield method, ranking, Drawing(name, f"Ranks, {method_name(method)}", draw_ranks(ranking, {}), table)


def _corpora(tables: BenchmarkTables) -> Iterator[Section]:
    rows = tables.pairs[tables.pairs["varied"] == "corpus"]
    if rows.empty:
        return
    n_train = pd.DataFrame(tables.about["pretrainings"]).groupby("corpus")["n_train"].first()
    drawings, sentences = [], []
    for (target, encoder), part in rows.groupby(["target", "encoder"], sort=False):
        of_target = _headline(tables.estimates).query("target == @target and encoder == @encoder")
        of_target = of_target[of_target["method"].isin(["zero_shot", "probe", "fine_tuned"])]
        line = of_target["method"].map(method_name) + ", " + of_target["budget"]
        curves = of_target.assign(line=line, size=of_target["corpus"].map(n_train))[_CURVE]
        score = metric_name(str(of_target["metric"].iloc[0]))
        figure = draw_sizes(curves, xlabel="cells pre-trained on", ylabel=score)
        caption = f"{tables.title(target)}, {encoder}"
        drawings.append(Drawing(f"corpus-size-{target}-{encoder}", caption, figure, curves))
        for (method, budget), of_line in part.groupby(["method", "budget"], sort=False):
            sizes = of_line["corpus"].map(n_train).to_list()
            words = f"{tables.title(target)}, {encoder}, {method_name(str(method))}, {budget}"
            enough = enough_from(sizes, (-of_line["low"]).to_list())
            sentences.append(
                f"{words}: from {enough:,.0f} cells on, {of_line['against'].iloc[0]} gains less than {MARGIN} (95 %)."
                if enough is not None
                else f"{words}: {of_line['against'].iloc[0]} may gain more than {MARGIN} over every smaller corpus."
            )
    yield Section("How many cells to pre-train on until it stops mattering?", sentences, drawings)


def _labels(tables: BenchmarkTables) -> Iterator[Section]:
    shown = ("fine_tuned", "from_scratch", "probe", "zero_shot", "logistic_regression", "pca_knn")
    of_methods = _headline(tables.estimates)
    of_methods = of_methods[of_methods["method"].isin(shown)]
    drawings, sentences = [], []
    for (target, corpus, encoder), part in of_methods.groupby(["target", "corpus", "encoder"], sort=False):
        if part["n_labelled_cells"].nunique() < _FEW_TARGETS:
            continue
        words = f"{tables.title(target)}, {encoder_name(encoder, corpus)}"
        curves = part.assign(line=part["method"].map(method_name), size=part["n_labelled_cells"])
        curves = curves[_CURVE]
        figure = draw_sizes(curves, xlabel="labelled cells", ylabel=metric_name(str(part["metric"].iloc[0])))
        drawings.append(Drawing(f"labels-{target}-{encoder}-{corpus}", words, figure, curves))
        rows = _of(tables.verdicts, PRETRAINED, SCRATCH).query(
            "target == @target and corpus == @corpus and encoder == @encoder"
        )
        if rows.empty:
            continue
        n_labelled = part.drop_duplicates("budget").set_index("budget")["n_labelled_cells"]
        enough = enough_from(rows["budget"].map(n_labelled).to_list(), rows["high"].to_list())
        sentences.append(
            f"{words}: from {enough:,.0f} labelled cells on, pre-training is worth less than {MARGIN} (95 %)."
            if enough is not None
            else f"{words}: pre-training may be worth more than {MARGIN} however many cells are labelled."
        )
    if drawings:
        yield Section("How many labels until it stops mattering?", sentences, drawings)


def _cost(tables: BenchmarkTables) -> Iterator[Section]:
    seconds = tables.estimates.groupby("method")["seconds"].median()
    memory = tables.estimates.groupby("method")["peak_memory_mb"].max()
    table = pd.DataFrame({"seconds": seconds, "peak_memory_mb": memory}).reset_index()
    drawing = Drawing("cost", "Seconds of a trial", draw_cost(seconds), table)
    runs = pd.DataFrame(tables.about.get("pretrainings", []))
    sentences = ["A pre-training is not part of the seconds of a trial: it is done once, and used for every target."]
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
            "labelled": rows["budget"],
            "score": rows["metric"].map(metric_name),
            "mean": rows["mean"],
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
            "labelled": rows["budget"],
            "method": rows["method"].map(method_name),
            "against": rows["against"].map(method_name),
            "score": rows["metric"].map(metric_name),
            "difference": rows["difference"],
            "low": rows["low"],
            "high": rows["high"],
            "p (Holm)": rows["p_holm"],
            "effect size": rows["effect_size"],
            "visible from": rows["detectable"],
            "verdict": rows["finding"],
        }
    )


def _tally(rows: pd.DataFrame) -> str:
    counts = rows["finding"].value_counts()
    return ", ".join(f"{name} at {number}" for name, number in counts.items()) + f" of {len(rows)}"


def _of(verdicts: pd.DataFrame, method: str, against: str) -> pd.DataFrame:
    return verdicts[(verdicts["method"] == method) & (verdicts["against"] == against)]


def _headline(estimates: pd.DataFrame) -> pd.DataFrame:
    """Keep the score that each target is judged by, which comes first."""
    first = estimates.groupby("target")["metric"].transform("first")
    return estimates[estimates["metric"] == first]


def _sources(source: Any) -> set[str]:
    return {source} if isinstance(source, str) else set(source)
