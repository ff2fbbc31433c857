"""Fetch a model from the Hugging Face Hub: one commit of it, whole and checked, kept in the Hub's own cache."""

import difflib
import logging
from collections.abc import Iterable
from pathlib import Path

from selfcell.core.errors import InputError
from selfcell.training.hub_address import HubAddress, address_in
from selfcell.training.hub_client import hub_package, in_words
from selfcell.training.hub_files import CARD, LISTING, find_faults, read_listing

logger = logging.getLogger(__name__)


def find_model(given: str | Path) -> tuple[Path, HubAddress | None]:
    """Find a model by what a user has given: a folder that is there, or else a model on the Hub, which is fetched.

    Returns
    -------
    The folder of the model, and its address with the commit if it is from the Hub.

    Raises
    ------
    InputError
        If it is neither.
    """
    path = Path(given)
    if path.exists() or path.is_symlink():
        return path, None
    address = address_in(given)
    if address is None:
        raise InputError(
            f"There is no run folder {str(given)!r}.{_near(path)} Nor can that be the name of a model on the Hub, "
            "which is org/name or org/name@revision."
        )
    try:
        return fetch(address)
    except InputError as error:
        raise InputError(
            f"There is no run folder {str(given)!r} here.{_near(path)} Taken for a model on the Hub: {error}"
        ) from error


def _near(path: Path) -> str:
    """Name the folder beside a path that was perhaps meant, as a sentence with a space before it."""
    beside = [folder.name for folder in path.parent.glob("*/")] if path.parent.is_dir() else []
    found = difflib.get_close_matches(path.name, beside, n=1)
    return f" Did you mean {str(path.parent / found[0])!r}?" if found else ""


def fetch(address: HubAddress) -> tuple[Path, HubAddress]:
    """Fetch all files of a model at one commit, or find them in the Hub's cache, and check all but its card by SHA-256.

    A file that is not the one published is taken out of the cache again.

    Parameters
    ----------
    address
        The repository. Its revision is resolved to a commit first, and all files are of that one.

    Returns
    -------
    The folder in the cache, and the address with the commit.

    Raises
    ------
    InputError
        If there is no such model, the Hub cannot be reached or answers with another commit, or a file is missing or
        wrong.
    """
    hub_package()
    if address.commit is not None and (folder := _cached(address)) is not None:
        return folder, address
    pinned = _resolved(address)
    folder = _cached(pinned)
    if folder is None:
        folder = _download(pinned)
        _check(folder, pinned)
    return folder, pinned


def _resolved(address: HubAddress) -> HubAddress:
    """Give the address with the commit that its revision stands for now, which the Hub alone knows."""
    hub = hub_package()
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415

    with in_words(address, to="read"):
        try:
            info = hub.HfApi().model_info(address.repository, revision=address.revision)
        except OfflineModeIsEnabled:
            raise InputError(_offline_message(address)) from None
    names = {file.rfilename for file in info.siblings or ()}
    if missing := [name for name in ("manifest.json", LISTING) if name not in names]:
        raise InputError(
            f"{address} is no model that selfcell published: the repository has no {missing[0]}. Models that were "
            "pushed with `selfcell push` can be used."
        )
    if address.commit not in {None, info.sha}:
        raise InputError(
            f"The Hub answers for {address} with another commit, {info.sha}: nothing of it is taken. Give the same "
            "command again; if it stays so, something between here and the Hub changes its answers."
        )
    pinned = address.at(str(info.sha))
    if address.commit is None:
        logger.info("%s is at commit %s. To use this very one later: %s", address, info.sha, pinned)
    return pinned


def _offline_message(address: HubAddress) -> str:
    commits = cached_commits(address.repository)
    online = f"selfcell pull {address}, where there is a network"
    if not commits:
        return f"HF_HUB_OFFLINE is set, and no model of {address.repository} is in the cache. Fetch it first: {online}."
    known = ", ".join(str(address.at(commit)) for commit in commits[:3])
    if address.commit is not None:
        return (
            f"HF_HUB_OFFLINE is set, and this commit is not in the cache, which has {known}. Fetch it first: {online}."
        )
    return (
        f"HF_HUB_OFFLINE is set, and which commit {address} stands for only the Hub knows. In the cache is {known}: "
        "name it so."
    )


def cached_commits(repository: str) -> list[str]:
    """Give the commits of a repository of which there is something in the Hub's cache, the newest first."""
    from huggingface_hub import constants  # noqa: PLC0415

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = sorted(folder.glob("*/"), key=lambda commit: commit.stat().st_mtime, reverse=True)
    return [commit.name for commit in found]


def _cached(pinned: HubAddress) -> Path | None:
    """Give the folder of a commit that is in the cache as it was published; None if anything is missing or wrong."""
    listing = hub_package().try_to_load_from_cache(pinned.repository, LISTING, revision=pinned.revision)
    if not isinstance(listing, str):
        return None
    folder = Path(listing).parent
    try:
        faults = find_faults(folder, read_listing(folder / LISTING, origin=str(pinned)))
    except InputError:
        _remove(folder, [LISTING])
        return None
    return None if faults else folder


def _download(pinned: HubAddress) -> Path:
    """Fetch the list of hashes, then what it names: nothing else that the repository may hold."""
    hub = hub_package()
    api = hub.HfApi()
    with in_words(pinned, to="read"):
        listing_file = Path(api.hf_hub_download(pinned.repository, LISTING, revision=pinned.revision))
        listing = read_listing(listing_file, origin=str(pinned))
        _remove(listing_file.parent, find_faults(listing_file.parent, listing))
        names = [*listing, LISTING, CARD]
        return Path(api.snapshot_download(pinned.repository, revision=pinned.revision, allow_patterns=names))


def _check(folder: Path, pinned: HubAddress) -> None:
    """Refuse a model with a file that is missing or wrong, and take what is wrong out of the cache."""
    faults = find_faults(folder, read_listing(folder / LISTING, origin=str(pinned)))
    if not faults:
        return
    _remove(folder, faults)
    name, fault = next(iter(faults.items()))
    raise InputError(
        f"{pinned} is not used: its {name} {fault} (by {LISTING}). Give the same command again; if it stays so, tell "
        "whoever published it."
    )


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        # A file of the cache is a link to where its content is kept.
        (folder / name).resolve().unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
