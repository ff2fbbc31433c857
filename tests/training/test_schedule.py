"""Learning rates against torch's own schedulers, and their scale with the cells of a step."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.training.schedule import learning_rate_factor, learning_rate_scale, make_optimizer
from selfcell.training.settings import TrainingSettings

STEPS_PER_EPOCH = 7


def rates_of_torch(make_scheduler, *, n_steps, steps_a_call=1):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates = make_scheduler(optimizer), []
    for step in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % steps_a_call == 0:
            scheduler.step()
    return rates


def rates_of(settings, *, n_steps):
    return [0.3 * learning_rate_factor(step, settings, steps_per_epoch=STEPS_PER_EPOCH) for step in range(n_steps)]


def test_steps_are_those_of_torchs_scheduler_called_once_an_epoch():
    expected = rates_of_torch(lambda it: StepLR(it, 2, gamma=0.9), n_steps=70, steps_a_call=STEPS_PER_EPOCH)
    assert rates_of(TrainingSettings(decay_every_epochs=2, learning_rate_decay=0.9), n_steps=70) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(("warmup_epochs", "warmup_steps"), [(0, 0), (2, 14), (0.5, 4), (0.3, 2)])
def test_the_cosine_and_its_warm_up_are_those_of_torchs_schedulers(warmup_epochs, warmup_steps):
    settings = TrainingSettings(schedule="cosine", warmup_epochs=warmup_epochs, max_epochs=10)

    def scheduler(optimizer):
        cosine = CosineAnnealingLR(optimizer, 70 - warmup_steps, eta_min=0.3 * 0.001)
        if not warmup_steps:
            return cosine
        rise = LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=warmup_steps - 1)
        return SequentialLR(optimizer, [rise, cosine], [warmup_steps])

    assert rates_of(settings, n_steps=70) == pytest.approx(rates_of_torch(scheduler, n_steps=70))


def test_a_fraction_of_an_epoch_warms_up_a_short_run():
    settings = TrainingSettings(warmup_epochs=0.1, max_epochs=1)
    factors = [learning_rate_factor(step, settings, steps_per_epoch=40) for step in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize(
    ("how", "rate", "bias_rate"), [("none", 0.2, 0.1), ("linear", 1.6, 0.8), ("sqrt", 0.2 * 8**0.5, 0.1 * 8**0.5)]
)
def test_rates_are_scaled_by_the_cells_of_a_step(how, rate, bias_rate):
    settings = TrainingSettings(
        optimizer="lars",
        learning_rate=0.2,
        bias_learning_rate=0.1,
        minibatch_size=512,
        accumulate=4,
        scale_learning_rate=how,
    )
    optimizer = make_optimizer(torch.nn.Linear(2, 2).parameters(), settings)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, bias_rate])
    assert make_optimizer(
        torch.nn.Linear(2, 2).parameters(), settings.model_copy(update={"optimizer": "adamw"})
    ).param_groups[0]["lr"] == pytest.approx(rate)


def test_a_minibatch_of_256_cells_has_the_rate_that_is_given():
    assert learning_rate_scale(TrainingSettings(scale_learning_rate="linear")) == 1
    assert learning_rate_scale(TrainingSettings(scale_learning_rate="sqrt", minibatch_size=64)) == 0.5


def test_a_cosine_is_refused_where_a_budget_would_cut_it_anywhere():
    with pytest.raises(InputError, match=r"pace of the machine.*Take training\.schedule=steps, or set"):
        build(TrainingSettings, {"schedule": "cosine", "budget": "30m"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("1 d", 86400)]
)
def test_a_budget_is_a_time_with_its_unit(text, seconds):
    assert build(TrainingSettings, {"budget": text}).budget_seconds == seconds


@pytest.mark.parametrize("text", ["30", "m", "0s", "-5m", "30 minutes", ""])
def test_what_is_no_time_is_refused_as_a_budget(text):
    with pytest.raises(InputError, match=r"training\.budget is '.*', but takes a time with its unit, such as 90s, 30m"):
        build(TrainingSettings, {"budget": text})
