"""Checkpoints in each layout, made here, against forward passes written out in plain torch."""

import itertools
import json
import os
import pickle
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import selfcell
from selfcell.benchmark.run import run_benchmark
from selfcell.benchmark.trials import Workplace
from selfcell.core.config import build, read_toml
from selfcell.core.errors import InputError
from selfcell.data.counts import log_normalize
from selfcell.downstream import REGIMES
from selfcell.downstream.decoding import decoder_settings, expected_expression, has_decoder, load_autoencoder
from selfcell.downstream.embed import embed_counts
from selfcell.downstream.type_classifier import classifier_head
from selfcell.training.paper_checkpoint import recognize
from selfcell.training.paper_layouts import LAYOUTS as KINDS
from selfcell.training.run_folder import load
from selfcell.training.settings import PretrainSettings
from selfcell.training.torch_file import read_state_dict

N_GENES, HIDDEN, N_LATENT, N_CLASSES = 60, (20, 16, 12), 8, 3
WIDTHS = (N_GENES, *HIDDEN, N_LATENT)
CONTRASTIVE = ["byol", "simsiam", "barlow_twins", "barlow_twins_trainer"]
LAYOUTS = ["masked_autoencoder", "negative_binomial", "classifier", *CONTRASTIVE]
NAMES = ["B cell", "T cell", "NK cell"]


def stack(widths, activation=nn.SELU):
    """Linear, activation, dropout and so on, a bare Linear at the end."""
    blocks = []
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        blocks += [nn.Linear(n_in, n_out), activation(), nn.Dropout(0.1)]
    return nn.Sequential(*blocks, nn.Linear(widths[-2], widths[-1])).eval()


def prefixed(name, module):
    return {f"{name}.{key}": weight for key, weight in module.state_dict().items()}


def projector(*widths):
    blocks = []
    for n_in, n_out in itertools.pairwise(widths):
        blocks += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    return nn.Sequential(*blocks)


def paired(encoder, *, has_target):
    """Give the weights of BYOL or SimSiam beside the encoder; they read what goes into its last Linear."""
    state = prefixed("inner_model", encoder) | prefixed("byol.net", encoder)
    state |= prefixed("byol.online_encoder.net", encoder)
    heads = {"online_encoder.projector": HIDDEN[-1], "online_predictor": 6}
    if has_target:
        state |= prefixed("byol.target_encoder.net", stack(WIDTHS))
        heads["target_encoder.projector"] = HIDDEN[-1]
    for name, n_in in heads.items():
        head = nn.Sequential(nn.Linear(n_in, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 6))
        if not has_target and name.endswith("projector"):
            ends = (nn.Linear(32, 6, bias=False), nn.BatchNorm1d(6, affine=False))
            head = nn.Sequential(*projector(n_in, 32, 32), *ends)
        state |= prefixed(f"byol.{name}", head)
    return state


def weights_of(layout, encoder, decoder, head):
    heads = projector(N_LATENT, 8, 16, 16)
    normed = nn.BatchNorm1d(16, affine=False)
    return {
        "masked_autoencoder": lambda: prefixed("encoder", encoder) | prefixed("decoder.0", decoder),
        "negative_binomial": lambda: {
            **prefixed("encoder", encoder),
            **prefixed("decoder.0", stack((N_LATENT, *reversed(HIDDEN), 2 * N_GENES))),
            "px_r": torch.randn(N_GENES),
        },
        "classifier": lambda: {
            "class_weights": torch.ones(N_CLASSES),
            "child_lookup": torch.eye(N_CLASSES, dtype=torch.int64),
            **prefixed("classifier", encoder),
            "classifier.12.weight": head.weight.detach(),
            "classifier.12.bias": head.bias.detach(),
        },
        "byol": lambda: paired(encoder, has_target=True),
        "simsiam": lambda: paired(encoder, has_target=False),
        "barlow_twins": lambda: prefixed("backbone", encoder) | prefixed("projector", heads) | prefixed("bn", normed),
        "barlow_twins_trainer": lambda: {
            **prefixed("inner_model", encoder),
            **prefixed("barlow_twins.backbone", encoder),
            **prefixed("barlow_twins.projector", heads),
            **prefixed("barlow_twins.bn", normed),
        },
    }[layout]()


def state_of(layout):
    """Give the weights of a checkpoint of random networks."""
    encoder = stack(WIDTHS, nn.ReLU if layout == "classifier" else nn.SELU)
    return weights_of(layout, encoder, stack((N_LATENT, *reversed(HIDDEN), N_GENES)), nn.Linear(N_LATENT, N_CLASSES))


