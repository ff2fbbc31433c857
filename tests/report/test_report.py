import base64
import dataclasses
import html.parser
import io
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from selfcell.benchmark.results import UNFINISHED, StudyResults, read_results
from selfcell.benchmark.statistics import ScoreStack
from selfcell.core.errors import InputError
from selfcell.downstream.confidence import UNSEEN_COLUMNS
from selfcell.downstream.metrics import macro_f1
from selfcell.downstream.resampling import draw_units
from selfcell.reporting.html import write_report
from selfcell.reporting.terminal import print_results


def examined(rng):
    """What is said of test cells, and of types left out."""
    confidence = rng.uniform(0.4, 1, size=200)
    cells = {
        "donor": "d0",
        "truth": "B",
        "predicted": np.where(rng.random(200) < confidence, "B", "NK"),
        "confidence": confidence,
        "uncalibrated": np.sqrt(confidence),
        "n_in_set": 1,
        "truth_in_set": True,
        "is_unknown": rng.random(200) < 0.05,
    }
    unseen = dict.fromkeys(UNSEEN_COLUMNS, 0.75) | {"class": ["B", "T <cell>"], "n_cells": [40, 1_200]}
    methods = [pd.DataFrame({"method": method, **cells}) for method in ("zero_shot", "fine_tuned")]
    return {"confidence": pd.concat(methods), "unseen_types": pd.DataFrame(unseen)}


@pytest.fixture
def folder(tmp_path):
    """Results with a known answer: fine-tuning is far better than training from scratch, PCA ties."""
    rng = np.random.default_rng(0)
    donors = np.repeat([f"d{n}" for n in range(8)], 50)
    truth = rng.choice(["B", "T <cell>", "NK"], size=len(donors), p=[0.5, 0.45, 0.05])
    classes, draws = np.array(["B", "NK", "T <cell>"]), draw_units(8, n_draws=500)
    tables, scores, resamples = [], [], []
    shares = {"zero_shot": 0.7, "fine_tuned": 0.95, "from_scratch": 0.5, "pca_knn": 0.7}
    for budget in ("2 donors", "all donors"):
        for method, share in shares.items():
            for seed in range(3):
                predicted = np.where(
                    rng.random(len(truth)) < share, truth, rng.choice(["B", "T <cell>", "NK"], len(truth))
                )
                table = pd.DataFrame({"donor": donors, "truth": truth, "predicted": predicted}).value_counts()
                names = {
                    "method": method,
                    "budget": budget,
                    "pretrain_seed": seed,
                    "finetune_seed": seed,
                    "trial_id": f"{method}{budget}{seed}",
                }
                tables.append(table.rename("n_cells").reset_index().assign(**names))
                of_donors = np.zeros((8, 3, 3))
                np.add.at(of_donors, (np.repeat(np.arange(8), 50), *np.searchsorted(classes, [truth, predicted])), 1)
                scores.append(
                    {**names, "metric": "macro_f1", "value": float(macro_f1(of_donors.sum(axis=0))), "n_units": 8}
                )
                drawn = macro_f1(np.tensordot(draws, of_donors, axes=1))
                resamples.append({"trial_id": names["trial_id"], "metric": "macro_f1", **dict(enumerate(drawn))})
    part = {"n_cells": 100, "n_donors": 4}
    about = {
        "task": "cell_type", "headline_metric": "macro_f1",
        "dataset": "made-up cells", "n_cells": 300, "n_genes": 60, "label_key": "cell_type", "donor_key": "donor",
        "split": {"train": part, "validation": part, "test": part}, "n_seeds": 3, "pretrain_seeds": [0, 1, 2],
        "settings": {"config.toml": "[training]\nseed = 0"}, "versions": {"torch": "2"}, "machine": {"threads": 2},
        "seconds": {"all": 12.0}, "note": "A note with <angle> brackets.",
    }  # fmt: skip
    cell_map = pd.DataFrame(
        {"space": "embedding", "x": rng.random(30), "y": rng.random(30), "label": "B", "batch": "b1"}
    )
    curves = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5], "pretrain_seed": 0}
    )
    tables = pd.DataFrame(scores), pd.DataFrame(resamples), pd.concat(tables), curves, cell_map
    StudyResults(*tables, examined(rng), about).write(tmp_path / "judged")
    return tmp_path / "judged"


