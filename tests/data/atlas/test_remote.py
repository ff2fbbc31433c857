"""An atlas behind a URL: the same cells as from the folder, few requests, and what happens when the server fails."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import selfcell
from selfcell.core.errors import InputError
from selfcell.data.atlas import remote_files
from selfcell.data.atlas.block_cache import BLOCK_BYTES, WHOLE, BlockCache, DiskBlocks, stretches
from selfcell.data.atlas.build import build_atlas
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.atlas.index import is_url
from selfcell.data.buffers import BufferPool
from selfcell.data.loader import CellLoader
from selfcell.data.order import BlockOrder
from selfcell.data.schedule import Schedule
from selfcell.data.streamed import StreamedCells
from selfcell.training.bottleneck import measure_pace
from selfcell.training.settings import PretrainSettings


def _web() -> ModuleType:
    place = Path(__file__).parent / "web.py"
    spec = importlib.util.spec_from_file_location("selfcell_test_web", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


serving = _web().serving


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote_files, "FIRST_WAIT", 0.001)


@pytest.fixture(params=["none", "lz4"])
def atlas(request, tmp_path, disk):
    disk.write_cells(tmp_path / "a.h5ad", n_cells=700, flag=[True, False] * 350, label=[f"x{i}" for i in range(700)])
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", codec=request.param, shard_cells=200)
    return tmp_path / "atlas"


def minibatches_of(cells: StreamedCells, *, n_threads: int = 0, epochs: int = 1) -> list[Any]:
    order = BlockOrder(cells.rows.boundaries, cells.subset, shuffle_seed=1, block_size=16, buffer_size=128)
    codes = {"kind": cells.coded("kind", role="label").codes}
    loader = CellLoader(cells.rows, Schedule(order, 64), codes=codes, n_threads=n_threads)
    return [
        (minibatch.counts().clone(), minibatch.codes["kind"].clone()) for _ in range(epochs) for minibatch in loader
    ]


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("n_threads", [0, 3])
def test_minibatches_are_those_of_the_folder_cell_by_cell(atlas, n_threads):
    local = minibatches_of(open_atlas(atlas))
    with serving(atlas) as server:
        cells = open_atlas(server.url)
        assert same(minibatches_of(cells, n_threads=n_threads), local)
        n_asked = len(server.asked)
        assert same(minibatches_of(cells, n_threads=n_threads), local)
        assert len(server.asked) == n_asked, "the second epoch is in memory"
    assert cells.fingerprint() == open_atlas(atlas).fingerprint()


def test_a_query_chooses_the_same_cells(atlas):
    query = "kind == 'kind1' and flag and size > 20"
    with serving(atlas) as server:
        near, far = open_atlas(atlas).where(query), open_atlas(server.url + "/").where(query)
        np.testing.assert_array_equal(near.subset.positions(), far.subset.positions())
        assert near.obs.table(near.subset).equals(far.obs.table(far.subset))


def test_a_server_that_fails_now_and_then_is_asked_again(atlas):
    with serving(atlas, fail_every=3) as server:
        assert same(minibatches_of(open_atlas(server.url), n_threads=2), minibatches_of(open_atlas(atlas)))


def test_a_server_that_goes_away_ends_in_words(atlas):
    with serving(atlas) as server:
        cells = open_atlas(server.url)
    with pytest.raises(InputError, match=r"cannot be read .*--resume"):
        minibatches_of(cells, n_threads=2)


def test_no_server_no_atlas_and_no_permission_end_in_words(atlas, monkeypatch):
    with serving(atlas) as server:
        url = server.url
        with pytest.raises(InputError, match=r"is not an atlas: there is no atlas\.json"):
            open_atlas(f"{url}/elsewhere")
        server.fail_every, server.status = 1, 403
        with pytest.raises(InputError, match=r"may not be read \(HTTP 403"):
            open_atlas(url)
        assert server.asked[-1] == "GET /atlas.json" and server.asked[-2] != server.asked[-1], "asked once"
        server.status = 500
        with pytest.raises(InputError, match=r"cannot be read \(HTTP 500"):
            open_atlas(url)
    with pytest.raises(InputError, match=r"atlas\.json cannot be read \(Cannot connect"):
        open_atlas(url)
    with pytest.raises(InputError, match="Protocol not known: gopher"):
        open_atlas("gopher://127.0.0.1/atlas")
    with pytest.raises(InputError, match=r"not installed: pip install gcsfs"):
        open_atlas("gs://bucket/atlas")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setattr("fsspec.core.url_to_fs", _raising(ImportError("no aiohttp")))
    with pytest.raises(InputError, match=r"in a clone of selfcell, pip install '\.\[remote\]'"):
        open_atlas(url)


def _raising(error: Exception) -> Any:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_a_server_without_ranges_and_a_truncated_file_are_refused(tmp_path, disk):
    disk.write_cells(tmp_path / "a.h5ad", n_cells=3000)
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=3000)
    pool, atlas = BufferPool(), tmp_path / "atlas"
    with serving(atlas, ranges=False) as server, pytest.raises(InputError, match="HTTP Range"):
        open_atlas(server.url).rows.read(np.array([2990]), pool)
    data = atlas / "shards" / "000000.zarr" / "X" / "indices" / "c" / "0"
    data.write_bytes(data.read_bytes()[:1000])
    with serving(atlas) as server, pytest.raises(InputError, match="is too short: it is truncated"):
        open_atlas(server.url).rows.read(np.arange(3000), pool)


def test_what_was_fetched_is_kept_on_disk_for_the_next_run(atlas, tmp_path):
    with serving(atlas) as server:
        first = minibatches_of(open_atlas(server.url, cache_folder=tmp_path / "kept"))
        n_asked = len(server.asked)
        again = minibatches_of(open_atlas(server.url, cache_folder=tmp_path / "kept"))
        assert same(first, again)
        new = [line for line in server.asked[n_asked:] if "atlas.json" not in line and "HEAD" not in line]
        assert not new
    with pytest.raises(InputError, match="cache folder is for an atlas behind a URL"):
        open_atlas(atlas, cache_folder=tmp_path / "kept")


def test_damage_on_disk_is_noticed_and_another_shard_is_another(tmp_path):
    kept = DiskBlocks(tmp_path, {"000000.zarr": "000000.zarr-abc"})
    key, last = ("shards/000000.zarr/X/data/c/0", 3), ("shards/000000.zarr/X/data/c/0", 5)
    block = bytes(range(256)) * (BLOCK_BYTES // 256)
    kept.put(key, block)
    kept.put(last, b"end")
    kept.put(("atlas.json", WHOLE), b"all")
    assert kept.get(key) == block and kept.get(last) == b"end" and kept.get((key[0], 4)) is None
    assert kept.get(("atlas.json", WHOLE)) == b"all"
    assert DiskBlocks(tmp_path, {}).get(key) is None
    file = next(tmp_path.rglob("0.blocks"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert kept.get(last) is None and kept.get(key) == block


def test_a_full_disk_is_told_once_and_gone_on_without(tmp_path, caplog):
    (tmp_path / "file").touch()
    kept = DiskBlocks(tmp_path / "file", {})
    for place in range(2):
        kept.put(("a", place), b"block")
    assert caplog.text.count("Nothing more is kept in") == 1 and kept.get(("a", 0)) is None


def test_the_memory_of_the_cache_is_bounded_and_the_oldest_go_first():
    cache = BlockCache(max_bytes=1000)
    for place in range(20):
        cache.put(("a", place), bytes(100))
        cache.get(("a", 0))
        assert cache.n_bytes <= 1000
    assert cache.get(("a", 0)) is not None and cache.get(("a", 19)) is not None and cache.get(("a", 5)) is None
    cache.put(("a", 19), bytes(50))
    assert cache.n_bytes == 950


def test_neighbouring_blocks_are_fetched_together():
    keys = [("b", 1), ("a", 3), ("a", 1), ("a", 2), ("a", 5), ("a", 2)]
    assert [list(run) for run in stretches(keys, most=10)] == [
        [("a", 1), ("a", 2), ("a", 3)],
        [("a", 5)],
        [("b", 1)],
    ]
    assert [len(run) for run in stretches([("a", place) for place in range(5)], most=2)] == [2, 2, 1]


def test_requests_are_few_and_wait_side_by_side(tmp_path, disk):
    disk.write_cells(tmp_path / "a.h5ad", n_cells=2000)
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=200)
    with serving(tmp_path / "atlas", latency=0.1) as server:
        cells = open_atlas(server.url)
        n_asked = len(server.asked)
        # More threads may now and then fetch a block both at the same moment.
        minibatches_of(cells, n_threads=1)
        beside = server.beside[n_asked:]
        n_asked = len(server.asked) - n_asked
    n_shards = len(cells.rows.boundaries) - 1
    assert n_shards >= 8
    assert n_asked <= 5 * n_shards, "an index, genes, counts, codes and their description of each shard, once"
    assert max(beside) > 2 and sum(number > 1 for number in beside) > n_asked / 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [("https://a/b", True), ("s3:/a", True), (Path("https://a/b"), True), ("C:/a", False), ("a/b:c", False)],
)
def test_a_url_is_known_even_when_its_slashes_are_merged(path, expected):
    assert is_url(path) is expected


def test_training_and_embedding_from_a_url_are_those_from_the_folder(tmp_path, disk, small_settings):
    disk.write_cells(tmp_path / "a.h5ad", n_cells=300, donor=[f"d{place % 5}" for place in range(300)])
    build_atlas([tmp_path / "a.h5ad"], tmp_path / "atlas", shard_cells=100)
    settings = small_settings.model_dump(mode="json")
    near = selfcell.pretrain(tmp_path / "atlas", settings, out=tmp_path / "near", show_progress=False)
    settings["data"]["cache_folder"] = str(tmp_path / "kept")
    with serving(tmp_path / "atlas") as server:
        far = selfcell.pretrain(server.url, settings, out=tmp_path / "far", show_progress=False)
        first = selfcell.embed_atlas(tmp_path / "atlas", near)
        second = selfcell.embed_atlas(server.url, far)
        pace = measure_pace(server.url, PretrainSettings.model_validate(settings), seconds=0.3)
    assert far.manifest["fit"]["validation_loss"] == near.manifest["fit"]["validation_loss"]
    np.testing.assert_array_equal(first.obsm["X_selfcell"], second.obsm["X_selfcell"])
    assert pace.source == "remote atlas"
    with pytest.raises(InputError, match=r"data\.cache_folder"):
        selfcell.pretrain(tmp_path / "a.h5ad", settings, out=tmp_path / "file", show_progress=False)


def test_credentials_in_a_url_are_not_shown() -> None:
    files = remote_files.RemoteFiles("https://user:secret@127.0.0.1:9/atlas")
    assert files.url == "https://127.0.0.1:9/atlas"
