"""The page of a whole benchmark: the verdict first, then question by question."""

import base64
import operator
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from selfcell.benchmark.statistics import SPREADS, VERDICT_RULE
from selfcell.benchmark.summaries import FORMAT_VERSION, count_failed
from selfcell.benchmark.table_files import refuse_mixed
from selfcell.benchmark.verdicts import HOLM_RULE
from selfcell.core.atomic import write_text
from selfcell.core.errors import InputError
from selfcell.core.reading import check_fields, read_object, read_text, reading
from selfcell.core.words import counted, file_name
from selfcell.reporting.benchmark_methods import methods_paragraphs
from selfcell.reporting.benchmark_sections import sections, worth_sentence
from selfcell.reporting.benchmark_tables import BenchmarkTables, Drawing, Section
from selfcell.reporting.figures import as_pdf, as_svg
from selfcell.reporting.names import encoder_name

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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selfcell.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    plan = read_text(folder / "plan.toml")
    with reading(folder):
        page = environment.get_template("benchmark.html.j2").render(**_content(tables, plan))
    write_text(path, page)
    return path


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
        "sections": [_shown(section, place) for place, section in enumerate(sections(tables))],
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


def _shown(section: Section, place: int) -> dict[str, Any]:
    drawings = [_drawn(drawing, f"d{place}-{number}") for number, drawing in enumerate(section.drawings)]
    tables = [_sheet(table, name, f"t{place}-{number}") for number, (name, table) in enumerate(section.tables)]
    return {"title": section.title, "sentences": section.sentences, "drawings": drawings, "tables": tables}


def _drawn(drawing: Drawing, place: str) -> dict[str, Any]:
    svg, name = as_svg(drawing.figure, drawing.caption), file_name(drawing.name)
    return {
        "caption": drawing.caption[0].upper() + drawing.caption[1:],
        "svg": svg,
        "svg_link": _link(f"{name}.svg", "image/svg+xml", svg.encode()),
        "pdf_link": _link(f"{name}.pdf", "application/pdf", as_pdf(drawing.figure)),
        "table": _sheet(drawing.table, drawing.name, place),
    }


def _sheet(table: pd.DataFrame, name: str, place: str) -> dict[str, Any]:
    is_number = [pd.api.types.is_numeric_dtype(table[column]) for column in table]
    rows = [
        [_cell(value, is_number=numeric) for value, numeric in zip(row, is_number, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    csv = table.to_csv(index=False, float_format="%.6g").encode()
    return {
        "id": place,
        "name": name,
        "columns": list(zip(map(str, table.columns), is_number, strict=True)),
        "rows": rows,
        "csv": _link(f"{file_name(name)}.csv", "text/csv", csv),
    }


def _cell(value: Any, *, is_number: bool) -> dict[str, Any]:
    if not is_number:
        return {"text": "" if pd.isna(value) else str(value), "is_number": False}
    if pd.isna(value):
        return {"text": "", "is_number": True, "value": ""}
    is_whole = float(value).is_integer() and abs(value) >= 1
    return {"text": f"{value:,.0f}" if is_whole else f"{value:.3g}", "is_number": True, "value": f"{value:.8g}"}


def _link(name: str, kind: str, content: bytes) -> dict[str, str]:
    return {"name": name, "href": f"data:{kind};base64,{base64.b64encode(content).decode()}"}
