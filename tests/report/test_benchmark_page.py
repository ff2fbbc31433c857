"""The page of a benchmark: what it says, and that it works in a browser, by clicks and keys, in light and dark."""

import base64
import hashlib
import html
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from selfcell.benchmark.summaries import between, classes, estimates
from selfcell.benchmark.verdicts import verdicts
from selfcell.core.errors import InputError
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.reporting.benchmark_overall import ranked
from selfcell.reporting.html import write_report
from selfcell.training.settings import PretrainSettings

TYPES = "<script>alert(1)</script>"
PLAN = {
    "name": "made", "seeds": {"pretraining": [0, 1, 2], "finetuning": [0, 1, 2]},
    "cells": {"blood": {"source": "blood.h5ad"}, "other": {"source": ["a.h5ad", "b.h5ad"]}},
    "corpora": {"blood": {"cells": "blood"}, "other": {"cells": "other"}},
    "targets": {
        "types": {
            "title": f"Types {TYPES}", "cells": "blood", "query": None,
            "budgets": [{"donors": 2, "max_epochs": 40}, {}],
        },
        "unseen": {"title": None, "cells": "blood", "query": "other", "budgets": [{"donors": 2}, {}]},
    },
}  # fmt: skip
SIZES = {"blood": 5_000, "other": 50_000}
CELLS = {(corpus, encoder): size for corpus, size in SIZES.items() for encoder in ("masked", "byol")}
SHIFT = {"zero_shot": -0.05, "probe": 0.0, "fine_tuned": 0.08, "from_scratch": 0.0, "pca_knn": -0.1}


def made_scores(rng):
    rows, draws = [], []
    asked = [("types", corpus, encoder) for corpus in ("blood", "other") for encoder in ("masked", "byol")]
    for target, corpus, encoder in [*asked, ("unseen", "blood", "masked")]:
        for budget, n_labelled in (("2 donors", 100), ("all donors", 900)):
            for method, shift in SHIFT.items():
                for first in range(3):
                    for second in range(3):
                        value = 0.7 + shift * (n_labelled < 500) + (encoder == "byol") * 0.02 + rng.normal() * 0.004
                        one = f"t{len(rows)}"
                        which = {"target": target, "corpus": corpus, "encoder": encoder, "trial_id": one}
                        rows.append({
                            **which, "method": method, "budget": budget, "metric": "macro_f1", "value": value,
                            "pretrain_seed": first, "finetune_seed": second, "n_labelled_cells": n_labelled,
                            "n_labelled_donors": None if target == "unseen" else 6, "n_cells": 500, "n_units": 8,
                            "seconds": 2.0, "peak_memory_mb": 700.0, "error": None,
                        })  # fmt: skip
                        rows.append({**rows[-1], "metric": "macro_f1_frequent", "value": value + 0.1})
                        sample = value + rng.normal(size=200) * 0.004
                        draws.append({**which, "metric": "macro_f1", **dict(enumerate(sample))})
                        draws.append({**which, "metric": "macro_f1_frequent", **dict(enumerate(sample + 0.1))})
    failed = {**rows[0], "method": "scvi", "value": np.nan, "error": "MemoryError: no <room>", "trial_id": "t-1"}
    return pd.DataFrame([*rows, failed]), pd.DataFrame(draws)


def settings_of(encoder, epochs):
    pretext = {"name": "byol"} if encoder == "byol" else {"mask_fraction": 0.4}
    chosen = {"pretext": pretext, "training": {"max_epochs": epochs, "patience": 0}, "data": {"donor_key": "donor"}}
    return PretrainSettings.model_validate(chosen).model_dump(mode="json")


