"""To the Hub and back: what travels, what is checked, what is refused."""

import hashlib
import json
import re
import shutil

import huggingface_hub.constants
import numpy as np
import pytest

import selfcell
from selfcell.benchmark.seen import what_was_seen
from selfcell.core.errors import InputError
from selfcell.publishing.contents import public_manifest

MODEL_FILES = {"config.toml", "encoder.safetensors", "genes.csv", "heads.safetensors", "log.csv", "manifest.json"}
PUBLISHED = MODEL_FILES | {"README.md", "sha256.json"}


def embedding_by(model, adata):
    cells = adata.copy()
    selfcell.embed(cells, model)
    return cells.obsm["X_selfcell"]


def no_wait(seconds):
    """The client waits before it asks again."""


def go_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_model_that_went_to_the_hub_and_back_embeds_as_it_did(hub, model, adata):
    address = selfcell.push(model, "lab/blood", license_id="mit")
    assert re.fullmatch(r"lab/blood@[0-9a-f]{40}", address)
    assert set(hub.files("lab/blood")) == PUBLISHED | {".gitattributes"}
    expected = embedding_by(model, adata)
    for name in ("lab/blood", "lab/blood@main", address):
        pulled = selfcell.load(name)
        assert pulled.name == pulled.address == address and address in repr(pulled)
        np.testing.assert_array_equal(embedding_by(pulled, adata), expected)
    selfcell.embed(adata, "lab/blood")
    assert adata.uns["selfcell"]["X_selfcell"]["model"] == address


def test_all_that_was_sent_is_in_the_list_of_hashes(hub, published):
    files = hub.files("lab/blood")
    assert json.loads(files["sha256.json"]) == {name: hashlib.sha256(files[name]).hexdigest() for name in MODEL_FILES}


def test_nothing_tells_donors_cells_or_the_machine_unless_it_is_asked_for(hub, model, published, tmp_path):
    everything = b"".join(hub.files("lab/blood").values())
    assert b"donor 1" not in everything and str(tmp_path.parent).encode() not in everything
    manifest = json.loads(hub.files("lab/blood")["manifest.json"])
    assert "command" not in manifest and manifest["fit"] == model.manifest["fit"]
    pulled = selfcell.load("lab/blood")
    assert pulled.split is None and pulled.known_cells is None

    selfcell.push(model, "lab/blood", license_id="mit", with_cells=True)
    told = selfcell.load("lab/blood")
    assert told.split == model.split and len(told.known_cells.learned_from) == len(model.known_cells.learned_from)

    selfcell.push(model, "lab/blood", license_id="mit")
    assert set(hub.files("lab/blood")) == PUBLISHED | {".gitattributes"}


def test_without_its_cells_a_model_does_not_call_cells_unseen(hub, model, published, cells):
    rows = np.arange(len(cells))
    assert what_was_seen([model], cells, rows).any is True
    seen = what_was_seen([selfcell.load("lab/blood")], cells, rows)
    assert seen.any is None and "Whether pre-training was given the test cells is not known" in seen.sentence()


def test_paths_and_names_of_batches_stay_at_home(model):
    manifest = {"data": {"origin": "/home/ada/secret/cells.h5ad"}, "start": "/home/ada/runs/mae", "batches": ["Ada"]}
    public = {"data": {"origin": "cells.h5ad"}, "start": "mae"}
    assert public_manifest(manifest, with_cells=False) == public
    assert public_manifest(manifest, with_cells=True) == public | {"batches": ["Ada"]}
    settings = {"mask": "programs", "programs": "/home/ada/mine.gmt"}
    assert public_manifest(manifest | {"pretext_settings": settings}, with_cells=False)["pretext_settings"] == {
        "mask": "programs", "programs": "mine.gmt"
    }  # fmt: skip
    pinned = f"lab/blood@{40 * 'a'}"
    assert public_manifest(manifest | {"start": pinned}, with_cells=False)["start"] == pinned
    assert public_manifest({"data": {"origin": "https://me:secret@host/a/b.zarr?key=1"}}, with_cells=False) == {
        "data": {"origin": "b.zarr"}
    }


