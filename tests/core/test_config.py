import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.config import build, describe, read_toml, to_toml, with_overrides
from selfcell.core.errors import InputError
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.training.settings import PretrainSettings


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"Unknown setting 'mask_ratio' in \[pretext\]\. Did you mean 'mask_fraction'\?"
    ):
        build(PretrainSettings, {"pretext": {"mask_ratio": 0.3}})


def test_a_setting_of_a_section_below_is_found():
    with pytest.raises(InputError, match=r"Unknown section 'max_epochs'\. Did you mean 'training.max_epochs'\?"):
        build(CellTypeSettings, {"max_epochs": 3})


def test_an_unknown_section_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"Unknown section 'trainning'\. Did you mean 'training'\?"):
        build(PretrainSettings, {"trainning": {}})


def test_an_unknown_pretext_task_is_refused_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"Unknown pretext task 'masked_autoencode'\. Did you mean 'masked_autoencoder'\?"
    ):
        build(PretrainSettings, {"pretext": {"name": "masked_autoencode"}})


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, "half"])
def test_a_value_out_of_its_limits_is_refused_with_its_address(value):
    with pytest.raises(InputError, match=rf"\[pretext\] mask_fraction: .*, but is {value!r}\."):
        build(PretrainSettings, {"pretext": {"mask_fraction": value}})


def test_settings_survive_a_round_trip_through_toml(tmp_path):
    settings = build(PretrainSettings, {"training": {"seed": 3}, "network": {"hidden_sizes": [32]}})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(settings))
    assert build(PretrainSettings, read_toml(path)) == settings


@given(st.integers(0, 1000), st.floats(1e-6, 1.0))
def test_overrides_are_read_as_toml(seed, rate):
    values = with_overrides({}, [f"training.seed={seed}", f"training.learning_rate={rate!r}", "data.donor_key=Donor 1"])
    settings = build(PretrainSettings, values)
    assert settings.training.seed == seed
    assert settings.training.learning_rate == rate
    assert settings.data.donor_key == "Donor 1"


def test_overrides_win_over_the_file_and_leave_it_alone():
    values = {"training": {"seed": 1, "max_epochs": 2}}
    merged = with_overrides(values, ["training.seed=5"])
    assert merged == {"training": {"seed": 5, "max_epochs": 2}}
    assert values["training"]["seed"] == 1


@pytest.mark.parametrize("override", ["training.seed", "seed=1", ".=3", "=3"])
def test_a_misshapen_override_is_refused(override):
    with pytest.raises(InputError, match=r"--set takes section\.name=value"):
        with_overrides({}, [override])


def test_a_missing_or_broken_settings_file_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no settings file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("a = = 1")
    with pytest.raises(InputError, match=r"broken\.toml is not a valid TOML file"):
        read_toml(tmp_path / "broken.toml")


@pytest.mark.parametrize("settings_class", [PretrainSettings, CellTypeSettings])
def test_every_setting_says_what_it_does(settings_class):
    lines = list(describe(settings_class))
    assert all(len(line.help) > 10 for line in lines)
    assert all(line.help.endswith(".") for line in lines), [
        line.address for line in lines if not line.help.endswith(".")
    ]


def test_settings_of_the_pretext_task_are_listed():
    assert "pretext.mask_fraction" in {line.address for line in describe(PretrainSettings)}