def made_confusion(scores):
    """Of 40 cells of a usual type and 12 of a rare one, which is missed half of the time."""
    which = ["target", "corpus", "encoder", "method", "budget", "trial_id"]
    trials = scores.loc[scores["value"].notna() & (scores["metric"] == "macro_f1"), which]
    parts = [
        trials.assign(donor="d", truth=truth, predicted=predicted, n_cells=n_cells)
        for truth, predicted, n_cells in ((TYPES, TYPES, 40), ("rare & few", "rare & few", 6), ("rare & few", TYPES, 6))
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "made"
    path.mkdir()
    scores, resamples = made_scores(np.random.default_rng(0))
    of_all = scores, resamples, {"types": "macro_f1", "unseen": "macro_f1"}
    pairs = pd.concat([between("encoder", *of_all), between("corpus", *of_all, sizes=CELLS)], ignore_index=True)
    tables = {"scores": scores, "verdicts": verdicts(*of_all), "estimates": estimates(*of_all), "pairs": pairs}
    tables["classes"] = classes(made_confusion(scores))
    for name, table in tables.items():
        table.to_parquet(path / f"{name}.parquet", index=False)
    runs = [
        {"corpus": corpus, "encoder": encoder, "seed": seed, "n_train": n_train, "seconds": 30.0}
        for corpus, n_train in SIZES.items()
        for encoder in ("masked", "byol")
        for seed in range(3)
    ]
    about = {
        "seen": [
            {"target": target, "corpus": corpus, "encoder": encoder, "relation": relation, "note": None}
            for target, corpus, relation in (
                ("types", "blood", "own"), ("types", "other", "transfer"), ("unseen", "blood", "query")
            )
            for encoder in ("masked", "byol")
        ],
        "settings": {
            "encoders": [
                {"corpus": corpus, "encoder": encoder, "settings": settings_of(encoder, epochs)}
                for corpus, epochs in (("blood", 20), ("other", 40))
                for encoder in ("masked", "byol")
            ],
            "targets": dict.fromkeys(
                PLAN["targets"], DOWNSTREAM_TASKS["cell_type"].Settings().model_dump(mode="json")
            ),
        },
        "format_version": 2, "title": "Blood & <others>", "plan": PLAN, "pretrainings": runs,
        "versions": {"selfcell": "1", "torch": "2"}, "machine": {"threads": 2, "gpu": None}, "command": "selfcell x",
    }  # fmt: skip
    (path / "benchmark.json").write_text(json.dumps(about))
    (path / "plan.toml").write_text('name = "made"')
    return path


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder)


def rows_of(text, question):
    """Give the last column of the last table of a section, by the columns before."""
    section = re.split(rf">{question}[^<]*</h2>", text)[1].split("</section>")[0]
    rows = re.findall(r"<tr>\s*(<td.*?)</tr>", section[section.rindex("<tbody>") :], flags=re.DOTALL)
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in rows]
    cells = [[html.unescape(cell).strip() for cell in row] for row in found]
    return {tuple(cell.replace(f"Types {TYPES}", "types") for cell in row[:-1]): row[-1] for row in cells}


def test_the_verdict_comes_first_and_every_question_has_its_answer(page):
    text = page.read_text()
    verdict = "From pre-trained weights instead of random ones, a network is better at 5 of 10 comparisons (2 targets)"
    assert text.index(verdict) < text.index("<nav") < text.index("<main")
    for question in ("Masked or contrastive", "How many cells to pre-train on", "How many labels", "What does it cost"):
        assert question in text
    assert "Pre-trained on other cells alone, none of the target&#39;s: helps at 2, no evidence at 2 of 4." in text
    assert "none of whose cells pre-training was given: helps at 1, no evidence at 1 of 2." in text
    assert "From how many" not in text and "Enough: from how many labelled cells on pre-training is worth less" in text
    assert rows_of(text, "How many labels")["types", "masked on blood"] == "from 900 labelled cells on"
    enough = rows_of(text, "How many cells to pre-train on")
    assert enough["types", "byol", "fine-tuned", "all donors"] == "from 5,000 of 50,000 cells on"
    assert enough["types", "byol", "fine-tuned", "2 donors"] == "not settled"
    assert "Corpora of different cells differ in more than their size" in text
    assert "fine-tuned: no ranks of encoders, which take 6 targets at which the same ones were run" in text
    assert "Macro F1: no ranks of methods" in text and "there are 2 targets." in text
    assert "Of the verdicts 5 stand where p is corrected for so many comparisons" in text and "in Macro F1." in text
    assert "peak_memory_mb: the most memory, in MB, of the process while the trial ran, the cells included" in text
    assert "At types: Intervals take in the spread over seeds and over test donors" in text
    assert "At unseen: Intervals take in the spread over seeds and over 50 random blocks" in text


