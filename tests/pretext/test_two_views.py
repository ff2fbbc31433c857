import tomllib

import numpy as np
import pytest
import torch

from selfcell.core.config import Settings, build, describe, to_toml, with_overrides
from selfcell.core.errors import InputError
from selfcell.data.loader import cell_loader
from selfcell.data.programs import GenePrograms
from selfcell.pretext.two_views import TwoViews, TwoViewSettings
from selfcell.pretext.view_settings import VIEWS, AddGaussianNoise, MaskGenes, MaskPrograms, MixNeighbors, ThinCounts

PROGRAMS = GenePrograms(names=("a", "b"), genes=(np.arange(0, 20), np.arange(15, 40)), n_genes=60)


class Run(Settings):
    """As the settings of a run have them."""

    pretext: TwoViewSettings = TwoViewSettings(name="any")


def settings_of(views, **rest):
    return build(Run, {"pretext": {"name": "any", "views": views, **rest}}).pretext


@pytest.fixture
def minibatch(cells):
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=32)))
    minibatch.codes = {"batch": torch.arange(32) % 3}
    return minibatch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def views_of(settings, minibatch, seed=0):
    views = TwoViews(settings, programs=PROGRAMS)(minibatch, generator=generator(seed))
    return tuple(view if isinstance(view, torch.Tensor) else view.dense() for view in views)


# Settings.


def test_a_step_is_a_name_or_a_table():
    values = with_overrides(
        {"pretext": {"name": "any"}}, ['pretext.views=["thin_counts", {name="mask_genes", fraction=0.5}]']
    )
    settings = build(Run, values).pretext
    assert settings.views == (ThinCounts(), MaskGenes(fraction=(0.5, 0.5)))
    assert settings.second_views is None


@pytest.mark.parametrize("second", [None, [], ["cross_over", {"name": "mix_neighbors", "among": "mutual"}]])
def test_views_survive_a_round_trip_through_toml(second):
    rest = {} if second is None else {"second_views": second}
    run = build(Run, {"pretext": {"name": "any", "views": [view().name for view in VIEWS], **rest}})
    assert build(Run, tomllib.loads(to_toml(run))) == run
    assert build(Run, run.model_dump(mode="json")) == run


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (["mask_gene"], r"Unknown view 'mask_gene'\. Did you mean 'mask_genes'\? Known: thin_counts, mask_genes"),
        ([{"name": "thin"}], r"Unknown view 'thin'\. .*Known: thin_counts"),
        ("mask_genes", r"Views are a list of steps, such as .*but got 'mask_genes'\."),
        ([{"fraction": 0.5}], r"A view is a name or a table with a name, .*but got \{'fraction': 0\.5\}\."),
        ([3], r"A view is a name or a table with a name, .*but got 3\."),
        (
            [{"name": "mask_genes", "fractions": 0.1}],
            r"^Unknown setting 'fractions' in \[pretext\.views\.mask_genes\]\. Did you mean 'fraction'\?",
        ),
        (
            [{"name": "mask_genes", "fraction": 1}],
            r"^\[pretext\.views\.mask_genes\] fraction: input should be less than 1, but is 1\.$",
        ),
        (
            [{"name": "swap_genes", "fraction": [0.3, 0.2]}],
            r"^\[pretext\.views\.swap_genes\] fraction: the low end of a range should come first, but is \[0\.3",
        ),
        (
            [{"name": "thin_counts", "keep_fraction": [0.3]}],
            r"keep_fraction: input should be a number or a range \[low, high\], but is \[0\.3\]\.",
        ),
        ([{"name": "cross_over", "probability": 2}], r"^\[pretext\.views\.cross_over\] probability: .*, but is 2\."),
        (
            ["mask_genes", "thin_counts"],
            r"^The view thin_counts works on counts and mask_genes on normalized .*: put thin_counts before it\.",
        ),
    ],
)
def test_views_that_cannot_be_are_refused(views, message):
    with pytest.raises(InputError, match=message):
        settings_of(views)
    with pytest.raises(InputError, match=message.replace("pretext\\.views", "pretext\\.second_views")):
        settings_of([], second_views=views)


def test_every_unknown_name_is_told():
    with pytest.raises(InputError, match=r"(?s)'shar'.*\n.*'probabilty'.*Did you mean 'probability'"):
        settings_of([{"name": "cross_over", "shar": 1, "probabilty": 0.5}])


def test_the_settings_of_every_step_are_listed_once():
    lines = list(describe(Run))
    addresses = [line.address for line in lines]
    assert len(set(addresses)) == len(addresses)
    for view in VIEWS:
        assert f"pretext.views.{view().name}.probability" in addresses
    assert {line.address: line.default for line in lines}["pretext.views"] == "['thin_counts', 'mask_genes']"
    assert all(len(line.help) > 10 and line.help.endswith(".") for line in lines)


def test_a_default_that_is_not_its_steps_own_is_shown_whole():
    class Other(Settings):
        views: TwoViewSettings.model_fields["views"].annotation = (MaskGenes(), AddGaussianNoise(sigma=0.5))
        """Steps."""

    shown = next(describe(Other)).default
    assert shown.startswith("['mask_genes', {'name': 'add_gaussian_noise'") and "'sigma': [0.5, 0.5]" in shown


def test_the_settings_know_what_the_steps_need():
    assert not TwoViewSettings(name="any").uses_programs and not TwoViewSettings(name="any").uses_batches
    assert settings_of([], second_views=["mask_programs"]).uses_programs
    assert not settings_of(["mix_neighbors"]).uses_batches
    assert settings_of([{"name": "mix_neighbors", "among": "bbknn"}]).uses_batches


# The module.


