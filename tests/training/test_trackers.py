import importlib.util

import pytest

from selfcell.core.errors import InputError
from selfcell.training.pretrain import pretrain
from selfcell.training.trackers import loggers


@pytest.mark.parametrize(("tracker", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_tracker_that_is_not_installed_is_named_before_training(
    adata, small_settings, tmp_path, monkeypatch, tracker, package
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    if importlib.util.find_spec(tracker) is not None:
        pytest.skip(f"{tracker} is installed")
    training = small_settings.training.model_copy(update={"tracker": tracker})
    settings = small_settings.model_copy(update={"training": training})
    with pytest.raises(InputError, match=f"training.tracker={tracker} needs .* pip install {package}"):
        pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run" / "log.csv").exists()


def test_mlflow_needs_an_address(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="needs the address of a server or a database in MLFLOW_TRACKING_URI"):
        loggers("mlflow", tmp_path)


def test_tensorboard_has_the_curves_always(tmp_path):
    (board,) = loggers("none", tmp_path)
    assert board.log_dir == str(tmp_path / "tensorboard")
