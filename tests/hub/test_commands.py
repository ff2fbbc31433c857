"""``selfcell push`` and ``selfcell pull`` as a user types them, and a model of the Hub in other commands."""

import re

import anndata


def test_push_pull_and_embed_by_name(run, hub, model, adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    code, out, errors = run("push", model.path, "lab/blood", "--license", "mit", "--trained-on", "Blood")
    address = re.search(r"Published: (lab/blood@[0-9a-f]{40})\n", out)[1]
    assert code == 0
    assert f"Next, anywhere: selfcell embed {address} CELLS.h5ad" in out and "Blood" in str(hub.files("lab/blood"))

    code, out, errors = run("pull", "lab/blood", "--out", tmp_path / "mine")
    assert code == 0 and f"Pulled: {address}, 60 genes to 16 dimensions." in out
    assert f"selfcell embed {tmp_path / 'mine'} CELLS.h5ad" in out
    assert f"To use this very one later: {address}" in errors and "came without what tells its cells" in errors
    assert run("pull", "lab/blood", "--out", tmp_path / "mine")[0] == 1

    for number, given in enumerate(("lab/blood", "lab/blood@main", address, tmp_path / "mine")):
        assert run("embed", given, tmp_path / "cells.h5ad", "--out", tmp_path / f"{number}.h5ad")[0] == 0
        record = anndata.read_h5ad(tmp_path / f"{number}.h5ad").uns["selfcell"]["X_selfcell"]
        assert record["model"] == (str(given) if number == 3 else address)

    adata[200:].write_h5ad(tmp_path / "query.h5ad")
    adata[:200].write_h5ad(tmp_path / "cells.h5ad")
    code, out, errors = run(
        "annotate", "lab/blood", tmp_path / "query.h5ad", "--reference", tmp_path / "cells.h5ad", "--label",
        "cell_type", "--out", tmp_path / "annotated.h5ad",
    )  # fmt: skip
    assert code == 0 and "type 1" in out, errors


def test_a_dry_run_shows_all_and_sends_nothing(run, hub, model):
    code, out, _ = run("push", model.path, "lab/blood", "--license", "mit", "--dry-run")
    assert code == 0 and not hub.asked
    assert re.search(r"[\d,]+ bytes  encoder\.safetensors", out) and "split.json" not in out.split("---")[0]
    assert "library_name:" in out and "## Where it should not be used" in out
    code, out, _ = run("push", model.path, "lab/blood", "--license", "mit", "--dry-run", "--with-cells")
    assert code == 0 and "bytes  split.json" in out and "bytes  cells.safetensors" in out


def test_what_a_user_can_mend_is_said(run, hub, model, monkeypatch, tmp_path):
    for arguments, message in (
        (("push", model.path, "lab/blood", "--license", " "), "takes the identifier of a licence"),
        (("push", model.path, "blood", "--license", "mit"), "is no name of a repository on the Hub"),
        (("push", tmp_path / "none", "lab/blood", "--license", "mit"), "There is no run folder"),
        (("push", model.path, "lab/blood", "--license", "mit", "--results", tmp_path), "has no study.json"),
        (("pull", "lab/none"), "Error: The Hub has no repository lab/none"),
        (
            ("embed", "lab/none", "cells.h5ad", "--out", tmp_path / "x.h5ad"),
            "Taken for a model on the Hub: The Hub has",
        ),
    ):
        code, _, errors = run(*arguments)
        assert code == 1 and message in errors and "Traceback" not in errors
    code, _, errors = run("push", model.path, "lab/blood")
    assert code == 2 and "--license" in errors
    monkeypatch.delenv("HF_TOKEN")
    code, _, errors = run("push", model.path, "lab/blood", "--license", "mit")
    assert code == 1 and "No token of the Hub was found" in errors and not hub.repositories