class Checker(html.parser.HTMLParser):
    """Collects text and outside references, and checks that elements nest."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.text, self.references = [], [], []

    def handle_starttag(self, tag, attributes):
        self.references += [
            v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.references += [
            v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(path):
    checker = Checker()
    checker.feed(path.read_text())
    assert checker.open == []
    return checker, " ".join(" ".join(checker.text).split())


def test_the_page_gives_the_verdict_in_plain_words(folder):
    _, text = checked(write_report(folder))
    assert "Does self-supervision help on made-up cells?" in text
    assert "self-supervised pre-training helps with 2 donors and all donors labelled." in text
    assert "Zero-shot against PCA + neighbors: no clear difference with 2 donors labelled" in text
    assert "A note with <angle> brackets." in text


def test_one_pre_training_is_not_taken_for_pre_training_as_such(folder):
    file = folder / "study.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "pretrain_seeds": [0, 0, 0]}))
    _, text = checked(write_report(folder))
    assert "this one pre-training helps with 2 donors and all donors labelled." in text


def test_the_page_is_whole_and_needs_nothing_from_outside(folder):
    checker, text = checked(write_report(folder))
    assert checker.references == []
    for heading in (
        "Scores",
        "Questions and answers",
        "The cells in two dimensions",
        "Each cell type",
        "How far confidence can be trusted",
        "Are types noticed that the reference lacks?",
        "Learning curves",
    ):
        assert heading in text
    assert "T <cell>" in text and "NK *" in text and "T <cell> 1,200 0.750" in text


def test_every_figure_says_what_it_shows_and_scales(folder):
    page = write_report(folder).read_text()
    figures = re.findall(r"<svg[^>]*>", page)
    assert len(figures) >= 7
    assert all('role="img"' in figure and "aria-label=" in figure and "viewBox" in figure for figure in figures)
    assert 'name="viewport"' in page


def test_tables_are_those_of_a_benchmarks_page_and_ids_are_given_once(folder):
    text = write_report(folder).read_text().split("<script>")[0]
    ids = re.findall(r'<[^<>]*?\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r"""(?:url\(#|for=")([^)"]+)""", text)) <= set(ids)
    assert text.count('<table class="sortable"') == text.count('type="search"') == 5
    assert all("scope=" in header for header in re.findall(r"<th\b[^>]*>", text))
    content = re.findall(r'href="data:text/csv;base64,([\w+/=]+)" download="types.csv"', text)[0]
    table = pd.read_csv(io.BytesIO(base64.b64decode(content)))
    assert list(table)[:3] == ["Type", "test cells", "fine-tuned"] and set(table["Type"]) == {"B", "T <cell>", "NK *"}
    shown = re.findall(r'data-value="([^"]*)">([^<]*)</td>', text)
    assert ("1200", "1,200") in shown and all(float(value) == float(said.split()[0]) for value, said in shown[:8])


def test_each_comparison_says_what_could_have_been_seen(folder):
    text = write_report(folder).read_text()
    section = text.split("<h2>Questions and answers</h2>")[1].split("<h2>")[0]
    results = read_results(folder)
    found = ScoreStack(results.scores, results.resamples, "macro_f1").compare("zero_shot", "pca_knn", "2 donors")
    assert (
        found.verdict == "no evidence" and f'data-value="{found.detectable:.8g}">{found.detectable:.3g}</td>' in section
    )
    assert ">visible from</button>" in section and "Visible from: the difference of which" in section


def test_the_table_of_scores_is_sorted_and_filtered_in_a_browser(folder, browser):
    browser.get(write_report(folder).as_uri())
    table = browser.find_element("css selector", "table.sortable")
    table.find_elements("css selector", "th button")[1].click()
    rows = [row.text for row in table.find_elements("css selector", "tbody tr")]
    assert rows[0].startswith("from scratch") and rows[-1].startswith("fine-tuned")
    browser.find_element("css selector", "input[type=search]").send_keys("PCA")
    assert [row.is_displayed() for row in table.find_elements("css selector", "tbody tr")].count(True) == 1
    assert browser.find_element("css selector", "output").text == "1 of 4 rows"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_same_results_give_the_same_page(folder, tmp_path):
    first, again = (write_report(folder, out=tmp_path / name).read_text() for name in ("a.html", "b.html"))
    assert first == again


def test_the_terminal_shows_the_table_and_the_verdict(folder, capsys):
    print_results(folder)
    shown = " ".join(capsys.readouterr().out.split())
    assert "fine-tuned" in shown and "helps with 2 donors" in shown and "mean [95 %]" in shown


def test_a_run_folder_has_a_page_too(model, tmp_path):
    _, text = checked(write_report(model.path, out=tmp_path / "run.html"))
    assert "The run is finished." in text and "Learning curves" in text and "config.toml" in text


def test_an_incomplete_or_foreign_folder_is_refused(folder, tmp_path):
    (tmp_path / "begun" / UNFINISHED).mkdir(parents=True)
    with pytest.raises(InputError, match="an evaluation that is not finished: give its command again"):
        write_report(tmp_path / "begun")
    (folder / "curves.csv").unlink()
    with pytest.raises(InputError, match=r"is incomplete: curves\.csv is missing"):
        write_report(folder)
    with pytest.raises(InputError, match="There is no folder"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize("name", ["scores.csv", "resamples.csv.gz", "study.json"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_damaged_folder_is_refused_with_words(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is damaged"):
        write_report(folder)


def test_what_study_json_and_the_scores_lack_is_named(folder):
    about = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({name: about[name] for name in about if name != "versions"}))
    with pytest.raises(InputError, match="it lacks versions"):
        write_report(folder)
    (folder / "study.json").write_text("[]")
    with pytest.raises(InputError, match="is no table of facts"):
        write_report(folder)
    (folder / "study.json").write_text(json.dumps(about))
    scores = pd.read_csv(folder / "scores.csv")
    scores.assign(value="abc").to_csv(folder / "scores.csv", index=False)
    with pytest.raises(InputError, match=r"scores\.csv lacks numbers in its column value"):
        write_report(folder)
    scores.drop(columns="value").to_csv(folder / "scores.csv", index=False)
    with pytest.raises(InputError, match=r"scores\.csv lacks value"):
        write_report(folder)


def test_a_file_or_a_folder_of_folders_leads_to_the_right_one(folder):
    with pytest.raises(InputError, match=r"is a file\. Give the folder that it is in"):
        write_report(folder / "scores.csv")
    with pytest.raises(InputError, match=rf"is neither results nor a run, but has such in it\. Name one: {folder}"):
        write_report(folder.parent)


def test_results_survive_a_round_trip(folder):
    results = read_results(folder)
    results.write(folder.parent / "again")
    again = read_results(folder.parent / "again")
    pd.testing.assert_frame_equal(again.confusion, results.confusion)
    assert again.about == results.about


def test_a_report_needs_no_torch(folder):
    program = (
        f"import sys; from selfcell.reporting.html import write_report; write_report({str(folder)!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_single_seed_gives_no_verdict(folder):
    results = read_results(folder)
    of_seed = {
        name: table[table["finetune_seed"] == 0]
        for name, table in (("scores", results.scores), ("confusion", results.confusion))
    }
    results.about["n_seeds"] = 1
    dataclasses.replace(results, **of_seed).write(folder)
    _, text = checked(write_report(folder))
    assert "cannot be told: no verdict from a single seed." in text and "No evidence that" not in text


def test_the_facts_of_a_run_are_plain(model, tmp_path):
    _, text = checked(write_report(model.path, out=tmp_path / "run.html"))
    facts = text.split("What was done")[1].split("Learning curves")[0]
    assert "{" not in facts and "None" not in facts and "Cells 300" in facts


def test_no_file_but_a_page_is_overwritten(folder, tmp_path):
    cells = tmp_path / "cells.h5ad"
    cells.write_bytes(b"counts")
    with pytest.raises(InputError, match=r"cells\.h5ad is no name of a page, which ends in \.html"):
        write_report(folder, out=cells)
    assert cells.read_bytes() == b"counts"
    assert write_report(folder, out=tmp_path / "page.HTM").exists()
