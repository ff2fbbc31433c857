"""Recognize a checkpoint of Richter et al. 2025 by its keys and shapes, and take out what is of use."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfcell.core.errors import InputError
from selfcell.training.paper_layouts import CLASSIFIER, LAYOUTS, Layout
from selfcell.training.torch_file import shortened

_BLOCK = 3
"""Places that a block takes in a stack: Linear, activation, dropout."""
_OF_LINEAR = re.compile(r"(0|[1-9][0-9]{0,3})\.(weight|bias)")
_SHOWN = 6
_REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

Stack = dict[str, Tensor]
"""Weights and biases of a stack of blocks, by place: ``0.weight``, ``0.bias``, ``3.weight`` and so on."""


@dataclass(frozen=True)
class PaperCheckpoint:
    """What is of use in a checkpoint."""

    layout: Layout
    widths: tuple[int, ...]
    """Genes, units of each hidden block, and size of the embedding."""
    encoder: Stack
    decoder: Stack
    """Of an autoencoder whose decoder is of use; else empty."""
    head: Stack
    """The last Linear of a classifier, as ``weight`` and ``bias``; else empty."""
    left_out: dict[str, str]
    """Beginnings of keys that are not taken over, and why."""

    @property
    def n_classes(self) -> int:
        """Classes of a classifier."""
        return len(self.head["bias"])


def recognize(state: Mapping[str, Tensor]) -> PaperCheckpoint:
    """Tell which kind of checkpoint some weights are, and take out encoder and head.

    Parameters
    ----------
    state
        Weights by name.

    Raises
    ------
    InputError
        If they are of no known kind, keys are left over or missing, weights do not fit together, or copies of one
        module differ.
    """
    layout = _layout_of(state)
    encoder = _stack(state, layout.encoder)
    decoder = {} if layout.decoder is None else _stack(state, layout.decoder)
    _refuse_missing_and_left_over(state, layout)
    for stack, whose in ((encoder, ""), (decoder, "of the decoder ")):
        _refuse_no_numbers(stack, whose)
        _refuse_overlaps(stack, whose)
    _refuse_different_copies(state, layout, encoder)
    head: Stack = {}
    widths = _widths(encoder, layout.encoder)
    if layout is CLASSIFIER:
        place = _last_place(encoder)
        head = {part: encoder.pop(f"{place}.{part}") for part in ("weight", "bias")}
        widths = widths[:-1]
        _check_class_count(state, n_classes=len(head["bias"]))
    if len(widths) < 3:
        raise InputError(f"The encoder has {len(encoder) // 2} Linear layers, but two are needed at least.")
    if decoder and _widths(decoder, layout.decoder or "") != widths[::-1]:
        raise InputError(
            f"The decoder's sizes ({_joined(_widths(decoder, layout.decoder or ''))}) are not the encoder's backwards "
            f"({_joined(widths[::-1])}), so it is no masked autoencoder of log1p values."
        )
    _check_reader(state, layout, widths)
    left_out = {begin: why for begin, why in layout.left_out.items() if any(key.startswith(begin) for key in state)}
    return PaperCheckpoint(layout, widths, encoder, decoder, head, left_out)


def _layout_of(state: Mapping[str, Tensor]) -> Layout:
    for layout in LAYOUTS:
        if all(any(key.startswith(mark) for key in state) for mark in layout.marks):
            return layout
    known = "; ".join(f"{layout.name}: {', '.join(f'{mark}*' for mark in layout.marks)}" for layout in LAYOUTS)
    raise InputError(f"The weights are of no kind that is known. They begin {_listed(list(state))}; known are {known}.")


def _stack(state: Mapping[str, Tensor], begin: str) -> Stack:
    return {key.removeprefix(begin): weight for key, weight in state.items() if _is_of_stack(key, begin)}


def _is_of_stack(key: str, begin: str) -> bool:
    found = _OF_LINEAR.fullmatch(key.removeprefix(begin)) if key.startswith(begin) else None
    return found is not None and int(found[1]) % _BLOCK == 0


def _last_place(stack: Stack) -> int:
    return max((int(key.partition(".")[0]) for key in stack), default=0)


def _refuse_missing_and_left_over(state: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse weights of a kind of which some are not there, or that are not accounted for."""
    stacks = [layout.encoder, *([] if layout.decoder is None else [layout.decoder])]
    copies = [begin for begin in layout.copies if any(key.startswith(begin) for key in state)]
    missing: list[str] = []
    for begin in (*stacks, *copies):
        like = _stack(state, begin if begin in stacks else layout.encoder)
        places = range(0, _last_place(like) + 1, _BLOCK)
        whole = [f"{begin}{place}.{part}" for place in places for part in ("weight", "bias")]
        missing += [key for key in whole if key not in state]
    explained = tuple(layout.left_out)
    left_over = [
        key
        for key in state
        if not key.startswith(explained) and not any(_is_of_stack(key, b) for b in (*stacks, *copies))
    ]
    faults = [
        f"{what}: {_listed(keys)}" for what, keys in (("missing", missing), ("of no known use", left_over)) if keys
    ]
    if faults:
        raise InputError(
            f"The weights look like those of a checkpoint of kind {layout.name}, but some are "
            f"{'; others are '.join(faults)}. It is refused, as the network would not be the one that was trained."
        )