@pytest.mark.parametrize("view", [view().name for view in VIEWS])
def test_every_view_can_be_chosen_by_name(view, minibatch):
    before = minibatch.expression()
    first, second = views_of(settings_of([{"name": view, "probability": 1}]), minibatch)
    for distorted in (first, second):
        assert distorted.shape == (32, 60) and distorted.isfinite().all()
        assert not torch.equal(distorted, before)
    assert not torch.equal(first, second)
    assert torch.equal(minibatch.expression(), before)


def test_steps_are_taken_in_order(minibatch):
    masked_last, noisy_last = (
        views_of(settings_of(names), minibatch)[0]
        for names in (["add_negative_binomial_noise", "mask_genes"], ["mask_genes", "add_negative_binomial_noise"])
    )
    # The mask hides a tenth or more of a cell's genes unless noise comes after it.
    assert (masked_last == 0).float().mean() > (noisy_last == 0).float().mean()
    noise = {"name": "add_negative_binomial_noise", "probability": 1, "strength": 1}
    hide = {"name": "mask_genes", "fraction": 0.9}
    assert (views_of(settings_of([noise, hide]), minibatch)[0] == 0).float().mean() > 0.85
    assert (views_of(settings_of([hide, noise]), minibatch)[0] == 0).float().mean() < 0.2


def test_counts_are_thinned_before_they_are_normalized(minibatch):
    view = views_of(settings_of([{"name": "thin_counts", "keep_fraction": 0.5}, "thin_counts"]), minibatch)[0]
    totals = torch.expm1(view).sum(dim=1)
    torch.testing.assert_close(totals, torch.full_like(totals, 10_000), rtol=1e-4, atol=0)


def test_no_steps_leave_the_cells_untouched(minibatch):
    first, second = views_of(settings_of(["mask_genes"], second_views=[]), minibatch)
    assert torch.equal(second, minibatch.expression()) and not torch.equal(first, second)


def test_second_views_are_the_steps_of_the_second_view(minibatch):
    first, second = views_of(settings_of([], second_views=["mask_genes"]), minibatch)
    assert torch.equal(first, minibatch.expression()) and not torch.equal(first, second)


def test_views_depend_on_the_generator_alone_and_on_one_another_not(minibatch):
    settings = TwoViewSettings(name="any", views=(MaskGenes(fraction=0.5, rescale=False),))
    again = [views_of(settings, minibatch, seed=4) for _ in range(2)]
    assert torch.equal(again[0][0], again[1][0]) and torch.equal(again[0][1], again[1][1])
    expressed = minibatch.expression() > 0
    first, second = (view[expressed] == 0 for view in again[0])
    both = (first & second).float().mean()
    assert abs(both - first.float().mean() * second.float().mean()) < 0.05


def test_the_batch_of_each_cell_decides_with_whom_it_mixes(minibatch):
    settings = settings_of([{"name": "mix_neighbors", "among": "bbknn", "probability": 1}])
    mixed = views_of(settings, minibatch)[0]
    minibatch.codes = {"batch": torch.zeros(32, dtype=torch.int64)}
    assert torch.equal(views_of(settings, minibatch)[0], minibatch.expression())
    assert not torch.equal(mixed, minibatch.expression())


@pytest.mark.parametrize("among", ["bbknn", "mutual"])
def test_without_batches_the_setting_that_names_them_is_told(minibatch, among):
    minibatch.codes = {}
    with pytest.raises(InputError, match=rf"mix_neighbors with among='{among}' needs the batch.*data\.batch_key"):
        views_of(settings_of([{"name": "mix_neighbors", "among": among}]), minibatch)


def test_without_programs_the_setting_that_names_them_is_told():
    settings = TwoViewSettings(name="any", views=(MaskPrograms(),))
    for programs in (None, GenePrograms(names=(), genes=(), n_genes=60)):
        with pytest.raises(
            InputError, match=r"mask_programs needs gene programmes: name them with pretext\.programs\."
        ):
            TwoViews(settings, programs=programs)


def test_the_module_has_nothing_to_train_or_to_save_and_moves():
    module = TwoViews(TwoViewSettings(name="any", views=(MaskPrograms(), MixNeighbors())), programs=PROGRAMS)
    assert not list(module.parameters()) and not module.state_dict()
    assert module.to("meta").membership.entry_gene.device.type == "meta"


@pytest.mark.parametrize(
    "views", [[], [{"name": "mask_genes", "fraction": 0}], [{"name": "thin_counts", "keep_fraction": 1}]]
)
def test_views_that_change_nothing_are_refused(views):
    with pytest.raises(InputError, match="Both views of every cell would be the cell itself"):
        build(TwoViewSettings, {"name": "any", "views": views})
    build(TwoViewSettings, {"name": "any", "views": views, "second_views": ["mask_genes"]})


@pytest.mark.parametrize("view", ["mask_genes", "mask_programs"])
def test_a_sparse_view_hides_what_the_dense_one_may_and_as_often(view, minibatch):
    rest = {"rescale": False} if view == "mask_genes" else {}
    settings = settings_of([{"name": view, "fraction": [0.2, 0.6], "probability": 0.7, **rest}])
    sparse, dense = TwoViews(settings, programs=PROGRAMS), TwoViews(settings, programs=PROGRAMS)
    before, hidden = minibatch.expression(), []
    for place in range(40):
        shown = sparse(minibatch, generator=generator(place)).first.dense()
        distorted = dense._distorted(before, settings.views[0], minibatch, generator(place))
        kept = shown > 0
        assert torch.equal(shown[kept], before[kept])
        hidden.append([((shown == 0) & (before > 0)).float().mean(), ((distorted == 0) & (before > 0)).float().mean()])
    of_sparse, of_dense = np.array(hidden).mean(axis=0)
    assert of_sparse == pytest.approx(of_dense, rel=0.1)