STATES = {layout: state_of(layout) for layout in LAYOUTS}


class Released:
    """The networks of one checkpoint, and its file."""

    def __init__(self, folder: Path, layout: str, *, wrapped: bool = True):
        torch.manual_seed(0)
        self.layout, self.folder = layout, folder
        self.encoder = stack(WIDTHS, nn.ReLU if layout == "classifier" else nn.SELU)
        self.decoder, self.head = stack((N_LATENT, *reversed(HIDDEN), N_GENES)), nn.Linear(N_LATENT, N_CLASSES)
        self.state = weights_of(layout, self.encoder, self.decoder, self.head)
        self.file, self.genes, self.labels = folder / "a.ckpt", folder / "var.parquet", folder / "types.txt"
        self.wrapped = wrapped
        self.labels.write_text("\n".join(NAMES) + "\n")
        names = [f"GENE{place}" for place in range(N_GENES)]
        pd.DataFrame({"feature_name": names, "n_cells": 7}).to_parquet(self.genes)
        self.save()

    def save(self, **beside):
        content = {"state_dict": self.state, "epoch": 3, "hyper_parameters": beside} if self.wrapped else self.state
        torch.save(content, self.file)

    def imported(self, out="model", **how):
        if self.layout == "classifier":
            how.setdefault("labels", self.labels)
        return selfcell.import_checkpoint(self.file, genes=self.genes, out=self.folder / out, **how)

    def embedding(self, expression, *, as_evaluated=False):
        """Write the forward pass out."""
        activation = torch.relu if as_evaluated or self.layout == "classifier" else torch.selu
        linears = [layer for layer in self.encoder if isinstance(layer, nn.Linear)]
        for linear in linears[:-1]:
            expression = activation(expression @ linear.weight.T + linear.bias)
        embedding = expression @ linears[-1].weight.T + linears[-1].bias
        return (embedding.clamp(min=0) if as_evaluated else embedding).detach()


@pytest.fixture
def released(tmp_path):
    return lambda layout, **how: Released(tmp_path, layout, **how)


