import pytest

from selfcell.baselines import BASELINES
from selfcell.core.errors import InputError, did_you_mean
from selfcell.core.registry import Entry, Registry
from selfcell.data.dataset_table import DATASETS
from selfcell.data.datasets import _READERS
from selfcell.downstream import DOWNSTREAM_TASKS
from selfcell.pretext import PRETEXT_TASKS


@pytest.mark.parametrize(
    "registry", [PRETEXT_TASKS, DOWNSTREAM_TASKS, *BASELINES.values(), _READERS], ids=lambda r: r.kind
)
def test_every_entry_of_every_table_resolves_and_is_described(registry):
    for name in registry:
        assert callable(registry[name])
    assert all(summary.endswith(".") or registry is _READERS for summary in registry.summaries().values())


def test_an_unknown_name_gets_the_nearest_one():
    registry = Registry("color", {"green": Entry("builtins:int", "Green.")})
    with pytest.raises(InputError, match=r"Unknown color 'grene'\. Did you mean 'green'\? Known: green\."):
        registry["grene"]


def test_the_nearest_name_is_found_whatever_the_case():
    assert did_you_mean("donor", ["Donor", "Batch"]).startswith("Did you mean 'Donor'?")


def test_long_lists_are_cut():
    assert did_you_mean("x", [f"column{n}" for n in range(50)]).endswith("and 30 more.")


def test_data_sets_name_their_facts():
    for info in DATASETS.values():
        assert info.n_cells > 0 and info.n_genes > 0 and info.licence and info.megabytes > 1
        assert all(len(file.sha256) == 64 for file in info.files)
