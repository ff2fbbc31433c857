"""``selfcell push`` and ``selfcell pull``: models on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from selfcell.cli.options import ModelArgument, OverwriteOption


def push(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub, or org/name@branch.")],
    license_: Annotated[
        str, typer.Option("--license", metavar="LICENCE", help="As the Hub names it: mit, cc-by-4.0, ...; or other.")
    ],
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="DIR", help="Folder that `selfcell evaluate` wrote, for the model's card."),
    ] = None,
    trained_on: Annotated[
        str | None, typer.Option("--trained-on", metavar="TEXT", help="What the cells are, for the model's card.")
    ] = None,
    with_cells: Annotated[
        bool,
        typer.Option(
            "--with-cells", help="Publish names of donors and hashes of cells too, by which they are known again."
        ),
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only its owners see.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card that would be sent, and send nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Publish into a repository that holds something else.")
    ] = False,
) -> None:
    """Publish a model on the Hugging Face Hub, with a card and the hashes of its files.

    Needs a token that may write: `hf auth login`, or HF_TOKEN.

    Example: selfcell push runs/mae my-lab/blood-mae --license cc-by-4.0 --results judged

    Example: selfcell push runs/mae my-lab/blood-mae --license cc-by-4.0 --dry-run
    """
    from selfcell.publishing.push import prepare
    from selfcell.publishing.push import push as run
    from selfcell.training.hub_address import read_address

    if dry_run:
        contents = prepare(
            str(model),
            read_address(name).repository,
            license_id=license_,
            results=results,
            trained_on=trained_on,
            with_cells=with_cells,
        )
        for file, content in contents.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            typer.echo(f"{size:>14,} bytes  {file}")
        card = contents["README.md"]
        typer.echo(f"\n{card.decode() if isinstance(card, bytes) else ''}")
        return
    published = run(
        str(model),
        name,
        license_id=license_,
        results=results,
        trained_on=trained_on,
        with_cells=with_cells,
        private=private,
        overwrite=overwrite,
    )
    typer.echo(f"Published: {published}")
    typer.echo(f"Next, anywhere: selfcell embed {published} CELLS.h5ad --out embedded.h5ad")


def pull(
    name: Annotated[
        str, typer.Argument(metavar="ORG/NAME[@REVISION]", help="Model on the Hub, at a branch, a tag or a commit.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="MODEL", help="Model folder to make; the Hub's cache alone if left out."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Fetch a model from the Hugging Face Hub: one commit of it, whole; every file but its card is checked by SHA-256.

    Every command that takes MODEL fetches it too, by the same name.

    Example: selfcell pull my-lab/blood-mae --out models/blood
    """
    from selfcell.training.pull import pull as run

    model = run(name, out=out, overwrite=overwrite)
    typer.echo(f"Pulled: {model.name}, {len(model.genes):,} genes to {model.encoder.n_latent} dimensions.")
    typer.echo(f"Next: selfcell embed {model.name if out is None else out} CELLS.h5ad --out embedded.h5ad")