@pytest.fixture
def expression(cells):
    return torch.from_numpy(log_normalize(cells.counts).toarray())


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_embedding_is_that_of_the_network_as_trained(released, layout, wrapped, cells, expression):
    checkpoint = released(layout, wrapped=wrapped)
    model = checkpoint.imported()
    found = embed_counts(model.encoder, cells.counts)
    np.testing.assert_allclose(found, checkpoint.embedding(expression), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.encoder(expression), checkpoint.embedding(expression), rtol=1e-4, atol=1e-5)
    assert model.encoder.settings.hidden_sizes == HIDDEN and model.manifest["status"] == "finished"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_embedding_is_that_of_the_papers_evaluation_if_asked_for(released, layout, cells, expression):
    checkpoint = released(layout)
    model = checkpoint.imported(as_evaluated_in_paper=True)
    expected = checkpoint.embedding(expression, as_evaluated=True)
    assert (expected == 0).any() and (expected > 0).any()
    for found in (embed_counts(model.encoder, cells.counts), model.encoder(expression)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_decoder_gives_the_papers_output(released, cells, expression):
    checkpoint = released("masked_autoencoder")
    model = checkpoint.imported()
    assert has_decoder(model) and decoder_settings(model).output == "sigmoid"
    expected = checkpoint.decoder(checkpoint.embedding(expression)).sigmoid().detach()
    found = expected_expression(load_autoencoder(model), cells.counts)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_decoders_that_would_give_something_else_are_left_out(released, adata, tmp_path):
    model = released("masked_autoencoder").imported("evaluated", as_evaluated_in_paper=True)
    with pytest.raises(InputError, match=r"imported without its decoder: it decodes the embedding as trained"):
        selfcell.impute(adata, model)
    model = released("negative_binomial").imported("counted")
    with pytest.raises(InputError, match=r"imported without its decoder: its decoder gives two outputs a gene"):
        selfcell.impute(adata, model)
    assert not model.head_state and set(model.manifest["imported"]["left_out"]) == {"decoder.", "px_r"}


@pytest.mark.parametrize("as_evaluated", [False, True])
def test_a_classifier_gives_the_papers_scores(released, cells, expression, as_evaluated):
    checkpoint = released("classifier")
    model = checkpoint.imported(as_evaluated_in_paper=as_evaluated)
    head = classifier_head(model.encoder, n_classes=N_CLASSES).eval()
    head.load_state_dict({key.removeprefix("head."): weight for key, weight in model.head_state.items()})
    expected = checkpoint.embedding(expression).relu() @ checkpoint.head.weight.T + checkpoint.head.bias
    torch.testing.assert_close(head(model.encoder(expression)), expected, rtol=1e-4, atol=1e-5)
    assert model.labels == tuple(NAMES)
    assert set(model.manifest["imported"]["left_out"]) == {"class_weights", "child_lookup"}


def test_a_classifier_annotates_by_its_own_names_and_is_not_evaluated(released, adata, expression, caplog):
    checkpoint = released("classifier")
    adata.var_names = [f"GENE{place}" for place in range(N_GENES)]
    model = checkpoint.imported()
    selfcell.annotate(adata, model)
    scores = checkpoint.embedding(expression).relu() @ checkpoint.head.weight.T + checkpoint.head.bias
    assert list(adata.obs["predicted_type"]) == [NAMES[code] for code in scores.argmax(dim=1)]
    assert "No cells were held out to calibrate the classifier on" in caplog.text
    with pytest.raises(InputError, match=r"was fine-tuned for cell_type"):
        selfcell.evaluate(model, adata, label_key="cell_type")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_folder_says_what_it_is(released, layout, caplog):
    with caplog.at_level("INFO"):
        model = released(layout).imported()
    imported = model.manifest["imported"]
    pretext = {"negative_binomial": "masked_autoencoder", "barlow_twins_trainer": "barlow_twins", "classifier": None}
    assert model.manifest["pretext"] == pretext.get(layout, layout)
    assert all(begin in caplog.text and why in caplog.text for begin, why in imported["left_out"].items())
    assert build(PretrainSettings, read_toml(model.path / "config.toml")).network == model.encoder.settings
    assert not {".safetensors", ".partial"} & {file.suffix for file in model.path.iterdir() if file.name[0] == "."}
    assert repr(load(model.path)) == repr(model)


@pytest.mark.parametrize("layout", ["byol", "simsiam"])
def test_a_last_linear_that_was_never_trained_is_warned_of(released, layout, caplog):
    checkpoint = released(layout)
    assert checkpoint.imported().manifest["imported"]["warning"] in caplog.text
    assert "Its last Linear was never trained" in caplog.text


@pytest.mark.parametrize(
    ("layout", "key"),
    [("byol", "byol.net.3.weight"), ("simsiam", "inner_model.9.bias"), ("barlow_twins_trainer", "inner_model.0.bias")],
)
def test_copies_of_one_weight_must_be_equal(released, layout, key):
    checkpoint = released(layout)
    checkpoint.state[key] = checkpoint.state[key] + 0.01
    checkpoint.save()
    with pytest.raises(InputError, match=r"are one weight, but differ"):
        checkpoint.imported()
    del checkpoint.state[key]
    checkpoint.save()
    with pytest.raises(InputError, match=f"some are missing: {key}"):
        checkpoint.imported()


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("masked_autoencoder", "encoder.3.bias"),
        ("masked_autoencoder", "decoder.0.6.weight"),
        ("classifier", "classifier.0.weight"),
        ("barlow_twins", "backbone.6.bias"),
    ],
)
def test_missing_keys_are_listed_and_refused(released, layout, key):
    checkpoint = released(layout)
    del checkpoint.state[key]
    checkpoint.save()
    with pytest.raises(InputError, match=rf"a\.ckpt: The weights look like .* but some are missing: {key}\."):
        checkpoint.imported()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_left_over_are_listed_and_refused(released, layout):
    checkpoint = released(layout)
    checkpoint.state |= {"extra.weight": torch.zeros(2), f"{next(iter(checkpoint.state))}_more": torch.zeros(2)}
    known = [key for key in checkpoint.state if key.startswith("class_weights")]
    checkpoint.save()
    with pytest.raises(InputError, match=r"of no known use: extra\.weight") as refused:
        checkpoint.imported()
    assert known or "_more" in str(refused.value)
    assert not (checkpoint.folder / "model").exists()


@pytest.mark.parametrize(
    ("layout", "begin", "message"),
    [
        (
            "masked_autoencoder",
            "encoder.9.",
            r"sizes \(8-12-16-20-60\) are not the encoder's backwards \(12-16-20-60\)",
        ),
        ("negative_binomial", "encoder.9.", r"decoder\.0\.0\.weight takes 8 numbers, but the encoder gives 12 there"),
        ("classifier", "classifier.12.", "is of 3 classes, but the last Linear gives 8"),
        ("barlow_twins", "backbone.9.", r"projector\.0\.weight takes 8 numbers, but the encoder gives 12"),
    ],
)
def test_a_lost_last_linear_is_noticed(released, layout, begin, message):
    checkpoint = released(layout)
    checkpoint.state = {key: weight for key, weight in checkpoint.state.items() if not key.startswith(begin)}
    checkpoint.save()
    with pytest.raises(InputError, match=message):
        checkpoint.imported()


