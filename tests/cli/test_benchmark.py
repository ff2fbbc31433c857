"""A benchmark as a user types it: a plan for their own cells, what it takes, what it says."""

import pandas as pd


def test_from_a_plan_to_verdicts(run, file, tmp_path):
    plan, out = tmp_path / "plan.toml", tmp_path / "bench"
    code, said, _ = run("benchmark", "init", file, "--label", "cell_type", "--donor", "donor", "--out", plan)
    assert code == 0 and f"selfcell benchmark {plan} --out DIR --dry-run" in said
    assert run("benchmark", "init", file, "--label", "cell_type", "--out", plan)[0] == 1
    text = plan.read_text().replace("[0, 1, 2]", "[0, 1]").replace("max_epochs = 40", "max_epochs = 1")
    text = text.replace("  {},", "  { max_epochs = 1 },").replace('baselines = ["usual"]', 'baselines = ["pca_knn"]')
    plan.write_text(text.replace('[encoders.contrastive]\nsettings = { pretext = { name = "byol" } }\n', ""))

    code, said, _ = run("benchmark", plan, "--out", out, "--dry-run", "--jobs", "2")
    assert code == 0 and "pre-train masked on mine" in said and "with 2 processes" in said and not out.exists()

    assert "2 pre-trainings and " in said and "0 of them done; one by one: --list-trials." in said
    code, said, _ = run("benchmark", plan, "--out", out, "--dry-run", "--list-trials")
    assert code == 0 and "types: fine_tuned (masked on mine), all donors, pre-training seed 1, seed 0: " in said

    code, said, _ = run("benchmark", plan, "--out", out, "--jobs", "1", "--csv")
    assert code == 0 and "visible from" in said and "fine-tuned minus from scratch: Macro F1" in said
    assert f"trials are in {out / 'scores.parquet'}" in said
    verdicts = pd.read_parquet(out / "verdicts.parquet")
    assert {"fine_tuned", "zero_shot"} <= set(verdicts["method"]) and (out / "verdicts.csv").exists()
    assert set(verdicts.loc[verdicts["method"] == "fine_tuned", "n_pairs"]) == {4}
    # Where no labelled cells are drawn, a frozen encoder is asked once, whatever the seed of fine-tuning.
    with_pca = verdicts[verdicts["against"] == "pca_knn"]
    assert set(with_pca["n_pairs"].where(with_pca["budget"] == "all donors", 2)) == {2} and len(with_pca) == 2

    assert f"The report is {out / 'report.html'}" in said
    page = (out / "report.html").read_text()
    assert run("report", out)[0] == 0 and (out / "report.html").read_text() == page
    study = out / "studies" / "types" / "masked_on_mine"
    assert run("report", study)[0] == 0 and (study / "report.html").exists()
    code, said, _ = run("benchmark", "merge", out, "--out", tmp_path / "other")
    n_trials = len(list((out / "trials").iterdir()))
    assert code == 0 and f"{n_trials} trials taken over. For the tables: selfcell benchmark PLAN.toml" in said
    (out / "benchmark.json").unlink()
    code, _, errors = run("report", out)
    assert code == 1 and "is of a benchmark that is not finished" in errors and str(study) in errors


def test_the_help_of_benchmark_says_where_its_options_are_told(run):
    _, said, _ = run("benchmark", "--help")
    assert "--dry-run" in said and "benchmark run --help" in " ".join(said.replace("│", " ").split())


def test_what_a_plan_lacks_is_said_without_a_traceback(run, tmp_path):
    code, _, errors = run("benchmark", tmp_path / "none.toml", "--out", tmp_path / "out")
    assert code == 1 and "There is no settings file" in errors
    (tmp_path / "plan.toml").write_text('name = "x"\n[sedes]\n')
    code, _, errors = run("benchmark", "run", tmp_path / "plan.toml", "--out", tmp_path / "out")
    assert code == 1 and "Unknown section 'sedes'. Did you mean 'seeds'?" in errors and "Traceback" not in errors
    code, _, errors = run("benchmark", tmp_path / "plan.toml", "--out", tmp_path / "out", "--list-trials")
    assert code == 1 and "--list-trials goes with --dry-run" in errors
    assert not (tmp_path / "out").exists()
