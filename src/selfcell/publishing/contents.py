"""What of a run is published, and what of it stays at home."""

import json
import logging
import re
from pathlib import Path, PurePosixPath
from typing import Any

from selfcell.training.hub_address import address_in
from selfcell.training.hub_files import ABOUT_CELLS, TRAVEL
from selfcell.training.run_folder import TrainedModel

logger = logging.getLogger(__name__)

Contents = dict[str, Path | bytes]
"""What each file is to hold, by its name: that of a file here, or bytes."""

_PATH = re.compile(r"""["'](?:~|/|[A-Za-z]:\\)[^"']*["']""")


def contents_of(model: TrainedModel, *, with_cells: bool) -> Contents:
    """Give the files of a model that are published, but for its card and the list of hashes.

    Parameters
    ----------
    model
        A model, whose folder is read.
    with_cells
        Whether what tells its cells again goes along: names of donors or positions of cells (``split.json``), and
        hashes of cells (``cells.safetensors``).
    """
    names = [name for name in TRAVEL if with_cells or name not in ABOUT_CELLS]
    contents: Contents = {name: model.path / name for name in names if (model.path / name).exists()}
    manifest = public_manifest(model.manifest, with_cells=with_cells)
    contents["manifest.json"] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    if found := _PATH.search((model.path / "config.toml").read_text(encoding="utf-8")):
        logger.warning("config.toml is published as it is, and a path stands in it: %s.", found[0])
    return contents


def public_manifest(manifest: dict[str, Any], *, with_cells: bool) -> dict[str, Any]:
    """Give a manifest without what says more of the machine, or of the cells, than a model needs.

    The command line goes, of paths the last part stays, and the names of batches, which may be those of donors, go
    where ``with_cells`` is not set.
    """
    hidden = {"command"} if with_cells else {"command", "batches"}
    public = {name: value for name, value in manifest.items() if name not in hidden}
    public["data"] = {**manifest["data"], "origin": _last_part(manifest["data"]["origin"])}
    if "start" in public and not _is_pinned(public["start"]):
        public["start"] = _last_part(public["start"])
    programs = (manifest.get("pretext_settings") or {}).get("programs")
    if programs is not None:
        public["pretext_settings"] = manifest["pretext_settings"] | {"programs": _last_part(programs)}
    return public


def _is_pinned(text: str) -> bool:
    address = address_in(text)
    return address is not None and address.commit is not None


def _last_part(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/").partition("?")[0]).name