def test_weights_that_do_not_fit_or_are_no_numbers_are_refused(released):
    checkpoint = released("masked_autoencoder")
    whole = dict(checkpoint.state)
    for key, weight, message in (
        ("encoder.3.weight", torch.zeros(16, 19), r"encoder\.3 has weights of shape \(16, 19\) .* follow on 20 units"),
        ("encoder.3.bias", torch.full((16,), torch.nan), r"3\.bias are no finite floating-point numbers"),
        ("decoder.0.9.weight", torch.zeros(180, 20), r"decoder\.0\.9 has weights"),
    ):
        checkpoint.state = whole | {key: weight}
        checkpoint.save()
        with pytest.raises(InputError, match=message):
            checkpoint.imported()
    checkpoint.state = {"layers.0.weight": torch.zeros(2, 2)}
    checkpoint.save()
    with pytest.raises(InputError, match=r"of no kind that is known\. They begin layers\.0\.weight; known are .*BYOL"):
        checkpoint.imported()


@pytest.mark.parametrize(
    ("layout", "key", "weight", "message"),
    [
        ("masked_autoencoder", "encoder.2999999997.weight", torch.zeros(2, 2), "of no known use: encoder.2999999997"),
        (
            "masked_autoencoder",
            f"encoder.{'9' * 5000}.weight",
            torch.zeros(2, 2),
            r"of no known use: encoder\.9*\.\.\.",
        ),
        ("masked_autoencoder", "encoder.00.weight", torch.zeros(20, 60), r"of no known use: encoder\.00\.weight"),
        ("masked_autoencoder", "encoder.٣.weight", torch.zeros(16, 20), r"of no known use: encoder\.٣\.weight"),
        ("masked_autoencoder", "encoder.9999.weight", torch.zeros(2, 2), r"some are missing: .* more"),
        ("masked_autoencoder", "encoder.0.weight", torch.zeros(0, 60), "has weights of shape"),
        ("masked_autoencoder", "encoder.0.weight", torch.zeros(()), "has weights of shape"),
        ("masked_autoencoder", "encoder.0.bias", torch.zeros(()), "biases of"),
        ("masked_autoencoder", "encoder.0.bias", torch.zeros(20, dtype=torch.float8_e4m3fn), "no finite floating"),
        ("masked_autoencoder", "encoder.0.weight", torch.zeros(1).expand(20, 60), r"0\.weight is no plain array"),
        ("masked_autoencoder", "encoder.0.weight", torch.zeros(20, 60, device="meta"), "is no plain array"),
        ("masked_autoencoder", "encoder.0.weight", torch.zeros(20, 60).to_sparse(), "is no plain array"),
        ("classifier", "class_weights", torch.zeros(()), "is of no classes"),
        ("barlow_twins", "projector.0.weight", torch.zeros(()), "takes no numbers"),
        ("byol", "byol.net.0.bias", torch.zeros(20, dtype=torch.float64), "are one weight, but differ"),
    ],
)
def test_hostile_keys_and_shapes_are_refused_at_once(released, layout, key, weight, message):
    checkpoint = released(layout)
    checkpoint.state[key] = weight
    checkpoint.save()
    with pytest.raises(InputError, match=message):
        checkpoint.imported()


def test_weights_larger_than_the_file_are_refused(released):
    """Expanded, or under many names, some numbers would fill any memory."""
    checkpoint = released("masked_autoencoder")
    whole = dict(checkpoint.state)
    checkpoint.state = whole | {"encoder.0.weight": torch.zeros(1, 1).expand(10**6, 10**6)}
    checkpoint.save()
    with pytest.raises(InputError, match=r"encoder\.0\.weight is no plain array with a value in the file for each"):
        checkpoint.imported()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a nested tensor, that it may change
        checkpoint.state = whole | {"encoder.0.weight": torch.nested.nested_tensor([torch.zeros(2)])}
    checkpoint.save()
    with pytest.raises(InputError, match=r"encoder\.0\.weight is no plain array"):
        checkpoint.imported()
    weight, bias = torch.zeros(60, 60), torch.zeros(60)
    checkpoint.state = {
        f"encoder.{3 * place}.{part}": value
        for place in range(50)
        for part, value in (("weight", weight), ("bias", bias))
    } | {"decoder.0.0.weight": weight, "decoder.0.0.bias": bias}
    checkpoint.save()
    with pytest.raises(InputError, match="stand for several Linears at once"):
        checkpoint.imported()


