"""Split stores on disk: written whole or not at all, and nothing of a killed writer stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all
from stores import open_store
from stores.verify import verify

KILLED = """
import os, signal, sys
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all
from stores import open_store
from stores.format import manifest
plain, left = manifest.write_atomically, [3]
def deadly(path, data):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(path, data)
manifest.write_atomically = deadly
write_all(open_store(sys.argv[1]), [Request(labels=30)])
"""


AT_ONCE = """
import os, sys
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all
from stores import open_store
from stores.errors import StoreError
store = open_store(sys.argv[1])
for round in range(10):
    children, (read, write) = [], os.pipe()
    for seed in map(int, sys.argv[2:]):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # all wait for the same moment: its end
            try:
                write_all(store, [Request(labels=30, seed=seed)], f"at_once_{round}")
            except StoreError as error:
                assert "holds another store" in error.what
                os._exit(3)
            os._exit(0)
        children.append(child)
    os.close(write)
    os.close(read)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_writer_left_is_gone_and_a_living_one_is_left_alone(tiny_copy: Path) -> None:
    before = names_in(tiny_copy.parent)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tiny_copy)], check=False)
    assert killed.returncode == -9
    assert len(names_in(tiny_copy.parent) - before) == 1, "the killed process was writing aside"
    living = tiny_copy.with_name(f".tiny_30.{os.getppid()}.tmp")
    living.mkdir()
    (path,) = write_all(open_store(tiny_copy), [Request(labels=30)])
    assert len(open_store(path).labeled) == 30
    assert names_in(tiny_copy.parent) == before | {"tiny_30", living.name}


@pytest.mark.parametrize("seeds", [(1, 1, 1), (1, 2, 3)], ids=["equal", "differing"])
def test_splits_at_once_under_one_name(tiny_copy: Path, seeds: tuple[int, ...]) -> None:
    """Equal ones all succeed; of differing ones one does, and the others are told."""
    before = names_in(tiny_copy.parent)
    words = [sys.executable, "-c", AT_ONCE, str(tiny_copy), *map(str, seeds)]
    rounds = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(rounds) == 10
    assert names_in(tiny_copy.parent) == before | {f"at_once_{round}" for round in range(10)}
    for round, codes in enumerate(rounds):
        assert sorted(codes.split()) == (["0", "0", "0"] if len(set(seeds)) == 1 else ["0", "3", "3"])
        written = open_store(tiny_copy.with_name(f"at_once_{round}"))
        assert written.seed == seeds[codes.split().index("0")]
        assert verify(written.path) == []