def test_a_path_in_the_settings_is_warned_of(hub, model, tmp_path, caplog):
    shutil.copytree(model.path, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    config.write_text('origin = "/home/ada/genes.gmt"\n' + config.read_text())
    selfcell.push(tmp_path / "run", "lab/blood", license_id="mit")
    assert 'a path stands in it: "/home/ada/genes.gmt"' in caplog.text


def test_a_folder_of_its_own_is_made_whole_or_not_at_all(hub, model, published, adata, tmp_path):
    out = tmp_path / "mine"
    pulled = selfcell.pull("lab/blood", out=out)
    assert pulled.path == out and pulled.name == published
    assert {file.name for file in out.iterdir()} == PUBLISHED | {".selfcell"}
    np.testing.assert_array_equal(embedding_by(out, adata), embedding_by(model, adata))
    with pytest.raises(InputError, match=r"exists already"):
        selfcell.pull("lab/blood", out=out)

    (out / "mark").touch()
    hub.put("lab/spoiled", {**hub.files("lab/blood"), "log.csv": b"other"})
    with pytest.raises(InputError, match=r"its log\.csv is not the one that was published"):
        selfcell.pull("lab/spoiled", out=out, overwrite=True)
    assert (out / "mark").exists()
    selfcell.pull("lab/blood", out=out, overwrite=True)
    assert not (out / "mark").exists() and not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_folder_that_is_there_wins_over_the_hub(hub, model, published, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model.path, "lab/blood")
    hub.asked.clear()
    assert selfcell.load("lab/blood").address is None and not hub.asked


def test_a_commit_is_the_same_for_ever(hub, model, published, small_settings, adata, tmp_path):
    settings = small_settings.model_copy(update={"training": small_settings.training.model_copy(update={"seed": 5})})
    other = selfcell.pretrain(adata, settings, out=tmp_path / "other", show_progress=False)
    newer = selfcell.push(other, "lab/blood", license_id="mit")
    assert selfcell.load("lab/blood").manifest["seed"] == 5 and newer != published
    np.testing.assert_array_equal(embedding_by(published, adata), embedding_by(model, adata))


def test_another_commit_than_was_asked_for_is_refused(hub, published, monkeypatch, tmp_path):
    def answer_with_another(self, *args, asked=huggingface_hub.HfApi.model_info, **how):
        info = asked(self, *args, **how)
        info.sha = 40 * "a"
        return info

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", answer_with_another)
    with pytest.raises(
        InputError, match=rf"answers for {published} with another commit, a{{40}}: nothing of it is taken"
    ):
        selfcell.pull(published, out=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_card_that_was_edited_on_the_hub_is_taken_as_it_is(hub, published):
    """Hashes are of the model: people write on its card."""
    hub.put("lab/blood", {**hub.files("lab/blood"), "README.md": b"Edited."})
    assert (selfcell.load("lab/blood").path / "README.md").read_bytes() == b"Edited."


def test_a_branch_is_made_and_found(hub, model, published):
    address = selfcell.push(model, "lab/blood@draft", license_id="cc-by-4.0")
    assert selfcell.load("lab/blood@draft").name == address
    assert b'license: "cc-by-4.0"' in hub.files("lab/blood", "draft")["README.md"]
    assert b'license: "mit"' in hub.files("lab/blood")["README.md"]
    with pytest.raises(InputError, match=r"A commit cannot be added to: name a branch, as lab/blood@main"):
        selfcell.push(model, address, license_id="mit")


@pytest.mark.skipif(huggingface_hub.__version__.startswith(("0.", "1.")), reason="version 1 of the client ends at once")
def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, published, model, adata, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 256)
    hub.cuts["encoder.safetensors"] = 1
    np.testing.assert_array_equal(embedding_by("lab/blood", adata), embedding_by(model, adata))
    ranges = [part for method, path, part in hub.asked if method == "GET" and path.endswith("encoder.safetensors")]
    assert ranges[0] is None and re.fullmatch(r"bytes=[1-9]\d+-", ranges[1])


def test_a_pull_that_failed_is_gone_on_with_where_it_was(hub, published, monkeypatch, adata, model, tmp_path):
    monkeypatch.setattr("time.sleep", no_wait)
    hub.cuts["encoder.safetensors"] = 100
    with pytest.raises(
        InputError, match=r"connection to the Hub failed .* Files that came whole are kept: give the sa"
    ):
        selfcell.pull("lab/blood", out=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert "genes.csv" in hub.fetched()
    hub.cuts.clear()
    hub.asked.clear()
    selfcell.pull("lab/blood", out=tmp_path / "mine")
    assert "encoder.safetensors" in hub.fetched() and "genes.csv" not in hub.fetched()
    np.testing.assert_array_equal(embedding_by(tmp_path / "mine", adata), embedding_by(model, adata))


def test_a_file_that_changed_on_the_way_is_refused_and_not_kept(hub, published, adata, model):
    hub.spoiled.add("encoder.safetensors")
    for _ in range(2):
        with pytest.raises(InputError, match=r"its encoder\.safetensors is not the one that was published"):
            selfcell.load("lab/blood")
    hub.spoiled.clear()
    np.testing.assert_array_equal(embedding_by("lab/blood", adata), embedding_by(model, adata))


def test_a_file_that_changed_in_the_cache_is_fetched_again(hub, published, adata, model, monkeypatch):
    file = selfcell.load(published).path / "encoder.safetensors"
    content = file.read_bytes()
    file.resolve().chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    np.testing.assert_array_equal(embedding_by(published, adata), embedding_by(model, adata))
    (file.parent / "sha256.json").write_text("{")
    selfcell.load(published)
    assert file.read_bytes() == content


def test_a_file_that_is_missing_is_told(hub, published):
    files = hub.files("lab/blood")
    hub.put("lab/part", {name: content for name, content in files.items() if name != "heads.safetensors"})
    with pytest.raises(InputError, match=r"its heads\.safetensors is missing \(by sha256\.json\)"):
        selfcell.load("lab/part")


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ({"../../evil.csv": 64 * "a"}, "no list of a model's files"),
        ({"evil.pkl": 64 * "a"}, "no list of a model's files"),
        ({"log.csv": "a"}, "no list of a model's files"),
        (["log.csv"], "no list of a model's files"),
        ({"log.csv": 64 * "a"}, r"does not name manifest\.json, config\.toml"),
    ],
)
def test_a_list_of_hashes_that_is_none_is_refused(hub, published, listing, message):
    hub.put("lab/odd", {**hub.files("lab/blood"), "sha256.json": json.dumps(listing).encode()})
    with pytest.raises(InputError, match=message):
        selfcell.load("lab/odd")