def test_many_keys_take_no_longer_for_each(released):
    checkpoint = released("masked_autoencoder")
    checkpoint.state |= {f"more.{place}": torch.zeros(()) for place in range(20_000)}
    begun = time.perf_counter()
    with pytest.raises(InputError, match=r"of no known use: more\.0, .* and 19994 more"):
        recognize(checkpoint.state)
    assert time.perf_counter() - begun < 5


DTYPES = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
BEGINS = st.sampled_from(sorted({begin for kind in KINDS for begin in (kind.encoder, *kind.marks, *kind.left_out)}))
PLACES = st.one_of(
    st.integers(0, 12).map(str), st.sampled_from(["00", "-3", "9999", "1e3", "٣", "9" * 5000, "", "0.3"])
)
KEYS = st.one_of(
    st.builds("{}{}.{}".format, BEGINS, PLACES, st.sampled_from(["weight", "bias", "weight.weight", ""])),
    st.sampled_from(["class_weights", "child_lookup", "px_r", "projector.0.weight", "decoder.0.0.weight"]),
    st.text(max_size=8),
)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.sampled_from([0, 1, 3, 8, 12, 60]), max_size=3))
    weight = torch.zeros(shape, dtype=draw(DTYPES))
    kind = draw(st.sampled_from(["plain", "plain", "expanded", "meta", "sparse", "shared", "parameter"]))
    if kind == "expanded":
        return torch.zeros(1).expand(10**6, 10**6)
    if kind == "meta":
        return weight.to("meta")
    if kind == "sparse":
        return torch.zeros(3, 3).to_sparse()
    if kind == "shared":
        return SHARED[:3, :8]
    return nn.Parameter(weight, requires_grad=False) if kind == "parameter" else weight


SHARED = torch.ones(12, 60)


@settings(max_examples=200, deadline=2000)
@given(
    layout=st.sampled_from(LAYOUTS),
    lost=st.sets(st.integers(0, 40), max_size=3),
    changed=st.dictionaries(st.one_of(KEYS, st.integers(0, 40)), tensors(), max_size=5),
)
def test_any_state_dict_is_recognized_or_refused_in_words(tmp_path_factory, layout, lost, changed):
    state = dict(STATES[layout])
    names = list(state)
    for place in lost:
        state.pop(names[place % len(names)], None)
    state |= {names[key % len(names)] if isinstance(key, int) else key: weight for key, weight in changed.items()}
    file = tmp_path_factory.getbasetemp() / "any.ckpt"
    torch.save(state, file)
    try:
        found = recognize(read_state_dict(file))
    except InputError:
        return
    assert min(found.widths) > 0 and len(found.encoder) == 2 * (len(found.widths) - 1)


def test_a_path_tells_nothing(released):
    """The authors' own loader went by words in the path."""
    checkpoint = released("masked_autoencoder")
    checkpoint.file = checkpoint.file.rename(checkpoint.folder / "BYOL-bt-backbone.ckpt")
    assert checkpoint.imported().manifest["imported"]["layout"] == "masked autoencoder"


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_file_is_refused_and_never_runs(released, tmp_path):
    checkpoint, mark = released("masked_autoencoder"), tmp_path / "mark"
    checkpoint.save(trap=Touches(mark))
    files = [checkpoint.file, tmp_path / "older.ckpt", tmp_path / "plain.ckpt"]
    content = {"state_dict": checkpoint.state, "trap": Touches(mark)}
    torch.save(content, files[1], _use_new_zipfile_serialization=False)
    files[2].write_bytes(pickle.dumps(content))
    for file in files:
        for allow_numpy in (False, True):
            with pytest.raises(InputError, match=r"\.ckpt (holds more than weights|is cut short)"):
                selfcell.import_checkpoint(
                    file, genes=checkpoint.genes, out=tmp_path / "model", allow_numpy=allow_numpy
                )
    assert not mark.exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize("core", ["core", "_core"])