def test_nothing_follows_for_more_cells_where_corpora_are_not_against_the_largest(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    scores, resamples = made_scores(np.random.default_rng(0))
    of_all = scores, resamples, {"types": "macro_f1", "unseen": "macro_f1"}
    between("corpus", *of_all).to_parquet(copy / "pairs.parquet", index=False)
    text = write_report(copy).read_text()
    told = set(rows_of(text, "How many cells to pre-train on").values())
    assert told == {"nothing follows: blood is not the largest corpus"}


def test_methods_and_encoders_are_ranked_over_targets_each_counting_once():
    rng = np.random.default_rng(0)
    rows = [
        {"target": f"t{target}", "corpus": "c", "encoder": encoder, "method": method, "budget": budget,
         "metric": "macro_f1", "mean": 0.5 + shift + 0.1 * (encoder == "byol") + 0.01 * rng.random()}
        for target in range(7)
        for budget in ("few", "all")[: 1 + target % 2]
        for encoder in ("masked", "byol")
        for method, shift in (("probe", 0.3), ("pca_knn", 0.0), ("scvi", 0.2))
        if method != "scvi" or target
    ]  # fmt: skip
    sentence, (drawing,) = ranked(pd.DataFrame(rows), "method", "Macro F1")
    # Of the three methods, one was not run at one of the seven targets.
    assert sentence.startswith("Macro F1: probe ranks first on average over 6 targets; mean ranks must differ by 1.35")
    p_value = scipy.stats.friedmanchisquare(*([place] * 6 for place in (3, 2, 1))).pvalue
    assert f"has a probability of {p_value:.2g} (p of Friedman's test of all 3 at once)." in sentence
    assert list(drawing.table["method"]) == ["probe", "scVI", "PCA + neighbors"]
    assert list(drawing.table["mean rank"]) == [1, 2, 3]
    of_encoders = ranked(pd.DataFrame(rows), "encoder", "probe")[0]
    assert of_encoders.startswith("probe: byol ranks first on average over 7") and "Friedman" not in of_encoders
    sentence, drawn = ranked(pd.DataFrame(rows[:12]), "method", "Macro F1")
    assert "no ranks of methods" in sentence and drawn == []


def test_what_targets_have_in_common_is_ranked_though_none_was_asked_of_that_alone():
    rows = [
        {"target": f"t{target}", "corpus": "c", "encoder": "masked", "method": method, "budget": "all",
         "metric": "macro_f1", "mean": 0.5 + shift}
        for target in range(6)
        for method, shift in (("probe", 0.3), ("pca_knn", 0.0), ("scvi" if target % 2 else "boosted_trees", 0.2))
    ]  # fmt: skip
    sentence, (drawing,) = ranked(pd.DataFrame(rows), "method", "Macro F1")
    assert sentence.startswith("Macro F1: probe ranks first on average over 6 targets")
    assert list(drawing.table["method"]) == ["probe", "PCA + neighbors"]


def rewritten(folder, to, *, drop=(), plan=None):
    """Copy a benchmark without the rows of some methods, with another plan."""
    copy = shutil.copytree(folder, to)
    for name in ("verdicts", "estimates", "pairs", "classes"):
        table = pd.read_parquet(copy / f"{name}.parquet")
        table[~table["method"].isin(drop)].to_parquet(copy / f"{name}.parquet", index=False)
    about = json.loads((copy / "benchmark.json").read_text())
    (copy / "benchmark.json").write_text(json.dumps({**about, "plan": plan or about["plan"]}))
    return copy


def test_nothing_is_said_of_trials_that_all_failed(folder, tmp_path):
    text = write_report(rewritten(folder, tmp_path / "copy", drop=[*SHIFT])).read_text()
    assert "All were judged at" not in text and "What does it cost?" not in text and "no &lt;room&gt;" in text


def test_two_seeds_and_cells_that_are_drawn_are_told(folder, tmp_path):
    targets = {name: {**one, "n_cells": 300} for name, one in PLAN["targets"].items()}
    plan = {**PLAN, "seeds": {"pretraining": [0, 1, 2], "finetuning": [0, 1]}, "targets": targets}
    text = write_report(rewritten(folder, tmp_path / "copy", plan=plan)).read_text()
    assert "Only 2 seeds of fine-tuning: no verdict where it varies a result" in text
    assert "300 cells of blood and all of other" in text and "types: 300 cells of blood, judged on" in text


def test_types_of_few_test_cells_are_marked_and_macro_figures_are_given_without_them(folder, page):
    text = page.read_text()
    assert "unseen: 1 of 2 types have fewer than 30 test cells: rare &amp; few." in text
    section = text[text.index(">Which types have few test cells?</h2>") :]
    row = section[section.index("rare &amp; few</td>") :].split("</tr>")[0]
    assert ">12</td>" in row and ">fewer than 30</td>" in row and ">0.667</td>" in row
    assert ">Macro F1 without types of few test cells</td>" in text and ">without rare types</button>" in text
    verdict = pd.read_parquet(folder / "verdicts.parquet").query("question.str.contains('pre-training help')").iloc[0]
    shown = f"{verdict['frequent_difference']:+.3f} [{verdict['frequent_low']:+.3f}, {verdict['frequent_high']:+.3f}]"
    assert verdict["frequent_difference"] == pytest.approx(verdict["difference"]) and shown in text


def test_all_scores_have_their_spread_over_seeds_where_it_was_kept(folder, page, tmp_path):
    of_all = page.read_text().split(">All scores</h2>")[1]
    spread = pd.read_parquet(folder / "estimates.parquet")["sd"].iloc[0]
    assert ">sd over seeds</button>" in of_all and f">{spread:.3g}</td>" in of_all
    copy = shutil.copytree(folder, tmp_path / "copy")
    pd.read_parquet(copy / "estimates.parquet").drop(columns="sd").to_parquet(copy / "estimates.parquet")
    assert f">{spread:.3g}</td>" not in write_report(copy).read_text().split(">All scores</h2>")[1]


def test_the_methods_paragraphs_say_network_epochs_masks_budgets_splits_and_scores(page):
    text = page.read_text()
    how = text[text.index('id="t-how"') :]
    for told in (
        "on blood (5,000 training cells of blood); other (50,000 training cells of other), each with 3 seeds (12 runs",
        "Network: 512 hidden units and 64 dimensions (selu, dropout 0.1).",
        "masked: masked autoencoder (",
        "mask random, mask fraction 0.4,",
        "byol: byol (views thin counts (probability 1, keep fraction 0.5 and 1) and mask genes (probability 1, ",
        "Cells: 10% to watch the loss, split by donor.",
        "Training: blood: 20 epochs",
        "; other: 40 epochs",
        "Score: Macro F1.",
        "types: blood, judged on what pre-training set aside, else on 30% of it; unseen: all of blood and all of other",
        "Labelled: types: 2 donors (40 epochs) or all; unseen: 2 donors or all.",
        "Training for the task, of fine-tuned networks and of those from scratch: 20 epochs, minibatches of 256 cells",
    ):
        assert told in how, told


def test_all_commands_are_named_and_versions_that_differ(folder, page, tmp_path):
    how = page.read_text().split('id="t-how"')[1]
    assert "Made with selfcell 1 by selfcell x. These are the sessions that came to their end in this folder.<" in how
    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / "benchmark.json").read_text())
    sessions = [
        {"when": when, "command": command, "versions": {"selfcell": "1", "torch": torch, "python": "3.12"},
         "machine": {}, "seconds": 5_000.0, "times": times}
        for when, command, torch, times in (("then", "selfcell a", "1", 1), ("now", "selfcell b", "2", 3))
    ]  # fmt: skip
    (copy / "benchmark.json").write_text(json.dumps({**about, "sessions": sessions}))
    how = write_report(copy).read_text().split('id="t-how"')[1]
    assert "by selfcell a (then, 5,000 seconds); selfcell b (now, 3 times, 5,000 seconds)." in how
    assert "Versions differ between sessions: torch 1, then 2." in how and "python 3.12" not in how


