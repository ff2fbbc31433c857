"""Weights of scvi-tools' networks on disk: what several targets of a benchmark would train alike is trained once.

They are kept as safetensors. scvi-tools' own files are pickles, which can run any code when they are opened.
"""

from collections.abc import Callable
from typing import Any

import anndata
import safetensors.torch
from safetensors import safe_open

from selfcell.baselines.base import ComparedCells
from selfcell.core.atomic import atomic_path
from selfcell.core.digest import digest_of


def trained_or_kept(
    make: Callable[[], Any],
    adata: anndata.AnnData,
    *,
    compared: ComparedCells,
    identity: str,
    train: Callable[[Any], None],
) -> Any:
    """Give a trained network: with the weights in the folder of the comparison, or trained, and kept there.

    What the training took is added to ``compared.seconds_saved`` where it is not paid again.

    Parameters
    ----------
    make
        Makes the network, untrained.
    adata
        All that the network learns from: its counts and every column of its ``obs`` are a part of what it is found by.
    compared
        The comparison; where its ``kept_in`` is None, nothing is kept.
    identity
        What else determines the network: kind, seed, code, versions.
    train
        Trains it.
    """
    model = make()
    if compared.kept_in is None:
        train(model)
        return model
    columns = [digest_of(adata.obs[name]) for name in sorted(adata.obs)]
    file = compared.kept_in / f"{digest_of([identity, digest_of(adata.X), *columns])[:16]}.safetensors"
    if file.exists():
        with safe_open(file, framework="pt") as content:
            compared.seconds_saved += float(content.metadata()["seconds"])
        model.module.load_state_dict(safetensors.torch.load_file(file))
        model.module.eval()
        model.is_trained_ = True
        return model
    _, seconds = compared.timed(lambda: train(model))
    state = {name: weights.detach().cpu().clone() for name, weights in model.module.state_dict().items()}
    with atomic_path(file, durable=True) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"seconds": str(seconds)})
    return model
