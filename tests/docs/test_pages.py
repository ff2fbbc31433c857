"""What the pages show is run as it stands there, on simulated cells; what is not run is listed with its reason."""

import itertools
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import anndata
import pytest
import typer.main

import selfcell
from selfcell.cli.app import app
from selfcell.training.fit import fit

HERE = Path(__file__).parent
pages = SimpleNamespace(**runpy.run_path(str(HERE / "pages.py")))
given = SimpleNamespace(**runpy.run_path(str(HERE / "cells_of_pages.py")))
hub = runpy.run_path(str(HERE.parent / "hub" / "conftest.py"))["hub"]
PROGRAM = typer.main.get_command(app)

NOT_RUN = {
    r"^(pip|make|hf|bash|export|source|sbatch|squeue|scontrol|dask|\.venv)\b": "sets up, or belongs to a cluster",
    r"^python (benchmarks|tests/robustness)/": "measures for minutes; tests/test_benchmarks.py runs the scripts small",
    r"^(torchrun|srun)\b|--devices": "several processes: tests/training/test_processes.py",
    r"^selfcell (demo|datasets)\b": "fetches real cells; `make demo` and the tests marked network do",
    r"^selfcell benchmark (run )?(plans|work)/|--dask": "hours, on fetched cells; tests/benchmark runs small plans",
    r"HF_HUB_OFFLINE": "a commit of the reader's; tests/hub takes away the network",
    r"^selfcell programs\b|msigdb|trrust": "fetches gene sets; tests/data/test_programs.py does",
    r"(--by |scorer=)(scib-metrics|cz-benchmarks)": "packages that need not be there; test_score_embeddings.py",
    r"replaced:|runs/replaced|judged-replaced": "a module of the reader's; test_own_task.py follows that page",
    r"--from-census": "the census; tests/data/atlas/test_census.py makes small ones",
    r"\b(big|sctab|atlas20m)\b|https://|s3://": "cells that few have; test_commands.py reads these commands",
}  # fmt: skip
NO_PYTHON = {
    "benchmark": "starts jobs on a cluster",
    "clusters": "starts jobs on a cluster",
    "own-task": "test_own_task.py runs it",
    "CONTRIBUTING": "shows style",
}
GIVEN = {
    "data": ("runs/mae",), "export": ("runs/mae", "runs/typed"), "judgement": ("runs/mae", "embedded.h5ad"),
    "streaming": ("atlas",), "clusters": ("atlas",), "hub": ("runs/mae", "judged"),
}  # fmt: skip
"""What a page takes for there, as another page has made it."""
NOTHING_TO_RUN = {
    "CONTRIBUTING", "api", "architecture", "changelog", "contributing", "departures", "dependencies", "faq", "index",
    "own-task", "pretext-tasks", "programs", "reliability", "results", "scaling", "speed", "words",
}  # fmt: skip
"""Pages without a block, or with none but those of ``NOT_RUN`` and ``NO_PYTHON``."""
_SHORTER = {"doctor": ["--seconds", "1"], "evaluate": ["--seeds", "1"]}
"""Options that commands are given so that tests take seconds."""


