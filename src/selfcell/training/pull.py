"""Take a model from the Hugging Face Hub: into the Hub's cache, or into a folder of its own."""

import dataclasses
import logging
import shutil
from pathlib import Path

from selfcell.core.atomic import atomic_folder
from selfcell.training.hub import fetch
from selfcell.training.hub_address import read_address
from selfcell.training.hub_files import ABOUT_CELLS, CARD, LISTING, read_listing
from selfcell.training.out_folder import MARKER, check_folder
from selfcell.training.run_folder import TrainedModel, load

logger = logging.getLogger(__name__)


def pull(name: str, *, out: str | Path | None = None, overwrite: bool = False) -> TrainedModel:
    """Fetch a model from the Hugging Face Hub, at one commit, and check every file of it but its card by its SHA-256.

    Parameters
    ----------
    name
        ``org/name`` or ``org/name@revision``: a branch, a tag or a commit. Without a revision it is the main branch.
    out
        A model folder to make, whole or not at all. If left out the model stays in the Hub's cache, from where
        :func:`selfcell.load` and all that takes a model find it by its name.
    overwrite
        Replace a folder that was made before.

    Returns
    -------
    The model. Its ``name`` has the commit, by which the very same one can be had again; a commit that was fetched
    before needs no network.

    Raises
    ------
    InputError
        If there is no such model, the Hub cannot be reached, a file is missing or wrong, or the folder cannot be made.
    """
    address = read_address(name)
    if out is not None:
        check_folder(Path(out), overwrite=overwrite)
    folder, pinned = fetch(address)
    model = dataclasses.replace(load(folder), address=str(pinned))
    if not any((folder / file).exists() for file in ABOUT_CELLS):
        logger.info(
            "The model came without what tells its cells and donors again (published without --with-cells): `selfcell "
            "evaluate` cannot say whether test cells were pre-trained on, and `finetune` not leave out what was set "
            "aside."
        )
    if out is None:
        return model
    with atomic_folder(Path(out)) as temporary:
        for file in (*read_listing(folder / LISTING, origin=str(pinned)), LISTING, CARD):
            if (folder / file).exists():
                shutil.copyfile(folder / file, temporary / file)
        (temporary / MARKER).touch()
    return dataclasses.replace(model, path=Path(out))
