import pytest

from selfcell.benchmark.planned import GivenEncoder, PlannedStudy
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.target_checks import check_target
from selfcell.core.errors import InputError


def test_all_donors_may_be_labelled_where_others_are_judged_on_and_not_one_more(cells):
    def asked(n_donors):
        plan = StudyPlan(label_key="cell_type", donor_key="donor", budgets=(LabelBudget(n_donors),))
        return PlannedStudy("types", GivenEncoder("model", ("run",)), plan)

    check_target(asked(5), cells)
    with pytest.raises(InputError, match="6 labelled donors are asked for, but there are 5"):
        check_target(asked(6), cells)