def test_values_of_numpy_are_read_only_if_allowed(released, core):
    """Numpy 1 and 2 name what makes them differently."""
    checkpoint = released("masked_autoencoder")
    checkpoint.save(lr=np.float64(0.001), n=np.int64(3), means=np.zeros(3))
    with zipfile.ZipFile(checkpoint.file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint.file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b"numpy._core.", f"numpy.{core}.".encode()))
    with pytest.raises(InputError, match=r"values of numpy beside its weights \(.*\), .*: --allow-numpy"):
        checkpoint.imported()
    assert has_decoder(checkpoint.imported(allow_numpy=True))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([{"a": 1}], dtype=object), "Object"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "DateTime64"),
        (np.zeros(1, dtype=[("a", "f4")]), "Void"),
    ],
)
def test_values_of_numpy_that_are_never_read_are_named(released, value, kind):
    checkpoint = released("masked_autoencoder")
    checkpoint.save(value=value)
    with pytest.raises(InputError, match=r"--allow-numpy \(allow_numpy=True\)\. Numbers and text alone are allowed"):
        checkpoint.imported()
    with pytest.raises(InputError, match=rf"of a kind that is never read \({kind}\).*take the weights out"):
        checkpoint.imported(allow_numpy=True)


def test_other_classes_are_named_with_the_way_out(released):
    checkpoint = released("masked_autoencoder")
    checkpoint.save(network=nn.Bilinear, activation=nn.SELU)
    for how in ({}, {"allow_numpy": True}):
        with pytest.raises(
            InputError, match=r"weights and plain data \(torch\.nn\S+Bilinear\)\. Reading.*weights_only=False"
        ):
            checkpoint.imported(**how)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_that_lightning_keeps_may_name_classes_of_torch(released, layout, cells, expression):
    """The paper's Barlow Twins keeps all of its arguments but the number of genes, its optimizer's class among them."""
    checkpoint = released(layout)
    checkpoint.save(
        optimizer=torch.optim.AdamW,
        activation=nn.SELU,
        lr_scheduler=torch.optim.lr_scheduler.StepLR,
        learning_rate=1e-3,
        lambda_param=5e-3,
    )
    found = embed_counts(checkpoint.imported().encoder, cells.counts)
    np.testing.assert_allclose(found, checkpoint.embedding(expression), rtol=1e-4, atol=1e-5)


class Called:
    """Pickled as a call of a class of torch."""

    def __reduce__(self):
        return torch.optim.SGD, ([], 0.1)


def test_classes_that_a_file_names_are_not_called(released, monkeypatch):
    checkpoint = released("barlow_twins")
    for beside in (nn.PReLU(3), Called()):
        checkpoint.save(activation=beside)
        for made in (nn.PReLU, torch.optim.SGD):
            monkeypatch.setattr(made, "__init__", lambda *_, **__: pytest.fail("made"))
            monkeypatch.setattr(made, "__setstate__", lambda *_, **__: pytest.fail("made"))
        if isinstance(beside, Called):
            with pytest.raises(InputError, match="cut short, or no file that torch wrote"):
                checkpoint.imported("called")
        else:
            checkpoint.imported()
        monkeypatch.undo()


def test_files_that_cannot_be_read_say_what_to_do(released, tmp_path):
    checkpoint = released("masked_autoencoder")
    whole = checkpoint.file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"<html>Not found</html>", b"version https://git-lfs"):
        checkpoint.file.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.ckpt is cut short, or no file that torch wrote .*Download it again"):
            checkpoint.imported()
    for content in (torch.zeros(3), {"epoch": 3}, {}, {"state_dict": [1]}, {3: torch.zeros(3)}):
        torch.save(content, checkpoint.file)
        with pytest.raises(InputError, match="holds no weights by name"):
            checkpoint.imported()
    with pytest.raises(InputError, match="There is no file"):
        selfcell.import_checkpoint(tmp_path / "none.ckpt", genes=checkpoint.genes, out=tmp_path / "model")


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(released):
    checkpoint = released("masked_autoencoder")
    checkpoint.imported()
    with pytest.raises(InputError, match="exists already"):
        checkpoint.imported()
    assert checkpoint.imported(overwrite=True, as_evaluated_in_paper=True).encoder.settings.rectify_embedding


IDS = [f"ENSG{place:011d}" for place in range(N_GENES)]
SYMBOLS = [f"GENE{place}" for place in range(N_GENES)]


