"""Split stores on disk: written whole or not at all, and nothing of a killed writer stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.protocols import Request
from pipeline.split_stores import write_all
from stores import open_store

KILLED = """
import os, signal, sys
from pipeline.protocols import Request
from pipeline.split_stores import write_all
from stores import manifest, open_store
plain, left = manifest.write_atomically, [3]
def deadly(path, data):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(path, data)
manifest.write_atomically = deadly
write_all(open_store(sys.argv[1]), [Request(labels=30)])
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
