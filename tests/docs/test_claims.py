"""What pages say of the program is true: messages, the picture, a script that goes on, the paper's plan."""

import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import selfcell
from selfcell.benchmark.opened import Benchmark
from selfcell.benchmark.plan import planned_encoders, planned_studies, read_plan
from selfcell.data.simulate import simulate_cells

pages = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "pages.py")))
ROOT = pages.ROOT


def code_in_one_line() -> str:
    """Give the package's code with texts that go over several lines put together."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", code)


def test_messages_on_the_page_of_data_are_those_of_the_program():
    page = pages.PAGES["data"].read_text(encoding="utf-8")
    section = page.split("## Gene names and counts, message by message")[1].split("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)
    code = code_in_one_line()
    parts = [part.strip(" (),") for message in messages for part in message.split("…") if len(part.strip(" (),")) > 4]
    assert len(messages) > 12
    assert not [part for part in parts if part not in code]


def test_the_picture_shows_the_rooms_that_there_are():
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r'class="name"[^>]*>([^<]+)<', picture)) - {"cells", "run folder", "report.html"}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = set(contracts[0]["layers"])
    assert shown == layers - {"__main__", "cli", "core"}
    assert "prefers-color-scheme: dark" in picture


INTERVAL = re.compile(r"([+-]?0\.\d{3}) \[([+-]?0\.\d{3}), ([+-]?0\.\d{3})\]")
SCORES_OF_PROSE = {
    "macro_f1", "pearson_per_cell", "pearson_per_feature", "total", "all_total", "bio_conservation",
    "explained_variance_weighted", "hidden_mse",
}  # fmt: skip


def test_the_figures_in_the_prose_of_the_results_are_those_of_the_table():
    table = pd.read_csv(ROOT / "docs" / "results" / "real_data.csv")
    table = table[table["metric"].isin(SCORES_OF_PROSE)]
    page = pages.PAGES["results"].read_text(encoding="utf-8")
    prose = page.split("<!-- found: begin -->")[1].split("## Beside the literature")[0]
    scores, differences = ["mean", "low", "high"], ["against_scratch", "against_scratch_low", "against_scratch_high"]
    intervals = {tuple(f"{value:.3f}" for value in row) for row in table[scores].to_numpy()}
    intervals |= {tuple(f"{value:+.3f}" for value in row) for row in table[differences].dropna().to_numpy()}
    verdicts = pd.read_csv(ROOT / "docs" / "results" / "verdicts.csv")[["difference", "low", "high"]]
    intervals |= {tuple(f"{value:+.3f}" for value in row) for row in verdicts.to_numpy()}
    stated = INTERVAL.findall(prose)
    assert len(stated) > 3 and not [interval for interval in stated if interval not in intervals]
    alone = re.findall(r"[+-]?\b0\.\d{3}\b", INTERVAL.sub("", prose))
    known = {interval[0] for interval in intervals} | {interval[0].lstrip("+-") for interval in intervals}
    assert len(alone) > 50 and not [figure for figure in alone if figure not in known]


def test_the_tables_of_the_results_have_what_the_plan_asks_and_nothing_else():
    plan = read_plan(ROOT / "plans" / "real.toml")
    studies = planned_studies(plan, planned_encoders(plan))
    asked = {(study.target, method) for study in studies for method in study.plan.methods}
    table = pd.read_csv(ROOT / "docs" / "results" / "real_data.csv")
    assert set(zip(table["study"], table["method"], strict=True)) == asked


def test_the_tables_of_pages_are_written_from_the_tables_of_results(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "real" / "page.py")))
    names = ("real_data", "confidence", "verdicts")
    table, *others = (pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv") for name in names)
    pages_of = {"README.md": written.write_headline, "docs/results.md": written.write_page}
    for name, write in pages_of.items():
        page = shutil.copy(ROOT / name, tmp_path)
        write(Path(page), table, *(others if write is written.write_page else []))
        assert Path(page).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")


def test_the_prose_of_the_results_is_written_from_the_tables_of_results(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    prose = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "real" / "prose.py")))
    table, verdicts = (pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv") for name in ("real_data", "verdicts"))
    page = Path(shutil.copy(ROOT / "docs" / "results.md", tmp_path))
    prose.write_prose(page, table, verdicts)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_what_was_found_is_written_from_the_tables_of_results(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "real" / "found.py")))
    table, verdicts = (pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv") for name in ("real_data", "verdicts"))
    for name in ("README.md", "docs/does-it-help.md", "docs/results.md"):
        page = Path(shutil.copy(ROOT / name, tmp_path))
        found.write_found(page, table, verdicts)
        assert page.read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")
        assert "comparisons of cell types" in page.read_text(encoding="utf-8")


def test_how_often_a_regression_on_the_embedding_is_better_is_counted_from_the_table():
    table = pd.read_csv(ROOT / "docs" / "results" / "real_data.csv")
    mean = table[table["metric"] == "macro_f1"].pivot_table(index=["study", "budget"], columns="method", values="mean")
    mean = mean.dropna(subset=["probe", "zero_shot", "fine_tuned"])
    over_votes, over_tuned = ((mean["probe"] > mean[other]).sum() for other in ("zero_shot", "fine_tuned"))
    page = pages.PAGES["annotate"].read_text(encoding="utf-8")
    assert f"types better than votes in {over_votes} of {len(mean)} cases" in page
    assert f"better than a fine-tuned network in {over_tuned}," in page


def test_our_figures_beside_the_paper_s_are_those_of_the_table():
    table = pd.read_csv(ROOT / "docs" / "results" / "real_data.csv")
    known = {f"{value:.3f}" for value in table["mean"]}
    page = pages.PAGES["reproduce"].read_text(encoding="utf-8").split("## The headline numbers")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")][2:]
    ours = [figure for row in rows for figure in re.findall(r"0\.\d{3}", " ".join(row[4:]))]
    assert len(ours) > 8 and not [figure for figure in ours if figure not in known]


PAPER_FILES = (
    "hlca", "pbmc", "tabula_sapiens", "sctab_sample", "hippocampus", "circulating_immune", "cortical_development",
    "great_apes", "non_neuronal_brain", "lung", "neurips_cite", "neurips_multiome",
)  # fmt: skip


@pytest.mark.slow
def test_the_paper_s_plan_is_one_and_has_as_many_trainings_as_its_page_says(tmp_path):
    shutil.copy(ROOT / "plans" / "paper.toml", tmp_path)
    adata = simulate_cells(n_cells=120, n_genes=60, n_types=3, n_donors=20, n_proteins=3, n_peaks=9, seed=0)
    adata.obs["donor_id"] = adata.obs["DonorID"] = adata.obs.pop("donor")
    adata.obs["dataset_id"] = adata.obs["batch"].astype(str)
    adata.obs["batch"] = np.where(np.arange(120) % 4, "s1d1", "s2d1")
    for name in PAPER_FILES:
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    selfcell.build_atlas([tmp_path / "lung.h5ad"], tmp_path / "sctab")
    benchmark = Benchmark.open(tmp_path / "paper.toml", tmp_path / "out")
    benchmark.check_cells()
    trainings = Counter(one.encoder.corpus for one in benchmark.pretrainings())
    assert trainings["sctab"] == 35 and sum(trainings.values()) == 65
    assert "The plan has 65 pre-trainings" in pages.PAGES["reproduce"].read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:types|size|expression)_\w+|proteins|chromatin|integration)`",
                           pages.PAGES["reproduce"].read_text(encoding="utf-8")))  # fmt: skip
    assert named <= set(benchmark.plan.targets)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_the_script_for_slurm_stops_before_the_time_is_up_and_goes_on(tmp_path):
    scripts = [block.code for block in pages.blocks_of(pages.PAGES["clusters"]) if block.language == "bash"]
    script = tmp_path / "pretrain.sbatch"
    activate = "source ~/selfcell/.venv/bin/activate\n"
    assert all(activate in script for script in scripts)
    script.write_text(scripts[0].replace("pretrain atlas ", "pretrain cells.h5ad ").replace(activate, ""))
    simulate_cells(n_cells=3000, n_genes=60, seed=0).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "large.toml").write_text(
        '[data]\ndonor_key = "donor"\n[training]\nmax_epochs = 100000\npatience = 0\ncheckpoint_minutes = 0.001\n'
    )
    requeue = tmp_path / "bin" / "scontrol"
    requeue.parent.mkdir()
    requeue.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/requeued\n')
    requeue.chmod(requeue.stat().st_mode | stat.S_IXUSR)
    path = f"{requeue.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    slurm = {"JOB_ID": "7", "JOB_NAME": "pretrain", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    environment = os.environ | {"PATH": path} | {f"SLURM_{name}": value for name, value in slurm.items()}
    checkpoint = tmp_path / "runs" / "large" / "checkpoints" / "last.safetensors"
    reached = []
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        job = subprocess.Popen(["bash", str(script)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        stop = time.monotonic() + 240
        while time.monotonic() < stop and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.1)
        job.send_signal(10)  # SIGUSR1, as --signal=B:USR1@300 has it
        said = job.communicate(timeout=240)[1]
        assert job.returncode == 0, said
        reached.append(said)
    assert (tmp_path / "requeued").read_text().splitlines() == ["requeue 7", "requeue 7"]
    assert "Going on in epoch" in reached[1] and "Going on" not in reached[0]
    assert not list(tmp_path.glob("hpc_ckpt*"))


def test_what_the_demo_prints_is_the_same_on_every_page():
    shown = next(block.code for block in pages.blocks_of(pages.PAGES["does-it-help"]) if block.language == "text")
    readme = pages.PAGES["README"].read_text(encoding="utf-8")
    assert len(shown.splitlines()) > 5 and all(line in readme for line in shown.splitlines())
