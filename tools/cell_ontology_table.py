"""Make ``src/selfcell/data/ontology/cell_ontology.csv.gz``, the Cell Ontology as the package ships it.

Run by hand, with zstandard installed, on two wheels of ``cellxgene-ontology-guide``, which carry releases of the Cell
Ontology as JSON::

    pip download --no-deps cellxgene-ontology-guide==1.11.1
    pip download --no-deps cellxgene-ontology-guide==1.0.0
    python tools/cell_ontology_table.py cellxgene_ontology_guide-1.11.1-*.whl cellxgene_ontology_guide-1.0.0-*.whl

The same wheels give the same table; other wheels are refused.
"""

import csv
import gzip
import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

VERSION = "2026-03-26"
EARLIER = ("2025-07-30", "2025-04-10", "2025-02-13", "2024-04-05", "2024-01-04")
SHA256 = {
    "621276831bc021aab348f4d6119fad033282dff3126a8f2dbe8b293fbce68aca",  # 1.11.1
    "5511d09f420bbbd3b6306402e907669c882f1b2e8ef2273c56253fb1695a0eaf",  # 1.0.0
}
ROOT = "CL:0000000"
TABLE = Path(__file__).parents[1] / "src/selfcell/data/ontology/cell_ontology.csv.gz"
HEADER = (
    f"# Cell Ontology {VERSION}, by the Cell Ontology developers (http://obofoundry.org/ontology/cl), CC BY 4.0.\n"
    "# Changed: reduced to these columns by tools/cell_ontology_table.py of selfcell; see README.md beside this file.\n"
)

Terms = dict[str, dict[str, Any]]


def main(paths: list[str]) -> None:
    """Read the wheels and write the table."""
    releases = dict(release for path in paths for release in read_releases(Path(path)))
    text = io.StringIO()
    text.write(HEADER)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "parents", "synonyms", "replaced_by"])
    writer.writerows(make_rows(releases[VERSION], [releases[version] for version in EARLIER]))
    TABLE.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_releases(path: Path) -> Iterator[tuple[str, Terms]]:
    """Give the date and the terms of each release of the Cell Ontology in a wheel."""
    if hashlib.sha256(path.read_bytes()).hexdigest() not in SHA256:
        sys.exit(f"{path} is not one of the two pinned wheels.")
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if "/CL-ontology-v" not in name:
                continue
            packed = wheel.read(name)
            is_gzip = name.endswith(".gz")
            text = (
                gzip.decompress(packed) if is_gzip else zstandard.ZstdDecompressor().decompressobj().decompress(packed)
            )
            yield name.split("/CL-ontology-v")[1].split(".json")[0], json.loads(text)


def make_rows(terms: Terms, earlier: list[Terms]) -> Iterator[list[str]]:
    """Give the rows of the table: cell types first and then the obsolete ids, each sorted by id."""
    kinds = {term_id for term_id, term in terms.items() if term_id == ROOT or parents_of(term)}
    labels = {name_of(terms[term_id]["label"]) for term_id in kinds}
    for term_id in sorted(kinds):
        term = terms[term_id]
        reached = {above for parent in parents_of(term) for above in (parent, *terms[parent]["ancestors"])}
        if reached != set(term["ancestors"]):
            sys.exit(f"The parents of {term_id} do not lead to all of its ancestors.")
        former = [release[term_id]["label"] for release in earlier if term_id in release]
        names = [name for name in (*term.get("synonyms", []), *former) if name_of(name) not in labels]
        yield [term_id, term["label"], " ".join(sorted(parents_of(term))), "|".join(once(names)), ""]
    for term_id in sorted(term_id for term_id, term in terms.items() if term["deprecated"]):
        former = [release[term_id]["label"] for release in earlier if term_id in release]
        names = [without_mark(name) for name in (terms[term_id]["label"], *former)]
        label, *others = once([name for name in names if name and name_of(name) not in labels]) or [""]
        yield [term_id, label, "", "|".join(others), replacement(terms, term_id) or "none"]


def parents_of(term: dict[str, Any]) -> list[str]:
    """Give the ancestors one step up; the release names no parent that another parent implies."""
    return [above for above, hops in term["ancestors"].items() if hops == 1]


def replacement(terms: Terms, term_id: str) -> str | None:
    """Follow the replacements of an obsolete id to a cell type, if they lead to one."""
    while term_id in terms and terms[term_id]["deprecated"]:
        term_id = terms[term_id].get("replaced_by", "")
    return term_id if term_id in terms else None


def without_mark(label: str) -> str:
    """Take the word obsolete off a label."""
    return label.removeprefix("obsolete").removeprefix("OBSOLETE").lstrip(": ")


def name_of(label: str) -> str:
    """Write a label as it is compared."""
    return " ".join(label.casefold().split())


def once(names: list[str]) -> list[str]:
    """Leave out names that came before, whatever their case."""
    return list({name_of(name): name for name in reversed(names)}.values())[::-1]


if __name__ == "__main__":
    main(sys.argv[1:])