def test_tables_of_two_runs_are_refused_and_those_without_hashes_are_not(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / "benchmark.json").read_text())
    written = {
        name: hashlib.sha256((copy / f"{name}.parquet").read_bytes()).hexdigest() for name in ("pairs", "scores")
    }
    (copy / "benchmark.json").write_text(json.dumps({**about, "tables": written}))
    assert write_report(copy).exists()
    pairs = pd.read_parquet(copy / "pairs.parquet")
    pairs.assign(difference=pairs["difference"] + 0.1).to_parquet(copy / "pairs.parquet", index=False)
    with pytest.raises(InputError, match=r"two runs: pairs\.parquet is not the one .* Run the benchmark again"):
        write_report(copy)


def test_what_holds_over_all_targets_is_a_table(page):
    text = page.read_text()
    section = text[text.index(">What holds over all targets?</h2>") :]
    section = section[: section.index("</section>")]
    assert "p (Wilcoxon)" in section and 'download="over-all-targets.csv"' in section


def test_what_comes_from_data_is_text_and_nothing_from_outside(page):
    text = page.read_text()
    assert TYPES not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Blood &amp; &lt;others&gt;" in text and "no &lt;room&gt;" in text
    outside = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', text)
    assert outside == [] and "@import" not in text
    assert text.count("<script>") == 1


