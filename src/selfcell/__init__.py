"""Self-supervised pre-training for single-cell RNA-seq, judged honestly.

Read on in this order: :mod:`selfcell.training.pretrain` makes an encoder, :mod:`selfcell.downstream` uses and judges
it, :mod:`selfcell.benchmark.study` compares it with baselines, :mod:`selfcell.reporting.html` shows what came out.

Public names are looked up on first use, so that importing the package takes no time.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# After each product of matrices the threads of OpenMP go on spinning for milliseconds, by default, and hold the cores
# that compiled loops are waiting for. It is read when torch is first imported; what the user has set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from selfcell.benchmark.evaluate import evaluate as evaluate
    from selfcell.data import datasets as datasets
    from selfcell.data.atlas.build import append_to_atlas as append_to_atlas
    from selfcell.data.atlas.build import build_atlas as build_atlas
    from selfcell.data.stream import stream_cells as stream_cells
    from selfcell.downstream.annotate import annotate as annotate
    from selfcell.downstream.embed import embed as embed
    from selfcell.downstream.embed_atlas import embed_atlas as embed_atlas
    from selfcell.downstream.export import export as export
    from selfcell.downstream.finetune import finetune as finetune
    from selfcell.downstream.impute import impute as impute
    from selfcell.downstream.predict_modality import predict_modality as predict_modality
    from selfcell.downstream.score_embeddings import score_embeddings as score_embeddings
    from selfcell.publishing.push import push as push
    from selfcell.reporting.html import write_report as report
    from selfcell.training.import_checkpoint import import_checkpoint as import_checkpoint
    from selfcell.training.presets import preset as preset
    from selfcell.training.pretrain import pretrain as pretrain
    from selfcell.training.pull import pull as pull
    from selfcell.training.run_folder import load as load

_PUBLIC = {
    "build_atlas": "selfcell.data.atlas.build:build_atlas",
    "append_to_atlas": "selfcell.data.atlas.build:append_to_atlas",
    "stream_cells": "selfcell.data.stream:stream_cells",
    "pretrain": "selfcell.training.pretrain:pretrain",
    "import_checkpoint": "selfcell.training.import_checkpoint:import_checkpoint",
    "push": "selfcell.publishing.push:push",
    "pull": "selfcell.training.pull:pull",
    "preset": "selfcell.training.presets:preset",
    "load": "selfcell.training.run_folder:load",
    "embed": "selfcell.downstream.embed:embed",
    "embed_atlas": "selfcell.downstream.embed_atlas:embed_atlas",
    "annotate": "selfcell.downstream.annotate:annotate",
    "impute": "selfcell.downstream.impute:impute",
    "export": "selfcell.downstream.export:export",
    "finetune": "selfcell.downstream.finetune:finetune",
    "predict_modality": "selfcell.downstream.predict_modality:predict_modality",
    "score_embeddings": "selfcell.downstream.score_embeddings:score_embeddings",
    "evaluate": "selfcell.benchmark.evaluate:evaluate",
    "report": "selfcell.reporting.html:write_report",
    "datasets": "selfcell.data.datasets:",
}

__all__ = [
    "annotate",
    "append_to_atlas",
    "build_atlas",
    "datasets",
    "embed",
    "embed_atlas",
    "evaluate",
    "export",
    "finetune",
    "import_checkpoint",
    "impute",
    "load",
    "predict_modality",
    "preset",
    "pretrain",
    "pull",
    "push",
    "report",
    "score_embeddings",
    "stream_cells",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'selfcell' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
