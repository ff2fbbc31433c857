"""Whatever is in a file that is read, it works or an error of ours names the file: no traceback, no hang."""

import contextlib
import gzip
import runpy
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from selfcell.benchmark.plan import read_plan
from selfcell.cli.options import gather_settings, task_settings
from selfcell.core.config import build, read_toml, to_toml
from selfcell.core.write_errors import writing_cells
from selfcell.data.atlas.inputs import open_input
from selfcell.data.backed import open_backed
from selfcell.data.genes import GeneTable
from selfcell.data.label_maps import read_label_map
from selfcell.data.mudata_file import MuDataFile
from selfcell.data.program_files import read_file
from selfcell.data.programs import read_stored_programs
from selfcell.data.source import open_cells
from selfcell.training.import_tables import read_class_names, read_gene_table
from selfcell.training.paper_layouts import LAYOUTS
from selfcell.training.settings import PretrainSettings

HERE = Path(__file__).parent
damage = SimpleNamespace(**runpy.run_path(str(HERE / "damage.py")))
files = SimpleNamespace(**runpy.run_path(str(HERE.parent / "data" / "atlas" / "input_files.py")))

PLANS = [path.read_text() for path in sorted(HERE.parents[1].glob("plans/*.toml"))]
GENES = GeneTable(("G1", "G2", "G3", "G4"), ("",) * 4)
SYMBOLS = "feature_id,feature_name\n" + "".join(f"ENSG{place:011d},g{place}\n" for place in range(4))
TABLES = {
    "factors.csv": ("source,target,weight\nG1,G2,1\nG1,G3,-0.5\n", read_file),
    "kept.csv": ("program,regulator,gene\nA,,G1\nA,,G2\nB,G1,G3\n", read_file),
    "programs.csv": ("program,regulator,gene\nA,,G1\nB,G1,G3\n", lambda path: read_stored_programs(path, GENES)),
    "labels.csv": ("from,to\na,b\nc,d\n", read_label_map),
    "genes.csv": (SYMBOLS, lambda path: read_gene_table(path, n_genes=4)),
    "names.csv": ("T\nB\nNK\n", lambda path: read_class_names(path, n_classes=3)),
}
BYTES = {
    "sets.gmt": (b"A\tna\tG1\tG2\nB\tna\tG3\n", read_file),
    "sets.gmt.gz": (gzip.compress(b"A\tna\tG1\tG2\nB\tna\tG3\n"), read_file),
    "names.txt": (b"T\nB\nNK\n", lambda path: read_class_names(path, n_classes=3)),
    "genes.parquet": (
        pd.DataFrame({"feature_name": list("abcd")}).to_parquet(),
        lambda path: read_gene_table(path, n_genes=4),
    ),
    "settings.toml": (to_toml(build(PretrainSettings, {})).encode(), read_toml),
}
ADDRESSES = [
    *("training.max_epochs", "training.budget", "network.hidden_sizes", "pretext.name", "pretext.mask", "a.b.c", "="),
    *("pretext.views", "pretext.mask_fraction", "pretext", "training.", "data.where", "training.learning_rate"),
]
TYPED = [
    *("1", "-1", "nan", "inf", "[]", "[1]", "{}", "{a=1}", "'", "none", "2020-01-01", "[{name='x'}]", "\n[a]\nb=1"),
    *("[" * 900, "[" * 100_000, "9" * 5_000, "1e999", "\x00", "\n", "= ="),
]
VALUES = [True, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", "x", "none", [], [1], [[]], {}, [{"name": "x"}]]


@pytest.mark.parametrize("name", TABLES)
@damage.examples(6)
@given(random=damage.randoms)
def test_tables(tmp_path, name, random):
    text, read = TABLES[name]
    (tmp_path / name).write_text(damage.of_table(text, random))
    with damage.works_or_says(name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", {**BYTES, **TABLES})
@damage.examples(4)
@given(random=damage.randoms)
def test_bytes(tmp_path, name, random):
    content, read = {**{name: (text.encode(), read) for name, (text, read) in TABLES.items()}, **BYTES}[name]
    (tmp_path / name).write_bytes(damage.of_bytes(content, random))
    with damage.works_or_says(name):
        read(tmp_path / name)


@damage.examples(10)
@given(random=damage.randoms)
def test_settings_and_plans(tmp_path, random):
    for text, use in (
        (to_toml(build(PretrainSettings, {})), lambda path: build(PretrainSettings, read_toml(path))),
        (random.choice(PLANS), read_plan),
    ):
        (tmp_path / "a.toml").write_text(tomli_w.dumps(_other_values(tomllib.loads(text), random)))
        # Messages name the place in the file: which file it is, the user has just typed.
        with damage.works_or_says():
            use(tmp_path / "a.toml")


def _other_values(content, random):
    for *path, last in random.choices(list(damage._places(content)), k=2):
        node = content
        try:
            for key in path:
                node = node[key]
            node[last] = random.choice(VALUES)
        except (LookupError, TypeError):
            continue
    return content


@damage.examples(30)
@given(address=st.sampled_from(ADDRESSES), value=st.sampled_from(TYPED) | st.text(max_size=9))
def test_set(address, value):
    with damage.works_or_says():
        build(PretrainSettings, gather_settings(None, [f"{address}={value}"]))
    with damage.works_or_says():
        task_settings("cell_type", None, [f"{address}={value}"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same cells in every format."""
    folder = tmp_path_factory.mktemp("sources")
    counts = np.random.default_rng(0).poisson(0.8, (20, 9))
    counts[:, 0] = 1
    return {kind: write(folder, files.make_cells(counts)) for kind, write in files.WRITERS.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", files.WRITERS)
@damage.examples(4)
@given(random=damage.randoms)
def test_files_of_cells(tmp_path, sources, kind, random):
    path = tmp_path / sources[kind].name
    if path.is_dir():
        shutil.rmtree(path)
    if sources[kind].is_dir():
        shutil.copytree(sources[kind], path)
        chosen = random.choice(sorted(file for file in path.rglob("*") if file.is_file()))
        if kind.startswith("zarr") and not chosen.name.startswith((".z", "zarr")):
            # Changed within, numcodecs crashes over it (Blosc), or takes all memory (a list of names).
            chosen.write_bytes(b"")
        else:
            damage.of_file(chosen, random)
    else:
        shutil.copyfile(sources[kind], path)
        if random.random() < 0.2:
            path.write_bytes(damage.of_bytes(path.read_bytes(), random))
        else:
            damage.of_hdf5(path, random)
    if kind in files.ANNDATA:
        with damage.works_or_says(path.name):
            cells = open_cells(path)
            # Beyond the ends of arrays, compiled loops would read.
            assert cells.counts.indices.max(initial=0) < len(cells.genes)
    with damage.works_or_says(path.name), open_input(path, scratch=tmp_path, memory_bytes=10**8) as source:
        for start in range(0, source.n_cells, 7):
            source.read(start, min(start + 7, source.n_cells))
        source.obs(list(source.obs_kinds))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A file of two modalities."""
    path = tmp_path_factory.mktemp("several") / "cells.h5mu"
    parts = [files.make_cells(np.random.default_rng(seed).poisson(0.8, (20, 9)) + 1) for seed in range(2)]
    with mudata.set_options(pull_on_update=False):
        mudata.MuData(dict(zip(("rna", "prot"), parts, strict=True))).write(path)
    return path


@pytest.mark.filterwarnings("ignore")
@damage.examples(10)
@given(random=damage.randoms)
def test_files_of_several_modalities(tmp_path, several, random):
    path = tmp_path / several.name
    shutil.copyfile(several, path)
    if random.random() < 0.2:
        path.write_bytes(damage.of_bytes(path.read_bytes(), random))
    else:
        damage.of_hdf5(path, random)
    with damage.works_or_says(path.name):
        open_cells(path)
    with damage.works_or_says(path.name):
        file = MuDataFile.read(path, "rna")
        file.adata.obs["added"] = 1.0
        with writing_cells(path):
            file.write(tmp_path / "written.h5mu")
        MuDataFile.read(tmp_path / "written.h5mu", "rna")


LINES = ["", "x", "1 1 1", "0 0 5", "99 99 1", "-1 1 1", "1 1 1.5", "1 1 nan", "9" * 20 + " 1 1", "1 1 1 1", "3 3", "%"]


@damage.examples(20)
@given(
    random=damage.randoms, line=st.sampled_from([*LINES, "9 20 100000000000", "1000000000 1000000000 5", "a\tb\tc\td"])
)
def test_lines_of_a_tenx_folder(tmp_path, sources, random, line):
    folder = tmp_path / "mtx"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sources["10x mtx"], folder)
    file = random.choice(sorted(folder.iterdir()))
    lines = file.read_text().split("\n")
    lines[random.randrange(len(lines))] = line
    file.write_text("\n".join(lines))
    with damage.works_or_says("mtx"):
        open_backed(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["indices", "indptr"])
@pytest.mark.parametrize("value", [-1, 2**31 - 1, 60])
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_sparse_matrices_that_do_not_hold_together_are_refused_before_a_compiled_loop_reads_them(
    sources, tmp_path, part, value, layout
):
    path = tmp_path / "a.h5ad"
    shutil.copyfile(sources[layout], path)
    with damage.h5py.File(path, "r+") as file:
        file[f"X/{part}"][3] = value
    with pytest.raises(damage.InputError, match=r"a\.h5ad: X is a sparse matrix that does not hold together"):
        open_cells(path)
    with pytest.raises(damage.InputError, match=r"a\.h5ad"):
        open_backed(path)


def test_a_file_that_says_it_is_larger_than_the_memory_is_refused_before_it_is_read(sources, tmp_path):
    path = tmp_path / "a.h5ad"
    shutil.copyfile(sources["dense"], path)
    with damage.h5py.File(path, "r+") as file:
        file.create_dataset("obsm/big", shape=(20, 10**12), chunks=(1, 1000), dtype="f8")
    assert path.stat().st_size < 10**6
    with pytest.raises(damage.InputError, match=r"a\.h5ad holds arrays of 160,000 GB, and .* are free"):
        open_cells(path)


ODD_NAMES = st.text(max_size=5) | st.sampled_from(["", " ", "nan", "a\nb", "../x", "ä", "x" * 999, "-", "<b>", "NA"])


@pytest.mark.filterwarnings("ignore")
@damage.examples(10)
@given(genes=st.lists(ODD_NAMES, max_size=4), cells=st.lists(ODD_NAMES, max_size=4), seed=st.integers(0, 9))
def test_odd_names_and_no_cells_or_genes(tmp_path, genes, cells, seed):
    counts = np.random.default_rng(seed).poisson(2.0, (len(cells), len(genes))).astype(np.float32)
    adata = anndata.AnnData(counts, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    with damage.works_or_says("adata", "var_names", "gene"):
        opened = open_cells(adata)
        assert len(opened) and len(set(opened.genes.ids)) == len(genes)
    try:
        adata.write_h5ad(tmp_path / "a.h5ad")
    except (ValueError, TypeError, UnicodeError):  # a name that no HDF5 file holds
        return
    with damage.works_or_says("a.h5ad"):
        open_cells(tmp_path / "a.h5ad")


def test_the_fuzzer_begins_from_checkpoints_of_every_layout(monkeypatch, tmp_path):
    stand_in = SimpleNamespace(instrument_imports=lambda **_: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "atheris", stand_in)
    begin, read = runpy.run_path(str(HERE / "fuzz.py"))["readers"]()["model.ckpt"]
    found = []
    for content in begin:
        (tmp_path / "model.ckpt").write_bytes(content)
        found.append(read(tmp_path / "model.ckpt").layout)
    assert found == list(LAYOUTS)
