"""What a plan comes to: encoders that are to be trained or are there, and the target that each is asked."""

from typing import NamedTuple

from selfcell.benchmark.results import GIVEN
from selfcell.benchmark.study_plan import StudyPlan
from selfcell.training.settings import PretrainSettings


class PlannedEncoder(NamedTuple):
    """One way of pre-training on one corpus; one run a seed."""

    corpus: str
    encoder: str
    settings: PretrainSettings
    """But for the seed."""

    @property
    def title(self) -> str:
        """What tables and logs call it."""
        return f"{self.encoder} on {self.corpus}"

    def with_seed(self, seed: int) -> PretrainSettings:
        """Give the settings of the run of a seed."""
        training = self.settings.training.model_copy(update={"seed": seed})
        return self.settings.model_copy(update={"training": training})


class GivenEncoder(NamedTuple):
    """A model that is trained already, or several that differ in their seed."""

    encoder: str
    sources: tuple[str, ...]
    corpus: str = GIVEN

    @property
    def title(self) -> str:
        """What tables and logs call it."""
        return self.encoder


class PlannedStudy(NamedTuple):
    """One target asked of the runs of one encoder."""

    target: str
    encoder: PlannedEncoder | GivenEncoder
    plan: StudyPlan
