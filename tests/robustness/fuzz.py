"""Readers under a fuzzer that is guided by coverage: it keeps what reaches new lines, and changes it further.

pip install atheris                              # for Python 3.11, on Linux
python tests/robustness/fuzz.py --list
python tests/robustness/fuzz.py --seconds 600    # each reader in turn
python tests/robustness/fuzz.py sets.gmt where --seconds 3600 --corpus fuzzed

A reader may read its input, or refuse it by an ``InputError``. All else ends it, and the input is in the folder of the
corpus, as ``crash-...``; ``python tests/robustness/fuzz.py sets.gmt --again FILE`` runs it once more.
"""

import argparse
import io
import itertools
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["selfcell"]):
    import numpy as np
    import pandas as pd
    import torch

    from selfcell.benchmark.plan import read_plan
    from selfcell.core.config import build, read_toml, with_overrides
    from selfcell.core.errors import InputError
    from selfcell.core.words import seconds_of
    from selfcell.data.atlas.census_query import refuse_bad_grammar
    from selfcell.data.atlas.index import parse_index
    from selfcell.data.obs_query import query_mask
    from selfcell.training.paper_checkpoint import recognize
    from selfcell.training.paper_layouts import LAYOUTS, Layout
    from selfcell.training.run_folder import read_manifest
    from selfcell.training.settings import PretrainSettings
    from selfcell.training.torch_file import read_state_dict

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OBS = pd.DataFrame({"a": ["x", "y", "z"], "n": [1.0, 2.0, np.nan], "b c": pd.Categorical(["u", "v", "u"])})


def _checkpoints() -> list[bytes]:
    """Give a small checkpoint of each layout."""
    found = []
    for layout in LAYOUTS:
        content = io.BytesIO()
        torch.save({"state_dict": _state(layout), "epoch": 3}, content)
        found.append(content.getvalue())
    return found


def _state(layout: Layout) -> dict[str, torch.Tensor]:
    widths = (4, 3, 2, 2)
    stacks = dict.fromkeys((layout.encoder, *layout.copies), widths)
    if layout.decoder is not None:
        stacks[layout.decoder] = widths[::-1]
    state = {begin if begin[-1] != "." else f"{begin}0.weight": torch.zeros(2) for begin in layout.left_out}
    for begin, sizes in stacks.items():
        for place, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            state[f"{begin}{3 * place}.weight"] = torch.zeros(n_out, n_in)
            state[f"{begin}{3 * place}.bias"] = torch.zeros(n_out)
    if layout.reader is not None:
        state[layout.reader.key] = torch.zeros(1, widths[layout.reader.place])
    return state


def _manifest(file: Path) -> None:
    (file.parent / "manifest.json").write_bytes(file.read_bytes())
    read_manifest(file.parent)


def _texts(use: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda file: use(file.read_text(encoding="utf-8", errors="replace"))


def readers() -> dict[str, tuple[list[bytes], Callable[[Path], object]]]:
    """Give by name what a reader begins from, and the reader."""
    found = runpy.run_path(str(HERE / "test_damaged_files.py"))
    tables = {name: ([text.encode()], read) for name, (text, read) in found["TABLES"].items()}
    files = {name: ([content], read) for name, (content, read) in found["BYTES"].items()}
    plans = [path.read_bytes() for path in sorted(ROOT.glob("plans/*.toml"))]
    manifests = [path.read_bytes() for path in sorted(ROOT.glob("tests/golden/*/*/manifest.json"))]
    return {
        **tables,
        **files,
        "plan.toml": (plans, read_plan),
        "config.toml": (files["settings.toml"][0], lambda file: build(PretrainSettings, read_toml(file))),
        "set": ([b"training.max_epochs=3", b"pretext.views=[{name='x'}]"],
                _texts(lambda text: build(PretrainSettings, with_overrides({}, [text])))),
        "where": ([b"a == 'x' and n > 1", b"`b c` in ['u']"], _texts(lambda text: query_mask(OBS, text))),
        "census": ([b"tissue == 'lung' and is_primary_data == True"], _texts(refuse_bad_grammar)),
        "budget": ([b"2h", b"1.5 d"], _texts(lambda text: seconds_of(text, name="budget"))),
        "manifest.json": (manifests, _manifest),
        "atlas.json": ([b'{"format_version": 1, "shards": []}'], _texts(lambda text: parse_index(text, place="a"))),
        "model.ckpt": (_checkpoints(), lambda file: recognize(read_state_dict(file))),
    }  # fmt: skip


def fuzz(name: str, corpus: Path, options: list[str]) -> None:
    """Fuzz a reader; libFuzzer ends the process."""
    warnings.simplefilter("ignore")
    begin, read = readers()[name]
    folder = Path(tempfile.mkdtemp())
    corpus.mkdir(parents=True, exist_ok=True)
    for place, content in enumerate(begin):
        (corpus / f"begin-{place}").write_bytes(content)
    file = folder / (name if "." in name else "given.txt")

    def once(content: bytes) -> None:
        file.write_bytes(content)
        try:
            read(file)
        except InputError:
            return

    options = [f"-max_len={max(4096, *map(len, begin))}", "-rss_limit_mb=6000", *options]
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/", *options], once)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Fuzz what is named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="readers; all if left out")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--corpus", type=Path, default=Path("fuzzed"), help="folder to keep inputs in")
    parser.add_argument("--again", type=Path, help="an input to run once more")
    parser.add_argument("--list", action="store_true", help="names of readers")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.list:
        print("\n".join(readers()))
        return
    if given.here:
        fuzz(given.names[0], given.corpus / given.names[0], [f"-max_total_time={given.seconds}"])
        return
    if given.again:
        readers()[given.names[0]][1](given.again)
        return
    failed = []
    for name in given.names or readers():
        command = [sys.executable, __file__, name, "--here", "--seconds", str(given.seconds), "--corpus", given.corpus]
        failed += [name] if subprocess.run(command, check=False).returncode else []
    print(f"Failed: {', '.join(failed)}" if failed else "Nothing was found.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
