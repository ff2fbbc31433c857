import dataclasses

import numpy as np
import pytest

from selfcell.benchmark.foreseen import foresee_run
from selfcell.benchmark.planned import PlannedEncoder, PlannedStudy
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.study_split import choose_split
from selfcell.benchmark.target_checks import check_target
from selfcell.core.errors import InputError
from selfcell.data.source import obs_column
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import DataSettings, PretrainSettings

ENCODER = PlannedEncoder("made", "mae", PretrainSettings())
PLAN = StudyPlan(label_key="cell_type", donor_key="donor")


def test_all_donors_may_be_labelled_where_others_are_judged_on_and_not_one_more(cells):
    def asked(n_donors, *, query):
        plan = dataclasses.replace(PLAN, budgets=(LabelBudget(n_donors),))
        runs = {ENCODER: [foresee_run(DataSettings(donor_key="donor"), cells)]}
        check_target([PlannedStudy("types", ENCODER, plan)], cells, query, runs)

    other = dataclasses.replace(cells, counts=cells.counts * 2, origin="others")
    asked(5, query=other)
    with pytest.raises(InputError, match="6 labelled donors are asked for, but there are 5 beside"):
        asked(6, query=other)
    asked(3, query=None)
    with pytest.raises(InputError, match="5 labelled donors are asked for, but there are 3 beside"):
        asked(5, query=None)


@pytest.mark.parametrize("data", [{"donor_key": "donor", "test_fraction": 0.3}, {"test_fraction": 0.2}, {}])
def test_the_cells_that_are_judged_on_are_foreseen_as_they_will_be(cells, tmp_path, small_settings, data):
    settings = small_settings.model_copy(update={"data": DataSettings(**data)})
    model = pretrain(cells, settings, out=tmp_path / "run", show_progress=False)
    donors = obs_column(cells.obs, "donor", role="donor") if "donor_key" in data else None
    plan = PLAN if "donor_key" in data else dataclasses.replace(PLAN, donor_key=None)
    found, expected = (choose_split(plan, cells, [one], donors) for one in (foresee_run(settings.data, cells), model))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    assert len(found.test)
