"""Runs commands in processes of their own, and kills each at the nth time that it changes a folder.

Reads a line of JSON a command: ``arguments``, ``watch`` (the folder), ``at`` (the place among the changes; null for
none), ``among`` (which are counted: those with this in their event or path), ``errors`` (a file for what it says; the
number of its process comes beside it, into ``errors.pid``), ``environment`` (variables to set). Answers with a line:
whether it was killed, the exit code, and the changes that it made.

What is counted are the renames, removals and new folders of an audit hook, and the exchanges of two folders: all by
which what others see changes. What is written into files whose names begin with a dot, nobody looks at. Modules are
loaded once, and each command runs in a fork of that: some fifty kills in the time of two starts. Trials are run in that
process too: no other outlives it, and the order of changes is the same each time.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import anndata  # noqa: F401
import torch

import selfcell  # noqa: F401
from selfcell.benchmark import evaluate, maps, run, trials  # noqa: F401
from selfcell.cli import app
from selfcell.data.atlas import build  # noqa: F401
from selfcell.downstream import annotate, embed, export, finetune, impute  # noqa: F401
from selfcell.reporting import html  # noqa: F401
from selfcell.training import import_checkpoint, pretrain  # noqa: F401

CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "shutil.rmtree": 0}
"""Event to the place of the path among its arguments."""


def watch(folder, at, among, made):
    """Have this process end as by ``kill -9`` before its nth change below a folder."""

    def hook(event, arguments):
        # The system's exchange of folders raises no event of its own, but looking for it in the C library does.
        if event == "ctypes.dlsym" and arguments[1] == "renameat2":
            event, path = "exchange", folder
        elif event in CHANGES:
            path = os.fspath(arguments[CHANGES[event]])
            path = path.decode() if isinstance(path, bytes) else path
        else:
            return
        if not os.path.abspath(path).startswith(folder) or among not in f"{event} {path}":  # noqa: PTH100
            return
        if at is not None and len(made) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(f"{event} {path}")

    sys.addaudithook(hook)


def in_this_process(contest, waiting, workplace, *, jobs):
    for place, group in list(waiting.items()):
        yield from ((trial, contest.run_or_fail(trial)) for trial in group)
        waiting.pop(place)


def child(order, pipe):
    made = []
    sys.argv = ["selfcell", *order["arguments"]]
    os.environ.update(order["environment"])
    Path(order["errors"]).with_suffix(".pid").write_text(str(os.getpid()))
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    with Path(order["errors"]).open("w") as errors:
        os.dup2(errors.fileno(), 2)
    watch(order["watch"], order["at"], order["among"], made)
    code, told = 0, ""
    try:
        app.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001 - told to whoever asked
        code, told = 99, traceback.format_exc()
    os.write(pipe, json.dumps({"code": code, "made": made, "told": told}).encode())
    os._exit(0)


def main():
    torch.set_num_threads(1)
    trials._in_processes = in_this_process
    # What a map shows is not asked here; UMAP compiles for seconds in each fork.
    maps._layout = lambda embedding: embedding[:, :2]
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        reader, writer = os.pipe()
        process = os.fork()
        if not process:
            os.close(reader)
            child(json.loads(line), writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            content = answer.read()
        os.waitpid(process, 0)
        told = json.loads(content) if content else {"code": -9, "made": [], "told": ""}
        print(json.dumps({"killed": not content, **told}), flush=True)  # noqa: T201


main()