def why_not(words: list[str]) -> str | None:
    """Give the reason why a command of a page is not run; None if it is."""
    line = " ".join(words)
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), None)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The files that pages name, the atlas and the models that some take for there."""
    folder = tmp_path_factory.mktemp("pages")
    given.write_files(folder)
    return folder


@pytest.fixture(scope="module")
def made(files, tmp_path_factory) -> Path:
    """An atlas, and models, that some pages take for there."""
    folder = tmp_path_factory.mktemp("made")
    selfcell.build_atlas([files / "lung.h5ad", files / "liver.h5ad"], folder / "atlas")
    mae = selfcell.pretrain(files / "cells.h5ad", given.SMALL, out=folder / "runs/mae", show_progress=False)
    training = {"training": {"max_epochs": 1}}
    cells = anndata.read_h5ad(files / "cells.h5ad")
    selfcell.finetune(mae, cells, label_key="cell_type", donor_key="donor_id", settings=training,
                      validation_fraction=0.2, out=folder / "runs/typed")  # fmt: skip
    selfcell.embed(cells, mae)
    cells.write_h5ad(folder / "embedded.h5ad")
    selfcell.evaluate(mae, cells, label_key="cell_type", donor_key="donor_id", regimes=("zero_shot",),
                      baselines=("pca_knn",), n_seeds=1, jobs=1, out=folder / "judged")  # fmt: skip
    return folder


@pytest.fixture
def folder(tmp_path, files, hub, monkeypatch) -> Path:
    """A folder to follow a page in, with training cut short, trials run in this process, and a Hub of its own."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def short(objective, settings, **others):
        return fit(objective, settings.model_copy(update={"max_epochs": 1}), **others)

    monkeypatch.setattr("selfcell.training.pretrain.fit", short)
    monkeypatch.setattr("selfcell.downstream.supervised.fit", short)
    monkeypatch.setattr("selfcell.benchmark.trials.n_cores", lambda: 1)
    # What a map shows is not asked here; UMAP compiles for seconds.
    monkeypatch.setattr("selfcell.benchmark.maps._layout", lambda embedding: embedding[:, :2])
    monkeypatch.setattr("selfcell.cli.app._set_up_logging", lambda _level: None)
    monkeypatch.setattr("selfcell.datasets.load", cells_by_name)
    return tmp_path


def run(words: list[str]) -> None:
    """Run a command in this process, as a shell would."""
    if words[0] != "selfcell":
        subprocess.run(words, check=True, capture_output=True)
        return
    globbed = [sorted(map(str, Path().glob(word))) if word.endswith("/*.h5ad") else [word] for word in words[1:]]
    arguments = list(itertools.chain.from_iterable(globbed))
    # Several models need as many seeds.
    arguments += [] if "--also" in arguments else _SHORTER.get(arguments[0], [])
    assert not PROGRAM.main(arguments, prog_name="selfcell", standalone_mode=False)
    if arguments[:2] == ["benchmark", "init"]:
        shorten(Path(arguments[arguments.index("--out") + 1]))


def shorten(plan: Path) -> None:
    """Have a plan ask with one seed of each kind, and one baseline."""
    text = plan.read_text(encoding="utf-8")
    changes = {"[0, 1, 2]": "[0]", '["usual"]': '["pca_knn"]'}
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    plan.write_text(text, encoding="utf-8")


def cells_by_name(_name: str) -> anndata.AnnData:
    """Stand for a data set that is fetched by its name."""
    adata = given.make_cells()
    adata.obs["Donor"] = adata.obs["donor_id"]
    return adata


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page in pages.PAGES if page not in NOTHING_TO_RUN])
def test_a_page_can_be_followed(page, folder, request, capsys):
    (folder / "runs").mkdir()
    for path in GIVEN.get(page, ()):
        source = request.getfixturevalue("made") / path
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / path)
    namespace: dict[str, object] = {}
    n_run = 0
    for block in pages.blocks_of(pages.PAGES[page]):
        if block.language == "python" and page not in NO_PYTHON:
            exec(compile(block.code, f"{page}.md", "exec"), namespace)
            n_run += 1
        for words in pages.commands_of(block.code) if block.language == "console" else ():
            if why_not(words) is None:
                try:
                    run(words)
                except Exception as fault:
                    fault.add_note(f"This came from `{shlex.join(words)}` of {page}.md.")
                    raise
                n_run += 1
    assert n_run


def test_pages_that_are_not_followed_show_nothing_that_could_be():
    for page in NOTHING_TO_RUN:
        for block in pages.blocks_of(pages.PAGES[page]):
            assert block.language != "python" or page in NO_PYTHON, page
            if block.language == "console":
                assert not [words for words in pages.commands_of(block.code) if why_not(words) is None], page


def test_every_reason_is_of_use():
    lines = [
        " ".join(words)
        for path in pages.PAGES.values()
        for block in pages.blocks_of(path)
        if block.language in {"console", "bash"}
        for words in pages.commands_of(block.code)
    ]
    assert not [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)]