def test_what_else_a_repository_holds_is_not_fetched(hub, published):
    hub.put("lab/more", {**hub.files("lab/blood"), "weights.pkl": b"code", "large.bin": b"0"})
    assert {file.name for file in selfcell.load("lab/more").path.iterdir()} == PUBLISHED
    assert not {"weights.pkl", "large.bin"} & set(hub.fetched())


def test_a_model_of_a_newer_format_says_what_to_upgrade(hub, published):
    files = dict(hub.files("lab/blood"))
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | {"format_version": 99}).encode()
    digests = json.loads(files["sha256.json"]) | {"manifest.json": hashlib.sha256(files["manifest.json"]).hexdigest()}
    hub.put("lab/newer", {**files, "sha256.json": json.dumps(digests).encode()})
    with pytest.raises(InputError, match=r"has run format 99.*pip install --upgrade selfcell"):
        selfcell.pull("lab/newer")


def test_offline_a_commit_in_the_cache_is_enough(hub, published, monkeypatch, adata, model):
    selfcell.pull("lab/blood")
    hub.asked.clear()
    go_offline(monkeypatch)
    np.testing.assert_array_equal(embedding_by(published, adata), embedding_by(model, adata))
    assert not hub.asked
    with pytest.raises(InputError, match=rf"which commit lab/blood stands for only the Hub knows. .* is {published}"):
        selfcell.load("lab/blood")
    other = f"lab/blood@{40 * 'a'}"
    with pytest.raises(
        InputError, match=rf"not in the cache, which has {published}. Fetch it first: selfcell pull {other}"
    ):
        selfcell.load(other)
    with pytest.raises(InputError, match=r"no model of lab/none is in the cache. Fetch it first: selfcell pull lab"):
        selfcell.load("lab/none")
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set: unset it"):
        selfcell.push(model, "lab/blood", license_id="mit")


def test_a_commit_in_the_cache_needs_no_hub(hub, published):
    selfcell.load(published)
    hub.is_broken = True
    hub.asked.clear()
    assert selfcell.load(published).name == published and not hub.asked


def test_where_nothing_answers_it_is_said(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", no_wait)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no run folder 'lab/none' here\. .* The connection to the Hub failed"):
        selfcell.load("lab/none")
    hub.is_broken = True
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    with pytest.raises(InputError, match=r"The Hub is busy or out of order \(503\)"):
        selfcell.pull("lab/none")


def test_what_is_not_there_is_told_from_what_is_private(hub, published, monkeypatch):
    both = r"There is no run folder 'lab/none' here\. Taken for a model on the Hub: The Hub has no repository lab/none,"
    with pytest.raises(InputError, match=both):
        selfcell.load("lab/none")
    with pytest.raises(InputError, match=r"lab/blood has no revision 'v2': name a branch"):
        selfcell.load("lab/blood@v2")
    with pytest.raises(InputError, match=r"has no revision 'aaaa"):
        selfcell.load(f"lab/blood@{40 * 'a'}")
    hub.repositories["lab/blood"].private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"it is private and no token was given that may read it.*hf auth login"):
        selfcell.pull("lab/blood")
    hub.repositories["lab/blood"].private = False
    hub.asks_for_consent = True
    with pytest.raises(InputError, match=r"lab/blood asks for consent first"):
        selfcell.pull("lab/blood")


