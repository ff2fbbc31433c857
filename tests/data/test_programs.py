import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.genes import GeneTable
from selfcell.data.program_files import GeneSet, GeneSetCollection, read_programs, write_gmt
from selfcell.data.program_sources import PROGRAM_SOURCES
from selfcell.data.programs import load_programs, map_programs, read_stored_programs, write_programs

LIMITS = {"min_genes": 1, "max_genes": None, "min_coverage": 0.0}
SYMBOLS = ("CD19", "CD3E", "C1orf112", "SOX9", "MS4A1", "TWICE", "TWICE", "E2F1", "MYC", "TP53")
GENES = GeneTable(tuple(f"ENSG{place:011d}" for place in range(len(SYMBOLS))), SYMBOLS)


def sets_of(*sets):
    """Give a collection of (name, genes) or (name, genes, regulator), genes separated by spaces."""
    return GeneSetCollection("mine", tuple(GeneSet(name, tuple(genes.split()), *rest) for name, genes, *rest in sets))


def named(programs, genes=GENES):
    return {
        name: [genes.names[place] for place in places]
        for name, places in zip(programs.names, programs.genes, strict=True)
    }


def fates(report):
    return report.to_frame().set_index("set")["fate"].to_dict()


@pytest.fixture
def write(tmp_path):
    def call(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return call


def test_untidy_gmt_is_read(write, tmp_path, caplog):
    text = "\ufeffB\tof B cells\tCD19\tMS4A1\tCD19\t\t\r\n\r\n  \nT\t\tCD3E\r\nnone\tempty\nB\tagain\tMYC"
    read = read_programs(write("a.gmt", text))
    assert [(one.name, one.genes) for one in read.sets] == [("B", ("CD19", "MS4A1", "MYC")), ("T", ("CD3E",))]
    assert read.notes == (
        "1 names stand for several sets, which are merged, for example B.",
        "1 sets have no genes and are left out, for example none.",
    )
    assert all(note in caplog.text for note in read.notes)
    assert read_programs(write("a.gmt.gz", gzip.compress(text.encode()))).sets == read.sets
    write_gmt(tmp_path / "b.gmt", read.sets)
    again = read_programs(str(tmp_path / "b.gmt"))
    assert again.sets == read.sets and again.notes == ()


def test_a_table_of_factors_and_targets_is_read(write):
    read = read_programs(
        write(
            "a.csv", "Target,extra,source,weight\nCD19,x,SOX9,-1\nMYC,x,SOX9,0\n,x,SOX9,1\nTP53,x,E2F1,\nMYC,x,SOX9,2\n"
        )
    )
    assert [(one.name, one.genes, one.regulator) for one in read.sets] == [
        ("SOX9", ("CD19", "MYC"), "SOX9"),
        ("E2F1", ("TP53",), "E2F1"),
    ]
    assert read.notes == (
        "1 rows lack a name and are left out, for example line 4.",
        "1 rows have weight 0 and are left out, for example SOX9,MYC.",
        "The sign of the weights is not used: repressed genes are targets too.",
    )
    assert read_programs(write("a.tsv", "source\ttarget\r\nSOX9\tCD19\r\n")).sets == (
        GeneSet("SOX9", ("CD19",), "SOX9"),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gmt", "A\tx\tCD19\nno tabs here\n", r"a\.gmt, line 2: GMT has a set a line.*'no tabs here'.*Mend the line"),
        ("a.gmt", "A\tx\n", r"a\.gmt has no set with genes"),
        ("a.gmt", " \n", r"a\.gmt is empty\."),
        ("a.gmt", b"\xff\xfe\x00", r"a\.gmt is not text in UTF-8 \(byte 0\)"),
        ("a.gmt.gz", b"\x1f\x8b\x08broken", r"a\.gmt\.gz is a damaged gzip file .*again"),
        ("a.txt", "A\tx\tCD19\n", r"a\.txt is named neither \.gmt, \.csv nor \.tsv.*Rename the file"),
        ("a.csv", "\ntf,target\n", r"a\.csv, line 2: .* no column source\. .*Known: tf, target\. .* by commas"),
        ("a.tsv", "source,target\nA,B\n", r"no column source and no column target.*separated by tabs"),
        ("a.csv", "source,target\n", r"a\.csv has no row with a source and a target"),
        ("a.csv", "source,target,weight\nA,B,much\n", r"line 2: the weight must be a number, but is 'much'"),
        ("a.csv", 'source,target\nA,"B' + "x" * 200_000, r"a\.csv, line 2 cannot be read as a table.*unclosed quote"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_its_line(write, name, content, message):
    with pytest.raises(InputError, match=message):
        read_programs(write(name, content))


def test_an_unknown_source_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match=r"'msigdb-c9' is neither a named source.* Did you mean 'msigdb-c[2358]'\?"):
        read_programs("msigdb-c9")
    with pytest.raises(InputError, match=r"is a folder\. Name a GMT file"):
        read_programs(tmp_path)


def test_symbols_and_ids_are_mapped():
    for sets in (
        sets_of(("B", "MS4A1 CD19 NOVEL"), ("T", "CD3E")),
        sets_of(("B", "ENSG00000000004.7 ENSG00000000000 ENSG00000000099"), ("T", "ENSG00000000001")),
    ):
        programs, report = map_programs(sets, GENES, **LIMITS)
        assert named(programs) == {"B": ["CD19", "MS4A1"], "T": ["CD3E"]}
        assert programs.genes[0].tolist() == [0, 4] and programs.genes[0].dtype == np.int64
        assert programs.n_genes == 10 and programs.regulators is None and programs.sizes.tolist() == [2, 1]
        assert report.matched_by == ("ids" if sets.sets[0].genes[0].startswith("ENSG") else "symbols")
        assert report.share_of_genes == 0.3


def test_case_is_minded_unless_one_gene_alone_is_meant():
    genes = GeneTable(("A", "B", "C", "D"), ("C1orf112", "Abc", "ABC", "xy"))
    programs, _ = map_programs(sets_of(("s", "C1ORF112 XY"), ("t", "Abc"), ("u", "abc xy")), genes, **LIMITS)
    assert named(programs, genes) == {"s": ["C1orf112", "xy"], "t": ["Abc"], "u": ["xy"]}


def test_a_symbol_of_two_genes_stands_for_none():
    _, report = map_programs(sets_of(("s", "TWICE"), ("t", "MYC")), GENES, **LIMITS)
    assert fates(report) == {"s": "too few genes", "t": "kept"}


def test_sets_of_a_wrong_size_are_dropped_and_reported():
    sets = sets_of(("few", "CD19"), ("many", "CD19 CD3E SOX9 MYC"), ("rare", "CD19 MYC A B C"), ("good", "CD19 MYC X"))
    programs, report = map_programs(sets, GENES, min_genes=2, max_genes=3, min_coverage=0.5)
    assert programs.names == ("good",)
    assert fates(report) == {"few": "too few genes", "many": "too many genes", "rare": "low coverage", "good": "kept"}
    assert (report.n_read, report.n_kept, report.n_genes_covered) == (4, 1, 2)
    assert report.describe() == (
        "mine: 4 sets read, 1 programmes kept, of 2 to 2 genes (median 2); 2 of the 10 genes (20%) are in at least "
        "one. Genes were found by their symbols. Sets dropped: 1 (too few genes), 1 (too many genes), 1 (low coverage)."
    )
    frame = report.to_frame().set_index("set")
    assert frame.loc["rare", ["n_genes", "n_found", "program"]].tolist() == [5, 2, ""]


def test_programmes_that_come_to_the_same_genes_are_all_kept():
    programs, report = map_programs(sets_of(("a", "CD19 X"), ("b", "CD19 Y")), GENES, **LIMITS)
    assert programs.names == ("a", "b") and report.n_same_genes == 1
    assert "Kept although their genes are those of another one: 1." in report.describe()


def test_all_sets_of_a_factor_are_one_regulon_without_the_factor():
    sets = sets_of(
        ("E2F1_Q3", "MYC E2F1"), ("AAACCAC_MIR140", "MYC CD19"), ("AAAYRNCTG_UNKNOWN", "MYC"), ("E2F1_Q4", "TP53 CD19"),
        ("TEAD2_TARGET_GENES", "MYC"), ("SOX9_B1", "SOX9"), ("LET_7A_3P", "MYC"), ("CATTGTYY_SOX9_B1", "MYC"),
        ("MYC(+)", "TP53"),
    )  # fmt: skip
    programs, report = map_programs(sets, GENES, **LIMITS, as_regulons=True)
    assert named(programs) == {"E2F1": ["CD19", "MYC", "TP53"], "MYC": ["TP53"]}
    assert programs.regulators.tolist() == [7, 8]
    assert fates(report) == {
        "E2F1_Q3": "kept",
        "E2F1_Q4": "kept",
        "MYC(+)": "kept",
        "AAACCAC_MIR140": "targets of a microRNA",
        "LET_7A_3P": "targets of a microRNA",
        "AAAYRNCTG_UNKNOWN": "named by a motif, not a factor",
        "CATTGTYY_SOX9_B1": "named by a motif, not a factor",
        "TEAD2_TARGET_GENES": "factor not among the genes",
        "SOX9_B1": "no target but the factor itself",
    }
    assert report.to_frame()["program"].tolist() == ["E2F1", "", "", "E2F1", "", "", "", "", "MYC"]
    assert "9 sets read, 2 regulons (from 3 sets) kept" in report.describe()


def test_limits_and_coverage_of_a_regulon_are_those_of_the_union():
    sets = sets_of(("E2F1_Q3", "MYC E2F1"), ("E2F1_Q4", "TP53 X"))
    programs, _ = map_programs(sets, GENES, min_genes=2, max_genes=2, min_coverage=2 / 3, as_regulons=True)
    assert named(programs) == {"E2F1": ["MYC", "TP53"]}
    with pytest.raises(InputError, match="low coverage"):
        map_programs(sets, GENES, min_genes=2, max_genes=2, min_coverage=0.7, as_regulons=True)


def test_the_column_of_a_table_says_who_the_factor_is():
    programs, report = map_programs(
        sets_of(("SOX9", "CD19 SOX9", "SOX9"), ("GATA1", "MYC", "GATA1")), GENES, **LIMITS, as_regulons=True
    )
    assert named(programs) == {"SOX9": ["CD19"]} and programs.regulators.tolist() == [3]
    assert fates(report)["GATA1"] == "factor not among the genes"
    plain, _ = map_programs(sets_of(("SOX9", "CD19 SOX9", "SOX9")), GENES, **LIMITS)
    assert named(plain) == {"SOX9": ["CD19", "SOX9"]}


def test_no_programme_left_is_refused_with_the_likely_cause():
    human = tuple(f"ABC{place}" for place in range(60))
    ensembl = tuple(f"ENSG{place:011d}" for place in range(60))
    mouse = tuple(symbol.title() for symbol in human)
    numbered = tuple(f"G{place}" for place in range(60))
    of_human = sets_of(("s", " ".join(human)))
    with pytest.raises(InputError, match=r"Only 0 of the 60 genes .*look like human, the cells like mouse: take sets"):
        map_programs(of_human, GeneTable(mouse, mouse), **LIMITS)
    with pytest.raises(InputError, match=r"name them by symbols, the cells by Ensembl ids: .*--gene-column"):
        map_programs(of_human, GeneTable(ensembl, ("",) * 60), **LIMITS)
    with pytest.raises(InputError, match=r"The sets' genes begin ABC0, ABC1, .*the cells' G0, G1, G2"):
        map_programs(of_human, GeneTable(numbered, numbered), **LIMITS)
    with pytest.raises(
        InputError,
        match=r"None of the 1 gene sets of mine .* 60 genes: 1 \(too few genes\)\. The set with most has 60 of the "
        r"genes; the limits are min_genes=70, max_genes=None, min_coverage=0\. Loosen",
    ):
        map_programs(of_human, GeneTable(human, human), min_genes=70, max_genes=None, min_coverage=0.0)


def test_no_regulon_left_is_refused_with_the_number_of_factors():
    sets = sets_of(("TEAD2_Q1", "MYC CD19"), ("GATA1_Q1", "MYC"), ("GATA1_Q2", "MYC"), ("MIR7", "MYC"))
    with pytest.raises(InputError, match=r"It names 2 factors, 0 of them among the genes \(for example TEAD2, GATA1\)"):
        map_programs(sets, GENES, **LIMITS, as_regulons=True)
    with pytest.raises(InputError, match=r"It names 1 factors, 1 of them among the genes \(for example SOX9\)"):
        map_programs(
            sets_of(("SOX9_Q1", "MYC")), GENES, min_genes=2, max_genes=None, min_coverage=0.0, as_regulons=True
        )
    with pytest.raises(
        InputError, match=r"is no source of transcription factors.* Sources that are: msigdb-c3, trrust"
    ):
        map_programs(GeneSetCollection("msigdb-c8", sets.sets, (), False), GENES, **LIMITS, as_regulons=True)


@pytest.mark.parametrize("as_regulons", [False, True])
def test_stored_programmes_come_back_as_they_were(tmp_path, as_regulons):
    sets = sets_of(("E2F1_Q3", "MYC CD19"), ('SOX9, "it"', "TP53"), ("SOX9_2", "CD3E"), ("E2F1_Q4", "TP53"))
    programs, _ = map_programs(sets, GENES, **LIMITS, as_regulons=as_regulons)
    path = tmp_path / "run" / "programs.csv"
    write_programs(path, programs, GENES)
    assert path.read_text().startswith("program,regulator,gene\n")
    again = read_stored_programs(path, GENES)
    assert again.names == programs.names and again.n_genes == programs.n_genes
    assert all(
        one.dtype == other.dtype and np.array_equal(one, other)
        for one, other in zip(again.genes, programs.genes, strict=True)
    )
    assert (again.regulators is None) == (not as_regulons)
    if as_regulons:
        assert np.array_equal(again.regulators, programs.regulators) and again.regulators.dtype == np.int64


def test_what_cannot_be_read_back_is_refused(write, tmp_path):
    for content, message in (
        ("a,b\n", r"must have the columns program, regulator and gene, but has a, b"),
        ("", r"is damaged, or cut short \(No columns"),
        ("program,regulator,gene\na,,ENSG1\n", r"names 1 genes that are not among the 10 .*'ENSG1'.* another run"),
    ):
        with pytest.raises(InputError, match=message):
            read_stored_programs(write("p.csv", content), GENES)
    with pytest.raises(InputError, match=r"There is no file .*none\.csv'"):
        read_stored_programs(tmp_path / "none.csv", GENES)


gene_names = st.text("abcABC1", min_size=1, max_size=3)


@given(
    sets=st.lists(st.tuples(st.text("AbB_", min_size=1), st.lists(gene_names, min_size=1)), min_size=1, max_size=8),
    symbols=st.lists(gene_names, min_size=1, max_size=12),
    as_regulons=st.booleans(),
)
def test_positions_are_sorted_and_single_and_of_genes_that_the_sets_name(sets, symbols, as_regulons):
    genes = GeneTable(tuple(f"id{place}" for place in range(len(symbols))), tuple(symbols))
    collection = sets_of(*((f"{name}{place}", " ".join(members)) for place, (name, members) in enumerate(sets)))
    try:
        programs, report = map_programs(collection, genes, **LIMITS, as_regulons=as_regulons)
    except InputError:
        return
    members = {one.name: {gene.upper() for gene in one.genes} for one in collection.sets}
    frame = report.to_frame()
    for number, (name, places) in enumerate(zip(programs.names, programs.genes, strict=True)):
        assert len(places) and (np.diff(places) > 0).all() and places[0] >= 0 and places[-1] < len(genes)
        named_here = set().union(*(members[one] for one in frame.loc[frame["program"] == name, "set"]))
        assert {genes.names[place].upper() for place in places} <= named_here
        if as_regulons:
            assert programs.regulators[number] not in places
    assert len(frame) == len(collection)


FACTS = {
    "msigdb-hallmark": ("HALLMARK_INTERFERON_ALPHA_RESPONSE", {"ISG15", "MX1"}),
    "msigdb-c2": ("REACTOME_SIGNALING_BY_THE_B_CELL_RECEPTOR_BCR", {"CD19", "CD79A"}),
    "msigdb-c3": ("E2F1_Q3", {"MCM3"}),
    "msigdb-c5": ("GOBP_B_CELL_RECEPTOR_SIGNALING_PATHWAY", {"CD19", "CD79A"}),
    "msigdb-c8": ("TRAVAGLINI_LUNG_B_CELL", {"CD19", "MS4A1"}),
    "trrust": ("TP53", {"CDKN1A", "BAX"}),
}


@pytest.mark.network
@pytest.mark.parametrize("name", list(PROGRAM_SOURCES))
def test_a_named_source_is_what_the_table_says(name):
    info, read = PROGRAM_SOURCES[name], read_programs(name)
    assert (read.source, len(read), read.notes) == (name, info.n_sets, ())
    assert len({gene for one in read.sets for gene in one.genes}) == info.n_genes
    known, members = FACTS[name]
    assert members <= set({one.name: one.genes for one in read.sets}[known])
    assert all(one.regulator == (one.name if name == "trrust" else None) for one in read.sets)


@pytest.mark.network
def test_regulons_of_c3_come_from_its_sets_of_factors_alone():
    read = read_programs("msigdb-c3")
    symbols = tuple(sorted({gene for one in read.sets for gene in one.genes}))
    programs, report = load_programs("msigdb-c3", GeneTable(symbols, symbols), **LIMITS, as_regulons=True)
    assert report.dropped["targets of a microRNA"] == 2598
    assert "E2F1" in programs.names and not any(name.startswith(("MIR", "LET")) for name in programs.names)
    assert (report.to_frame()["program"] == "E2F1").sum() == 6


def test_a_few_mouse_symbols_are_not_taken_for_human_ones():
    genes = GeneTable(("ACTB", "GAPDH", "CD3E", "C1orf112"), ("ACTB", "GAPDH", "CD3E", "C1orf112"))
    sets = GeneSetCollection("s", (GeneSet("mouse", ("Actb", "Gapdh", "Cd3e")), GeneSet("human", ("ACTB", "C1ORF112"))))
    programs, _ = map_programs(sets, genes, min_genes=2, max_genes=None, min_coverage=0.0)
    assert programs.names == ("human",) and programs.genes[0].tolist() == [0, 3]