@pytest.mark.parametrize(
    ("table", "ids", "symbols"),
    [
        (pd.DataFrame({"feature_name": SYMBOLS}), SYMBOLS, SYMBOLS),
        (pd.DataFrame({"feature_name": SYMBOLS, "feature_id": IDS}), IDS, SYMBOLS),
        (pd.DataFrame({"feature_name": SYMBOLS}, index=IDS), IDS, SYMBOLS),
        (pd.DataFrame({"feature_id": IDS}), IDS, [""] * N_GENES),
        (pd.DataFrame({"n": 1}, index=SYMBOLS), SYMBOLS, SYMBOLS),
        (pd.DataFrame({"id": IDS, "symbol": SYMBOLS}), IDS, SYMBOLS),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_genes_are_named_by_ids_and_symbols(released, table, ids, symbols, kind):
    checkpoint = released("masked_autoencoder")
    checkpoint.genes = checkpoint.folder / f"genes.{kind}"
    if kind == "parquet":
        table.to_parquet(checkpoint.genes)
    else:
        table.to_csv(checkpoint.genes, index=not isinstance(table.index, pd.RangeIndex))
    genes = checkpoint.imported().genes
    assert list(genes.ids) == ids and list(genes.symbols) == symbols


def test_genes_that_do_not_fit_are_refused(released, tmp_path):
    checkpoint = released("masked_autoencoder")
    for table, message in (
        (pd.DataFrame({"feature_name": SYMBOLS[1:]}), r"has 59 genes, but the network takes 60"),
        (pd.DataFrame({"count": range(N_GENES)}), r"no column names genes.*There are count\."),
        (pd.DataFrame({"feature_name": [*SYMBOLS[1:], "GENE1"]}), r"genes\.parquet: 1 gene names stand more than once"),
    ):
        checkpoint.genes = tmp_path / "genes.parquet"
        table.to_parquet(checkpoint.genes)
        with pytest.raises(InputError, match=message):
            checkpoint.imported()
    for name, content, message in (
        ("genes.parquet", b"no table", "is damaged, or cut short"),
        ("genes.txt", b"GENE1", r"must be a \.parquet or \.csv file"),
    ):
        checkpoint.genes = tmp_path / name
        checkpoint.genes.write_bytes(content)
        with pytest.raises(InputError, match=message):
            checkpoint.imported()
    assert not (checkpoint.folder / "model").exists()


def test_names_of_types_come_from_text_or_a_column(released, tmp_path):
    checkpoint = released("classifier")
    pd.DataFrame({"label": NAMES, "n": 1}).to_parquet(tmp_path / "types.parquet")
    pd.DataFrame({"anything": NAMES}).to_csv(tmp_path / "types.csv", index=False)
    for name in ("types.parquet", "types.csv"):
        assert checkpoint.imported(labels=tmp_path / name, overwrite=True).labels == tuple(NAMES)


def test_names_of_types_that_do_not_fit_are_refused(released, tmp_path):
    checkpoint = released("classifier")
    with pytest.raises(InputError, match=r"a classifier of 3 types, whose names it does not hold.*--labels FILE"):
        checkpoint.imported(labels=None)
    for text, message in (
        ("a\nb", "has 2 names, but the classifier has 3 types"),
        ("a\nb\nb", "has 'b' more than once"),
        ("a\n\nb", "has an empty name"),
    ):
        checkpoint.labels.write_text(text)
        with pytest.raises(InputError, match=message):
            checkpoint.imported()
    pd.DataFrame({"one": NAMES, "two": NAMES}).to_csv(tmp_path / "types.csv", index=False)
    with pytest.raises(InputError, match="has the columns one, two: call the one with the names of types 'label'"):
        checkpoint.imported(labels=tmp_path / "types.csv")
    with pytest.raises(InputError, match=r"names the types of a classifier, but .* of kind BYOL"):
        released("byol").imported(labels=checkpoint.labels)


def test_an_imported_model_is_used_like_any_other(released, adata, tmp_path):
    adata.var_names = SYMBOLS
    model = released("masked_autoencoder").imported()
    selfcell.embed(adata, model)
    assert adata.uns["selfcell"]["X_selfcell"]["model_data_fingerprint"] == model.manifest["imported"]["sha256"]
    adata.write_h5ad(tmp_path / "embedded.h5ad")

    query = adata[200:].copy()
    selfcell.annotate(query, model, reference=adata[:200].copy(), label_key="cell_type", donor_key="donor")
    assert set(query.obs["predicted_type"]) <= set(adata.obs["cell_type"])
    selfcell.impute(query, model)
    assert query.layers["imputed"].min() >= 0 and query.layers["imputed"].max() <= 1

    quick = {"training": {"max_epochs": 1, "device": "cpu"}}
    how = {"settings": quick, "show_progress": False}
    typed = selfcell.finetune(model, adata, label_key="cell_type", out=tmp_path / "typed", **how)
    assert typed.encoder.settings == model.encoder.settings and typed.labels is not None
    decoding = selfcell.finetune(model, adata, task="reconstruction", out=tmp_path / "decoding", **how)
    assert decoder_settings(decoding).output == "sigmoid"

    scores = selfcell.evaluate(
        model,
        adata,
        label_key="cell_type",
        donor_key="donor",
        regimes=("zero_shot",),
        baselines=(),
        n_seeds=1,
        jobs=1,
        out=tmp_path / "judged",
        show_progress=False,
    )
    assert set(scores["method"]) == {"zero_shot"}
    about = json.loads((tmp_path / "judged" / "study.json").read_text())
    assert about["has_seen"] is None
    assert "imported checkpoint, which does not say which cells it was trained on" in about["seen_note"]
    selfcell.report(tmp_path / "judged")
    with pytest.raises(InputError, match="was imported from a checkpoint, which has no curves to draw"):
        selfcell.report(model.path)


@pytest.mark.parametrize("layout", ["negative_binomial", *CONTRASTIVE])
def test_encoders_of_every_layout_go_all_the_way(released, layout, adata, tmp_path):
    adata.var_names = SYMBOLS
    model = released(layout).imported(as_evaluated_in_paper=layout != "byol")
    query, reference = adata[200:].copy(), adata[:200].copy()
    selfcell.annotate(query, model, reference=reference, label_key="cell_type", donor_key="donor")
    how = {"label_key": "cell_type", "donor_key": "donor", "show_progress": False}
    how["settings"] = {"training": {"max_epochs": 1, "device": "cpu"}}
    typed = selfcell.finetune(model, adata, out=tmp_path / "typed", **how)
    assert typed.encoder.settings == model.encoder.settings
    scores = selfcell.evaluate(model, adata, baselines=(), n_seeds=1, jobs=1, **how)
    assert set(scores["method"]) == set(REGIMES) and scores["value"].notna().all()


def test_a_plan_judges_an_imported_model_in_every_regime(released, adata, tmp_path):
    adata.var_names = SYMBOLS
    adata.write_h5ad(tmp_path / "cells.h5ad")
    checkpoint = released("masked_autoencoder")
    imported = checkpoint.imported()
    plan = {
        "name": "imported",
        "seeds": {"pretraining": [0], "finetuning": [0]},
        "cells": {"made": {"source": "cells.h5ad", "label": "cell_type", "donor": "donor"}},
        "models": {"masks": {"source": "model"}},
        "targets": {
            "types": {
                "title": "Types",
                "cells": "made",
                "regimes": sorted(REGIMES),
                "baselines": [],
                "budgets": [{"max_epochs": 1}],
            }
        },
    }
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan))
    scores = run_benchmark(
        tmp_path / "plan.toml", out=tmp_path / "bench", workplace=Workplace(jobs=1, show_progress=False)
    )
    judged = scores[scores["metric"] == "macro_f1"]
    assert set(judged["method"]) == set(REGIMES) and judged["value"].notna().all() and judged["error"].isna().all()
    assert set(judged["encoder"]) == {"masks"} and set(judged["pretext"]) == {"masked_autoencoder"}
    (study,) = (tmp_path / "bench").glob("studies/*/*/study.json")
    about = json.loads(study.read_text())
    assert about["has_seen"] is None and about["weights"] == [imported.weights_digest]


def test_a_classifier_is_fine_tuned_further_and_no_plan_judges_it(released, adata, tmp_path):
    adata.var_names = SYMBOLS
    model = released("classifier").imported()
    quick = {"training": {"max_epochs": 1, "device": "cpu"}}
    typed = selfcell.finetune(
        model, adata, label_key="cell_type", out=tmp_path / "typed", settings=quick, show_progress=False
    )
    assert set(typed.labels) == set(adata.obs["cell_type"]) and typed.encoder.settings == model.encoder.settings
    assert typed.manifest["start"] == str(model.path) and typed.weights_digest != model.weights_digest
    adata.write_h5ad(tmp_path / "cells.h5ad")
    plan = {
        "name": "imported",
        "cells": {"made": {"source": "cells.h5ad", "label": "cell_type", "donor": "donor"}},
        "models": {"typed": {"source": "model"}},
        "targets": {"types": {"title": "Types", "cells": "made"}},
    }
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan))
    with pytest.raises(InputError, match=r"\[models\.typed\].*was fine-tuned.* Evaluate the pre-trained checkpoint"):
        run_benchmark(tmp_path / "plan.toml", out=tmp_path / "bench", workplace=Workplace(jobs=1, show_progress=False))
