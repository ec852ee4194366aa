"""kill -9 of every command at random moments: the same command again ends in the same bytes, with nothing left behind.

Usage: kills.py [--kills N] [--only NAME …]. Commands are forked from this process, which has loaded everything: a kill
takes a second, and its moment lies in the command's work rather than in its imports.
"""

from __future__ import annotations

import os

# a fork would lose the threads of these libraries
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import cli
from pipeline.splits import split_stores  # noqa: F401  # loaded here, not in every child

# of a run's files: times, and checksums of them
VOLATILE = ("seconds", "images_per_s", "data_wait", "crc32", "sha256", "files")
STORE = "arrays noise.npz --copies 12 --workers 1 --quiet --root stores"
RUN = "--model wrn-10-1 --device cpu --threads 1 --quiet --set engine=eager --set tensorboard=false --set batch=8"
TABLE = """
title = "Two methods"
source = "nobody's paper"
axis = "labels"
stores = "realmix-data build arrays"
steps = 6
model = "wrn-10-1"
seeds = [1]
error = "last"
set = { batch = 8, tensorboard = false, device = "cpu" }
[columns]
"50" = "noise_50"
[[rows]]
name = "Supervised"
method = "supervised"
published = ["20.0"]
"""


@dataclass(frozen=True)
class Kind:
    """A command to be killed.

    Attributes:
        words: of its command line; again: of the next one, given the folder, where that is another one.
        needs: what lies there before, by a command line each; damage: what is then lost.
    """

    words: str
    needs: tuple[str, ...] = ()
    damage: Callable[[Path], object] = lambda root: None
    again: Callable[[Path], str] | None = None


def lose_files(root: Path) -> None:
    for name in ("copies/images", "copies/params"):
        for file in sorted((root / "stores/noise" / name / "c").rglob("*"))[::2]:
            if file.is_file():
                file.unlink()
    (root / "stores/noise/train/labels/zarr.json").unlink()
    (root / "stores/noise_50/labeled/c/0").unlink()


def resumed(root: Path) -> str:
    return "realmix-train --resume runs/one --quiet" if (root / "runs/one").exists() else KINDS["train"].words


DATA, SPLIT = f"realmix-data build {STORE}", "realmix-data split stores/noise --labels 50"
KINDS = {
    "build": Kind(f"{DATA} --labels 50"),
    "split": Kind(SPLIT, (DATA,)),
    "repair": Kind("realmix-data repair stores/noise_50 --quiet", (DATA, SPLIT), lose_files),
    "export": Kind("realmix-data export stores/noise --format ffcv --quiet", (DATA,)),
    "train": Kind(
        f"realmix-train --store stores/noise_50 --name one --steps 12 {RUN} --set checkpoint_every=3 --set log_every=3 "
        "--set eval_every=4",
        (DATA, SPLIT),
        again=resumed,
    ),
    "reproduce": Kind("realmix-train reproduce table.toml --stores stores --threads 1", (DATA, SPLIT)),
}


def begun(words: str, root: Path) -> int:
    """The command in a child process."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    os.chdir(root)
    nowhere = os.open(os.devnull, os.O_RDWR)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, place in enumerate((nowhere, nowhere, said)):
        os.dup2(place, descriptor)
    sys.argv = words.split()
    code = 1
    try:
        if sys.argv[0] == "realmix-data":
            cli.main()
        else:
            from trainer import cli as train_cli

            train_cli.main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        sys.stderr.flush()
        os._exit(code)


def done(words: str, root: Path) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(begun(words, root), 0)[1])
    assert code == 0, f"{words}: exit code {code}\n{(root / 'said').read_text()}"


def state_of(root: Path) -> dict[str, object]:
    """All files but what they say of time; of checkpoints, which hold times, that they are there."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        key = str(path.relative_to(root))
        if key.startswith(("tmp/torch", "said")):  # torch's own cache
            continue
        if path.suffix in (".json", ".jsonl") and key.startswith("runs/"):
            text = path.read_text()
            found[key] = [steady(json.loads(one)) for one in (text.splitlines() if path.suffix == ".jsonl" else [text])]
        else:
            found[key] = path.read_bytes() if path.is_file() and path.name != "checkpoint.pt" else None
    return found


def steady(record: object) -> object:
    if isinstance(record, dict):
        return {key: steady(value) for key, value in record.items() if key not in (*VOLATILE, "command", "history")}
    return record


def kills(name: str, kind: Kind, folder: Path, count: int) -> Counter[str]:
    """Kill the command `count` times; every time run the next one, and compare."""
    template, whole = folder / "template", folder / "whole"
    template.mkdir()
    (template / "tmp").mkdir()
    (template / "table.toml").write_text(TABLE)
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 4, 4, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    np.savez(template / "noise.npz", images=pixels, labels=np.arange(1500) % 5)
    for words in kind.needs:
        done(words, template)
    root = folder / "root"  # one path for all: runs and tables name it

    def prepared() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        os.environ["TMPDIR"] = str(root / "tmp")
        tempfile.tempdir = None
        kind.damage(root)

    prepared()
    began = time.monotonic()
    done(kind.words, root)
    took = time.monotonic() - began
    expected = state_of(root)
    shutil.rmtree(whole, ignore_errors=True)
    seen, rng = Counter[str](), random.Random(name)
    while seen["kills"] < count:
        prepared()
        child = begun(kind.words, root)
        time.sleep(rng.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            seen["too late"] += 1
            continue
        seen["kills"] += 1
        seen["left something aside"] += any(".tmp" in path.name for path in root.rglob(".*"))
        done(kind.again(root) if kind.again else kind.words, root)
        found = state_of(root)
        differing = sorted(key for key in found.keys() | expected.keys() if found.get(key, 0) != expected.get(key, 0))
        assert not differing, f"kill {seen['kills']} of {name}: {differing[:5]}"
        print(f"{name}: {seen['kills']} of {count} kills", end="\r", flush=True, file=sys.stderr)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    asked = parser.parse_args()
    if {"train", "reproduce"} & set(asked.only):
        from trainer import api  # noqa: F401
    for name in asked.only:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            seen = kills(name, KINDS[name], Path(folder), asked.kills)
        print(f"{name}: {time.monotonic() - began:.0f} s", *(f"{n:>7,} {what}" for what, n in seen.items()), sep="\n  ")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
