"""Optimizer steps of several minibatches: how much each counts, and how a checkpoint goes on with another number."""

from typing import Any

from selfcell.data.schedule import Schedule


def share_of_step(place: int, schedule: Schedule, *, accumulate: int) -> float:
    """Give the weight of a minibatch in the gradient of its optimizer step: 1 where all have as many cells.

    The trainer divides the loss of each minibatch by ``accumulate``. At the end of an epoch there may be fewer
    minibatches than that, and the last may have fewer cells or more; with this weight the step is that of one minibatch
    of all their cells, for a loss that is a mean over cells.

    Parameters
    ----------
    place
        Place of the minibatch in the epoch.
    schedule
        How the cells are cut into minibatches.
    accumulate
        Minibatches per optimizer step.
    """
    if accumulate == 1:
        return 1.0
    first = place - place % accumulate
    cells_of_step = sum(schedule.size_of(other) for other in range(first, min(first + accumulate, len(schedule))))
    return accumulate * schedule.size_of(place) / cells_of_step


def steps_of_an_epoch(n_minibatches: int, *, accumulate: int) -> int:
    """Give the optimizer steps of an epoch; the last may have fewer minibatches."""
    return -(-n_minibatches // accumulate)


def recount_minibatches(checkpoint: dict[str, Any], *, before: int, now: int) -> None:
    """Let a checkpoint made within an epoch go on with smaller minibatches and more of them to a step, or the reverse.

    Parameters
    ----------
    checkpoint
        Of the trainer; changed in place. It was made between two optimizer steps.
    before, now
        Minibatches per optimizer step; the cells of a step are as many.
    """
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    if before == now or progress["is_last_batch"]:
        return
    more = progress["current"]["ready"] // before * (now - before)
    for counts in (progress["total"], progress["current"]):
        counts.update({name: count + more for name, count in counts.items()})
    for position in loop["state_dict"]["combined_loader"]:
        position["minibatch"] += more
