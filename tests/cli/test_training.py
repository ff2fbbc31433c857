"""Pre-training for a time, from the command line."""

import re

from selfcell.training.run_folder import read_manifest

SMALL = ["--set", "network.hidden_sizes=[16]", "--set", "network.n_latent=8", "--set", "training.device=cpu"]


def test_a_run_stops_when_its_budget_is_spent_and_goes_on_with_more(run, file, tmp_path):
    command = ["pretrain", file, "--out", tmp_path / "run", "--donor", "donor", *SMALL]
    command += ["--set", "training.patience=0"]
    code, output, errors = run(*command, "--budget", "1s", "--set", "training.max_epochs=100000")
    assert code == 0 and "The budget of 1s is spent: " in errors and "--resume go on." in errors
    first = read_manifest(tmp_path / "run")["fit"]
    assert first["stopped_by"] == "budget"
    assert re.match(
        r"Done: [\d.,]+ epochs?, stopped by training.budget; validation loss [\d.]+ at epoch [\d.]+\. The run is in ",
        output,
    )
    n_epochs = int(first["epochs"]) + 2
    code, output, errors = run(*command, "--budget", "1h", "--resume", "--set", f"training.max_epochs={n_epochs}")
    assert code == 0 and "Going on in epoch " in errors and output.startswith(f"Done: {n_epochs:,} epochs, ")
    assert read_manifest(tmp_path / "run")["fit"]["steps"] > first["steps"]


def test_a_budget_that_is_no_time_is_refused(run, file, tmp_path):
    code, _, errors = run("pretrain", file, "--out", tmp_path / "run", "--budget", "soon")
    assert code == 1 and "training.budget is 'soon', but takes a time with its unit, such as 90s" in errors
    assert not (tmp_path / "run").exists()
