"""What is known of each named source of gene sets before it is fetched; reading this imports nothing heavy."""

from dataclasses import dataclass

from selfcell.data.dataset_table import GENEVECTOR, PinnedFile

_KALEIDOCELL = PinnedFile(
    "kaleidocell",
    "kaleidocell-0.1.2-py3-none-any.whl",
    "9639dc7b38715624c6cdc094186523e757f4474b27761ceea1b85c8fd92740bb",
    5588017,
)
_SC_ROBUST = PinnedFile(
    "sc-robust",
    "sc_robust-0.1.9-py3-none-any.whl",
    "2b2eec8de472fce0b4f41f9f853664532b89159bfa3b3944627bdeecfef6822a",
    11705434,
)
_MSIGDB_TERMS = "CC BY 4.0 by MSigDB's terms"


@dataclass(frozen=True)
class ProgramSource:
    """What is known of a source of gene sets before it is fetched."""

    name: str
    title: str
    file: PinnedFile
    """The archive that carries it."""
    members: tuple[str, ...]
    """Files inside the archive, read one after the other."""
    licence: str
    n_sets: int
    n_genes: int
    """Different genes that it names."""
    names_factors: bool = False
    """Whether its sets are, or hold among others, the targets of transcription factors."""
    columns: tuple[str, ...] = ()
    """Names of the columns where it is a table without them; empty for GMT."""
    note: str = ""

    @property
    def megabytes(self) -> float:
        """Size of the download."""
        return self.file.n_bytes / 1e6


PROGRAM_SOURCES: dict[str, ProgramSource] = {
    info.name: info
    for info in (
        ProgramSource(
            name="msigdb-hallmark",
            title="Hallmark processes and states, condensed from many sets (MSigDB H, 2026.1, human symbols)",
            file=_KALEIDOCELL,
            members=("kaleidocell/files/h.all.v2026.1.Hs.symbols.gmt",),
            licence=_MSIGDB_TERMS,
            n_sets=50,
            n_genes=4_384,
        ),
        ProgramSource(
            name="msigdb-c2",
            title="Pathways, and genes changed by perturbations (MSigDB C2, 2025.1, human symbols)",
            file=_SC_ROBUST,
            members=("sc_robust/data/pathways/c2.all.v2025.1.Hs.symbols.gmt",),
            licence=f"{_MSIGDB_TERMS}, with exceptions, such as the sets named KEGG_",
            n_sets=7_561,
            n_genes=22_381,
            note="Of the sets named KEGG_, those of KEGG MEDICUS are CC BY-SA 4.0; for the others, and for what other "
            "providers ask, read MSigDB's terms before passing them on.",
        ),
        ProgramSource(
            name="msigdb-c3",
            title="Targets of transcription factors and of microRNAs (MSigDB C3, 2025.1, human symbols)",
            file=_SC_ROBUST,
            members=("sc_robust/data/pathways/c3.all.v2025.1.Hs.symbols.gmt",),
            licence=_MSIGDB_TERMS,
            n_sets=3_713,
            n_genes=28_835,
            names_factors=True,
            note="1,115 sets are of factors or motifs, 2,598 of microRNAs; regulons come from the former alone.",
        ),
        ProgramSource(
            name="msigdb-c5",
            title="Gene Ontology: processes, components, functions (of MSigDB C5, 2026.1, human symbols)",
            file=_KALEIDOCELL,
            members=tuple(f"kaleidocell/files/c5.go.{part}.v2026.1.Hs.symbols.gmt" for part in ("bp", "cc", "mf")),
            licence=_MSIGDB_TERMS,
            n_sets=10_490,
            n_genes=19_591,
            note="The human phenotypes (HPO), the other part of C5, are not in it.",
        ),
        ProgramSource(
            name="msigdb-c8",
            title="Markers of cell types from single-cell studies of tissues (MSigDB C8, 2026.1, human symbols)",
            file=_KALEIDOCELL,
            members=("kaleidocell/files/c8.all.v2026.1.Hs.symbols.gmt",),
            licence=_MSIGDB_TERMS,
            n_sets=866,
            n_genes=20_573,
            note="Pre-training on these, then judging by cell types, lets the encoder know the answer in part.",
        ),
        ProgramSource(
            name="trrust",
            title="Transcription factors and their targets, from the literature (TRRUST v2, human symbols)",
            file=GENEVECTOR,
            members=("genevector-0.2.2/example/references/trrust_rawdata.human.tsv",),
            licence="CC BY-SA 4.0 by TRRUST's authors (the package that carries it does not say)",
            n_sets=795,
            n_genes=2_492,
            names_factors=True,
            columns=("source", "target", "mode", "reference"),
            note="Activation, repression and unknown are all taken as targets.",
        ),
    )
}
"""Name to what is known of it."""