@pytest.mark.parametrize("name", ["blood", "lab/blood/more", "/lab/blood", "lab/bl--ood", "lab/", "lab/blood.git", ""])
def test_what_cannot_be_a_name_is_not_asked_for(hub, name):
    if name:
        with pytest.raises(InputError, match=r"There is no run folder .*\. Nor can that be the name of a model on the"):
            selfcell.load(name)
    with pytest.raises(InputError, match=r"is no name of a repository on the Hub, which is org/name"):
        selfcell.pull(name)
    assert not hub.asked


def test_a_repository_of_something_else_is_neither_pulled_nor_pushed_over(hub, model):
    hub.put("lab/other", {"config.json": b"{}", "model.bin": b"0"})
    with pytest.raises(InputError, match=r"no model that selfcell published: the repository has no manifest\.json"):
        selfcell.load("lab/other")
    with pytest.raises(InputError, match=r"did not publish \(config\.json, model\.bin\).*\(--overwrite\)"):
        selfcell.push(model, "lab/other", license_id="mit")
    selfcell.push(model, "lab/other", license_id="mit", overwrite=True)
    assert set(hub.files("lab/other")) == PUBLISHED | {"config.json", "model.bin"}
    selfcell.load("lab/other")


def test_what_must_not_be_seen_is_not_sent_where_it_can_be(hub, model, published):
    with pytest.raises(InputError, match=r"lab/blood is there and public, so --private would not hold"):
        selfcell.push(model, "lab/blood", license_id="mit", private=True)
    selfcell.push(model, "lab/hidden", license_id="mit", private=True)
    assert hub.repositories["lab/hidden"].private and not hub.repositories["lab/blood"].private


def test_without_a_token_that_may_write_nothing_is_sent(hub, model, monkeypatch):
    hub.forbids = True
    with pytest.raises(InputError, match=r"The token that was given does not allow it: log in .* may write lab/blood"):
        selfcell.push(model, "lab/blood", license_id="mit")
    hub.forbids = False
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match=r"The Hub wants a token, or does not take the one it got"):
        selfcell.push(model, "lab/blood", license_id="mit")
    monkeypatch.delenv("HF_TOKEN")
    hub.asked.clear()
    with pytest.raises(
        InputError, match=r"No token of the Hub was found: log in with `hf auth login`, or set HF_TOKEN"
    ):
        selfcell.push(model, "lab/blood", license_id="mit")
    assert not hub.asked and not hub.repositories


def test_a_run_that_is_not_finished_is_not_published(hub, model, tmp_path):
    shutil.copytree(model.path, tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(json.dumps(model.manifest | {"status": "training"}))
    with pytest.raises(InputError, match=r"is not finished"):
        selfcell.push(tmp_path / "run", "lab/blood", license_id="mit")
    assert not hub.asked


@pytest.mark.parametrize("license_id", ["", "  ", "MIT or so", "mit\ntags: x"])
def test_a_licence_is_needed(hub, model, license_id):
    with pytest.raises(InputError, match=r"--license \(license_id\) is .*takes the identifier of a licence"):
        selfcell.push(model, "lab/blood", license_id=license_id)
    assert not hub.asked


def test_a_licence_that_the_hub_does_not_know_is_told(hub, model):
    with pytest.raises(InputError, match=r"The Hub refuses what is sent: Invalid metadata in README\.md\. - no such"):
        selfcell.push(model, "lab/blood", license_id="no-such")


def test_without_the_package_the_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    for ask in (lambda: selfcell.load("lab/blood"), lambda: selfcell.push(model, "lab/blood", license_id="mit")):
        with pytest.raises(InputError, match=r"needs huggingface_hub: in a clone of selfcell, pip install '\.\[hub\]'"):
            ask()


def test_what_was_begun_from_the_hub_names_the_commit(hub, published, adata, tmp_path):
    settings = {"training": {"max_epochs": 1, "device": "cpu"}}
    tuned = selfcell.finetune(
        "lab/blood", adata, label_key="cell_type", out=tmp_path / "typed", settings=settings, show_progress=False
    )
    assert tuned.manifest["start"] == published
    selfcell.push(tuned, "lab/typed", license_id="mit")
    assert selfcell.load("lab/typed").labels == tuned.labels
    assert json.loads(hub.files("lab/typed")["manifest.json"])["start"] == published
