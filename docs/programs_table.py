"""Print the table of docs/programs.md: what each named source comes to on the genes of two real data sets."""

import sys

from selfcell.data import datasets
from selfcell.data.genes import GeneTable
from selfcell.data.program_sources import PROGRAM_SOURCES
from selfcell.data.programs import load_programs

DATASETS = ("liu_covid_pbmc", "pancreas_4_studies")
LIMITS = {"min_genes": 5, "max_genes": None, "min_coverage": 0.0}


def main() -> None:
    genes = {name: GeneTable.from_var(datasets.load(name).var) for name in DATASETS}
    heads = [f"on `{name}` ({len(table):,} genes)" for name, table in genes.items()]
    _print_row("name", "sets", "genes named", *heads, "licence", "carried by")
    _print_row("---", "---:", "---:", *("---" for _ in heads), "---", "---")
    for name, info in PROGRAM_SOURCES.items():
        cells = [_on(name, table, has_factors=info.names_factors) for table in genes.values()]
        _print_row(f"`{name}`", f"{info.n_sets:,}", f"{info.n_genes:,}", *cells, info.licence, info.file.filename)


def _on(name: str, genes: GeneTable, *, has_factors: bool) -> str:
    _, report = load_programs(name, genes, **LIMITS)
    text = f"{report.n_kept:,} programmes, {report.share_of_genes:.0%} of the genes"
    if has_factors:
        _, report = load_programs(name, genes, **LIMITS, as_regulons=True)
        text += f"; {report.n_kept:,} regulons, {report.share_of_genes:.0%}"
    return text


def _print_row(*cells: str) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