def test_ids_and_labels_are_given_once_and_what_scrolls_is_reached_by_keys(page):
    text = page.read_text().split("<script>")[0]
    ids = re.findall(r'<[^<>]*?\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 100
    referred = re.findall(r"""(?:url\(#|href="#|for=")([^)"]+)""", text)
    assert set(referred) <= set(ids) and len(referred) > 20
    labels = re.findall(r"<label[^>]*>(.*?)</label>", text)
    assert "Show rows of scores with" in labels and len(set(labels)) == len(labels) == text.count("<table") - 1
    for region in re.findall(r"<pre[^>]*>|<div class=.scroll.[^>]*>", text):
        assert 'tabindex="0" role="region" aria-label=' in region


def test_what_is_taken_along_is_whole(page):
    text = page.read_text()
    links = re.findall(r'href="data:([\w/+]+);base64,([\w+/=]+)" download="([\w.-]+)"', text)
    kinds = {name.rsplit(".", 1)[1]: (kind, base64.b64decode(content)) for kind, content, name in links}
    assert kinds["svg"][1].startswith(b"<svg") and kinds["pdf"][1].startswith(b"%PDF")
    assert b"mean" in kinds["csv"][1].splitlines()[0] or b"error" in kinds["csv"][1].splitlines()[0]
    assert len({name for _, _, name in links}) == len(links)


def test_the_same_results_give_the_same_page(folder, page, tmp_path):
    assert write_report(folder, out=tmp_path / "again.html").read_text() == page.read_text()


def test_a_damaged_or_newer_benchmark_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pairs\.parquet is damaged, or cut short .* Run the benchmark again"):
        write_report(copy)
    about = json.loads((copy / "benchmark.json").read_text())
    (copy / "benchmark.json").write_text(json.dumps({**about, "format_version": 99}))
    with pytest.raises(InputError, match="newer selfcell"):
        write_report(copy)
    (copy / "benchmark.json").write_text(json.dumps({**about, "format_version": 1}))
    with pytest.raises(InputError, match=r"of an older format. Run the benchmark again"):
        write_report(copy)


@pytest.fixture
def opened(browser, page):
    browser.get(page.as_uri())
    return browser


def column(table, place):
    return [row.find_elements("css selector", "td")[place].text for row in shown_rows(table)]


def shown_rows(table):
    return [row for row in table.find_elements("css selector", "tbody tr") if row.is_displayed()]


def all_scores(driver):
    heading = driver.find_element("xpath", "//h2[text()='All scores']")
    return heading.find_element("xpath", "./..")


def test_tables_are_sorted_by_a_click_and_by_the_keyboard(opened):
    table = all_scores(opened).find_element("css selector", "table")
    button = table.find_elements("css selector", "th button")[6]
    button.click()
    values = [float(text) for text in column(table, 6)]
    assert values == sorted(values)
    button.send_keys("\n")
    assert [float(text) for text in column(table, 6)] == sorted(values, reverse=True)
    header = button.find_element("xpath", "./..")
    assert header.get_attribute("aria-sort") == "descending"
    table.find_element("css selector", "th button").click()
    assert header.get_attribute("aria-sort") is None and column(table, 0) == sorted(column(table, 0))


def test_rows_are_filtered_by_words_and_counted(opened):
    section = all_scores(opened)
    table, box = section.find_element("css selector", "table"), section.find_element("css selector", "input")
    n_rows = len(shown_rows(table))
    box.send_keys("unseen zero-SHOT")
    assert len(shown_rows(table)) == 4 and set(column(table, 3)) == {"zero-shot"}
    assert section.find_element("css selector", "output").text == f"4 of {n_rows} rows"


def test_the_page_is_quiet_and_fits_a_phone(opened):
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
    opened.set_window_size(420, 900)
    wide = opened.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    opened.set_window_size(1100, 1400)
    assert wide <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(opened, scheme, tmp_path):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    for selector in ("body", ".headline", ".caveat", ".small", "th button", "nav a"):
        assert opened.execute_script(CONTRAST, selector) >= 4.5, selector
    shots = os.environ.get("SELFCELL_SCREENSHOTS", str(tmp_path))
    assert opened.save_screenshot(f"{shots}/benchmark-{scheme}.png")


CONTRAST = """
const element = document.querySelector(arguments[0]);
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const [r, g, b] = numbers(color).map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
let ground = element;
const seen = (one) => numbers(getComputedStyle(one).backgroundColor)[3] !== 0;
while (!seen(ground) && ground.parentElement) ground = ground.parentElement;
const both = [light(getComputedStyle(element).color), light(getComputedStyle(ground).backgroundColor)];
return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
"""