def _refuse_different_copies(state: Mapping[str, Tensor], layout: Layout, encoder: Stack) -> None:
    for begin in layout.copies:
        for key, weight in _stack(state, begin).items():
            if key not in encoder or weight.dtype != encoder[key].dtype or not torch.equal(weight, encoder[key]):
                raise InputError(
                    f"{layout.encoder}{key} and {begin}{key} are one weight, but differ: the file was changed after "
                    "training, and which of them is meant is not known."
                )


def _refuse_no_numbers(stack: Stack, whose: str) -> None:
    for key, weight in stack.items():
        if weight.dtype not in _REAL or not bool(weight.isfinite().all()):
            raise InputError(f"The weights {whose}{key} are no finite floating-point numbers: the file is damaged.")


def _refuse_overlaps(stack: Stack, whose: str) -> None:
    """Refuse Linears that share their weights: a small file could hold any number of large ones."""
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in stack.values()}
    if sum(weight.nbytes for weight in stack.values()) > sum(storages.values()):
        raise InputError(f"Some weights {whose}stand for several Linears at once, which no such network has.")


def _widths(stack: Stack, begin: str) -> tuple[int, ...]:
    """Give the sizes that a stack leads through; its Linears must fit together."""
    places = range(0, _last_place(stack) + 1, _BLOCK)
    widths: list[int] = []
    for place in places:
        weight, bias = stack[f"{place}.weight"], stack[f"{place}.bias"]
        fits = (
            weight.ndim == 2
            and min(weight.shape) > 0
            and bias.shape == weight.shape[:1]
            and (not widths or weight.shape[1] == widths[-1])
        )
        if not fits:
            raise InputError(
                f"{begin}{place} has weights of shape {tuple(weight.shape)} and biases of {tuple(bias.shape)}, which "
                f"do not follow on {widths[-1] if widths else 'any'} units."
            )
        widths += [weight.shape[0]] if widths else [weight.shape[1], weight.shape[0]]
    return tuple(widths)


def _check_class_count(state: Mapping[str, Tensor], *, n_classes: int) -> None:
    for name in CLASSIFIER.left_out:
        shape = state[name].shape if name in state else (n_classes,)
        if shape[:1] != (n_classes,):
            raise InputError(
                f"{name} is of {shape[0] if shape else 'no'} classes, but the last Linear gives {n_classes}: some of "
                "the classifier is missing."
            )


def _check_reader(state: Mapping[str, Tensor], layout: Layout, widths: Sequence[int]) -> None:
    """Notice a last Linear that is missing by what takes its output."""
    if layout.reader is None or layout.reader.key not in state:
        return
    taken, n_given = state[layout.reader.key].shape[-1:], widths[layout.reader.place]
    if taken != (n_given,):
        raise InputError(
            f"{layout.reader.key} takes {taken[0] if taken else 'no'} numbers, but the encoder gives {n_given} there: "
            "some of the encoder is missing."
        )


def _joined(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(shortened, keys[:_SHOWN])) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
