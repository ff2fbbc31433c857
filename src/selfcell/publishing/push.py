"""Publish a model on the Hugging Face Hub, with its card and the hashes of its files."""

import dataclasses
import json
import logging
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from selfcell.core.digest import sha256_of
from selfcell.core.errors import InputError
from selfcell.publishing.card_scores import read_scores
from selfcell.publishing.contents import Contents, contents_of, public_manifest
from selfcell.publishing.model_card import write_card
from selfcell.training.hub_address import HubAddress, read_address
from selfcell.training.hub_client import hub_package, in_words
from selfcell.training.hub_files import CARD, LISTING, TRAVEL
from selfcell.training.run_folder import TrainedModel, load

logger = logging.getLogger(__name__)

_OF_ANY_REPOSITORY = {".gitattributes", CARD, "LICENSE", "LICENSE.md", "LICENSE.txt"}
"""What a repository may hold and still be as good as empty."""


def push(
    model: TrainedModel | str | Path,
    name: str,
    *,
    license_id: str,
    results: str | Path | None = None,
    trained_on: str | None = None,
    with_cells: bool = False,
    private: bool = False,
    overwrite: bool = False,
) -> str:
    """Publish a finished run on the Hugging Face Hub: weights, settings, genes, manifest, log, and a card.

    The repository is made if there is none; a model that is there gets a new commit, and its earlier ones stay.

    Parameters
    ----------
    model
        The model or its run folder.
    name
        ``org/name``, or ``org/name@branch``.
    license_id
        The licence, as the Hub names it: ``mit``, ``cc-by-4.0``, ``other``.
    results
        A folder that ``selfcell evaluate`` wrote of this model: its scores go onto the card, with intervals.
    trained_on
        What the cells are, for the card.
    with_cells
        Publish what tells its cells again too: ``split.json``, with the names of donors or the positions of cells, and
        ``cells.safetensors``, with hashes by which whoever holds a cell can tell whether it was trained on. Without
        them ``evaluate`` cannot say whether test cells were seen, and ``finetune`` not leave out what was set aside.
    private
        Make a repository that only its owners see.
    overwrite
        Publish into a repository that holds something else. What it holds stays, but for the card.

    Returns
    -------
    The address of the very files that were published: ``org/name@commit``.

    Raises
    ------
    InputError
        If the run is not finished, results are of another model, no licence is given, there is no token that may
        write, or the repository holds something else.
    """
    address = read_address(name)
    if address.commit is not None:
        raise InputError(f"A commit cannot be added to: name a branch, as {address.repository}@main.")
    contents = prepare(
        model,
        address.repository,
        license_id=license_id,
        results=results,
        trained_on=trained_on,
        with_cells=with_cells,
    )
    hub = hub_package()
    if hub.get_token() is None:
        raise InputError(
            "No token of the Hub was found: log in with `hf auth login`, or set HF_TOKEN to one that may write."
        )
    with in_words(address, to="write"):
        there = _look_up(hub, address)
        if there is not None:
            _refuse_other(there, address, private=private, overwrite=overwrite)
        commit = _send(hub, address, contents, there=there, private=private)
    logger.info("Published %s in %s, at commit %s.", ", ".join(contents), address, commit)
    return str(address.at(commit))


def prepare(
    model: TrainedModel | str | Path,
    repository: str,
    *,
    license_id: str,
    results: str | Path | None = None,
    trained_on: str | None = None,
    with_cells: bool = False,
) -> Contents:
    """Give all files that :func:`push` sends, card and hashes among them, and send nothing.

    The parameters are those of :func:`push`.

    Raises
    ------
    InputError
        If the run is not finished, results are of another model, or no licence is given.
    """
    license_id = _read_license(license_id)
    loaded = model if isinstance(model, TrainedModel) else load(model)
    contents = contents_of(loaded, with_cells=with_cells)
    card = write_card(
        _as_published(loaded, with_cells=with_cells),
        repository,
        license_id=license_id,
        trained_on=trained_on,
        scores=None if results is None else read_scores(Path(results), loaded),
        with_cells=with_cells,
    )
    listing = {file: sha256_of(content) for file, content in contents.items()}
    return {**contents, LISTING: (json.dumps(listing, indent=2) + "\n").encode(), CARD: card.encode()}


def _as_published(model: TrainedModel, *, with_cells: bool) -> TrainedModel:
    """Give the model as others will have it, for the card to say no more than its manifest does."""
    return dataclasses.replace(model, manifest=public_manifest(model.manifest, with_cells=with_cells))


def _read_license(license_id: str) -> str:
    found = license_id.strip().lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", found):
        raise InputError(
            f"--license (license_id) is {license_id!r}, but takes the identifier of a licence as the Hub lists them, "
            "such as mit, apache-2.0 or cc-by-4.0; other, if it lists none that fits."
        )
    return found


def _look_up(hub: ModuleType, address: HubAddress) -> Any:
    """Give what the Hub knows of the repository, at the branch if there is one of that name; None if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415

    api = hub.HfApi()
    try:
        return api.model_info(address.repository, revision=address.revision)
    except RevisionNotFoundError:
        return api.model_info(address.repository)
    except RepositoryNotFoundError:
        return None


def _names_in(there: Any) -> set[str]:
    return {file.rfilename for file in there.siblings or ()}


def _refuse_other(there: Any, address: HubAddress, *, private: bool, overwrite: bool) -> None:
    """Refuse a repository that others can see where that was not meant, or that holds something else."""
    if private and not there.private:
        raise InputError(
            f"{address.repository} is there and public, so --private would not hold. Name another one, or make it "
            "private in its settings on the Hub."
        )
    names = _names_in(there)
    if LISTING not in names and (others := sorted(names - _OF_ANY_REPOSITORY)) and not overwrite:
        raise InputError(
            f"{address.repository} holds something that selfcell did not publish ({', '.join(others[:3])}). Name "
            "another repository, or publish into this one all the same (--overwrite)."
        )


def _send(hub: ModuleType, address: HubAddress, contents: Contents, *, there: Any, private: bool) -> str:
    """Make the repository and the branch if need be, and all changes in one commit; give its hash."""
    api = hub.HfApi()
    if there is None:
        api.create_repo(address.repository, private=private)
    if address.revision is not None:
        api.create_branch(address.repository, branch=address.revision, exist_ok=True)
    operations = [hub.CommitOperationAdd(name, content) for name, content in contents.items()]
    operations += [hub.CommitOperationDelete(name) for name in _left_behind(there, contents)]
    done = api.create_commit(
        address.repository,
        operations,
        commit_message="A model by selfcell",
        revision=address.revision,
        parent_commit=None if there is None else there.sha,
    )
    return str(done.oid)


def _left_behind(there: Any, contents: Collection[str]) -> list[str]:
    """Give the files of a model that was published before and that this one does not have."""
    return [] if there is None else sorted((_names_in(there) & set(TRAVEL)) - set(contents))
