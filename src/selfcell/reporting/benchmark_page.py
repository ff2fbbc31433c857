"""The page of a whole benchmark: the verdict first, then question by question."""

import operator
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from selfcell.benchmark.statistics import SPREADS, VERDICT_RULE
from selfcell.benchmark.summaries import FORMAT_VERSION, count_failed
from selfcell.benchmark.table_files import refuse_mixed
from selfcell.benchmark.verdicts import HOLM_RULE
from selfcell.core.errors import InputError
from selfcell.core.reading import check_fields, read_object, read_text, reading
from selfcell.core.words import counted, file_name
from selfcell.reporting.benchmark_methods import methods_paragraphs
from selfcell.reporting.benchmark_sections import sections, worth_sentence
from selfcell.reporting.benchmark_tables import BenchmarkTables, Drawing, Section
from selfcell.reporting.figures import as_pdf, as_svg
from selfcell.reporting.names import encoder_name
from selfcell.reporting.page import link, sheet, write_page

TABLES = ("verdicts", "estimates", "pairs", "classes", "scores")
"""What the page is made of."""
_NOTE = operator.itemgetter("note")


def write_benchmark_page(folder: Path, path: Path) -> Path:
    """Write one self-contained HTML page about a benchmark.

    Every figure can be taken from it as SVG and PDF, and every table as CSV.

    Parameters
    ----------
    folder
        The results of a benchmark.
    path
        The file.

    Raises
    ------
    InputError
        If the benchmark is not finished, of a newer format, or a table is missing or damaged.
    """
    tables = read_tables(folder)
    plan = read_text(folder / "plan.toml")
    with reading(folder):
        content = _content(tables, plan)
    return write_page("benchmark.html.j2", content, path, source=folder)


def read_tables(folder: Path) -> BenchmarkTables:
    """Read what the page is made of; raises what :func:`write_benchmark_page` does."""
    about = read_object(
        folder / "benchmark.json", format_version=int, title=str, plan=dict, versions=dict, machine=dict, command=str
    )
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(f"{folder} was written by a newer selfcell. Upgrade it.")
    if about["format_version"] < FORMAT_VERSION:
        raise InputError(f"{folder} is of an older format. Run the benchmark again: trials that are done are kept.")
    with reading(folder / "benchmark.json"):
        check_fields(about, **{name: kind for name, kind in (("tables", dict), ("sessions", list)) if name in about})
    read = {name: _read(folder / f"{name}.parquet") for name in TABLES}
    refuse_mixed(folder, about.get("tables", {}), TABLES)
    scores = read.pop("scores")
    columns = ["target", "corpus", "encoder", "method", "budget", "pretrain_seed", "finetune_seed", "error"]
    with reading(folder / "scores.parquet"):
        failures = scores.loc[scores["error"].notna(), columns].drop_duplicates()
        n_failed = count_failed(scores)
    return BenchmarkTables(about=about, failures=failures, n_failed=n_failed, **read)


def _read(file: Path) -> pd.DataFrame:
    try:
        with reading(file):
            return pd.read_parquet(file)
    except InputError as error:
        raise InputError(f"{error} Run the benchmark again: trials that are done are kept.") from error


def _content(tables: BenchmarkTables, plan: str) -> dict[str, Any]:
    about = tables.about
    return {
        "title": about["title"],
        "headline": worth_sentence(tables.verdicts),
        "caveats": _caveats(tables),
        "sections": [_shown(section) for section in sections(tables)],
        "rule": VERDICT_RULE + HOLM_RULE + _spreads(tables),
        "methods": methods_paragraphs(tables),
        "plan": plan,
        "facts": [
            *((f"Version of {name}", value) for name, value in about["versions"].items()),
            *((f"Machine: {name}", value) for name, value in about["machine"].items() if value is not None),
            ("Command", about["command"]),
        ],
    }


def _spreads(tables: BenchmarkTables) -> str:
    """Say what the intervals take in, target by target where they differ."""
    targets = tables.verdicts.drop_duplicates(["spread", "target"]).groupby("spread", sort=False)["target"].agg(list)
    if len(targets) == 1:
        return SPREADS[targets.index[0]]
    return " ".join(f"At {', '.join(names)}: {SPREADS[spread]}" for spread, names in targets.items())


def _caveats(tables: BenchmarkTables) -> list[str]:
    found, seeds = [], tables.plan["seeds"]
    for which, numbers in seeds.items():
        kind = {"pretraining": "pre-training", "finetuning": "fine-tuning"}[which]
        if len(numbers) == 2:
            found.append(
                f"Only 2 seeds of {kind}: no verdict where it varies a result, and intervals that are wide or, by "
                "chance, too narrow."
            )
        if len(numbers) == 1:
            found.append(f"A single seed of {kind}: no interval takes in what another would change.")
    alone = [name for name, model in tables.plan.get("models", {}).items() if len(_listed(model["source"])) == 1]
    if alone:
        found.append(f"Of {', '.join(alone)} there is one pre-training: what is said of it holds for that encoder.")
    noted = [one for one in tables.about.get("seen", []) if one["note"]]
    for note, studies in groupby(sorted(noted, key=_NOTE), key=_NOTE):
        of = ", ".join(f"{encoder_name(one['encoder'], one['corpus'])} at {one['target']}" for one in studies)
        found.append(f"{of}: {note}")
    if tables.n_failed:
        found.append(f"{counted(tables.n_failed, 'trial')} failed, and nothing here is said of them; see below.")
    return found


def _listed(source: str | list[str]) -> list[str]:
    return [source] if isinstance(source, str) else source


def _shown(section: Section) -> dict[str, Any]:
    drawings = [_drawn(drawing) for drawing in section.drawings]
    tables = [sheet(table, name) for name, table in section.tables]
    return {"title": section.title, "sentences": section.sentences, "drawings": drawings, "tables": tables}


def _drawn(drawing: Drawing) -> dict[str, Any]:
    svg, name = as_svg(drawing.figure, drawing.caption), file_name(drawing.name)
    return {
        "caption": drawing.caption[0].upper() + drawing.caption[1:],
        "svg": svg,
        "svg_link": link(f"{name}.svg", "image/svg+xml", svg.encode()),
        "pdf_link": link(f"{name}.pdf", "application/pdf", as_pdf(drawing.figure)),
        "table": sheet(drawing.table, drawing.name),
    }
