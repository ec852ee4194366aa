"""A run's folder: of many that begin at once one does; its lines are on the disk before its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stores.errors import StoreError, UsageError
from stores.format import manifest
from trainer import api
from trainer.runs.run_dir import Run, create, open_run

SETTINGS = ["engine=eager", "eval_every=4", "log_every=4", "batch=8", "precision=fp32", "tensorboard=false"]


@pytest.fixture(scope="module")
def split(tiny) -> Path:
    return tiny.with_name("tiny_20")


def checkpoint_of(who: int) -> Callable[[Path], None]:
    return lambda folder: manifest.write_atomically(folder / "checkpoint.pt", bytes([who]) * 300_000)


AT_ONCE = """
import os, sys
from pathlib import Path
from stores.format import manifest
from stores.errors import UsageError
from trainer.runs.run_dir import create
def first(folder):
    manifest.write_atomically(folder / "checkpoint.pt", bytes([who]) * 300_000)
for round in range(20):
    path, starters = Path(sys.argv[1]) / str(round) / "run", []
    go, start = os.pipe()
    for who in range(3):
        starter = os.fork()
        if starter == 0:
            os.close(start)
            os.read(go, 1)  # all wait for the same moment: its end
            try:
                create(path, {"who": who}, first).hold()
            except UsageError as error:
                assert error.what == f"'{path}' exists", error
                os._exit(error.exit_code)
            os._exit(0)
        starters.append(starter)
    os.close(start)
    os.close(go)
    print(*(os.waitstatus_to_exitcode(os.waitpid(starter, 0)[1]) for starter in starters))
"""


def test_of_many_that_begin_at_once_one_does_and_the_others_are_told(tmp_path):
    words = [sys.executable, "-W", "error", "-c", AT_ONCE, str(tmp_path)]
    rounds = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(rounds) == 20
    for round, codes in enumerate(rounds):
        assert sorted(codes.split()) == ["0", "2", "2"]
        path = tmp_path / str(round) / "run"
        winner = codes.split().index("0")
        assert json.loads((path / "config.json").read_text())["who"] == winner
        assert (path / "checkpoint.pt").read_bytes() == bytes([winner]) * 300_000
        assert [entry.name for entry in path.parent.iterdir()] == ["run"], "the others leave nothing"


def test_a_run_is_held_from_the_moment_it_can_be_seen(tmp_path):
    run = create(tmp_path / "run", {}, checkpoint_of(1))
    with pytest.raises(StoreError, match="another process is training"):
        Run(tmp_path / "run", {}).hold()
    run.close()
    other = Run(tmp_path / "run", {})
    other.hold()
    other.close()


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_what_is_there_is_not_replaced(tmp_path, there):
    path = tmp_path / "run"
    match there:
        case "file":
            path.write_bytes(b"mine")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists"):
        create(path, {}, checkpoint_of(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert path.is_symlink() or there in ("file", "folder")


KILLED = """
import os, signal, sys
from pathlib import Path
from stores.format import manifest
from trainer.runs.run_dir import create
def die(folder):
    manifest.write_atomically(folder / "checkpoint.pt", b"1" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
create(Path(sys.argv[1]), {}, die)
"""


def test_one_that_was_killed_while_beginning_is_cleared_by_the_next(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    create(tmp_path / "another", {}, checkpoint_of(1)).close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["another"]


def test_lines_and_checkpoint_are_on_the_disk_in_this_order(tmp_path, split, monkeypatch):
    """Whatever a power cut leaves: each checkpoint's lines, and every name that the run was told is there."""
    fsync, replace, rename = os.fsync, os.replace, os.rename
    unsynced: set[Path] = set()
    seen = 0

    def log_sync(descriptor: int) -> None:
        fsync(descriptor)
        unsynced.discard(Path(f"/proc/self/fd/{descriptor}").readlink())

    def log_rename(old: Path, new: Path, how: Callable[[Path, Path], None] = replace) -> None:
        nonlocal seen
        if Path(new).name == "checkpoint.pt":
            seen += 1
            assert not unsynced, "lines, or a file's name, are not on the disk yet"
        how(old, new)
        unsynced.add(Path(new).parent)

    write_line = Run.write_line

    def log_line(self: Run, record: dict) -> None:
        write_line(self, record)
        unsynced.add(self.path / "metrics.jsonl")

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_rename)
    monkeypatch.setattr(os, "rename", lambda old, new: log_rename(old, new, rename))
    monkeypatch.setattr(Run, "write_line", log_line)
    flags = {"store": str(split), "model": "wrn-10-1", "steps": 8, "threads": 1, "device": "cpu"}
    api.train([*SETTINGS, "checkpoint_every=4"], flags, tmp_path / "runs", "run", quiet=True)
    assert seen == 3
    assert not unsynced, "the finished run is on the disk"


def test_of_two_that_resume_one_does_and_the_other_takes_nothing_from_it(tmp_path, split, monkeypatch):
    """The second is refused before it reads the checkpoint; it deletes nothing that the first one is writing."""
    flags = {"store": str(split), "model": "wrn-10-1", "steps": 8, "threads": 1, "device": "cpu"}
    path, result = api.train(SETTINGS, flags, tmp_path, "run", quiet=True)
    (path / "result.json").unlink()
    first = open_run(path)
    first.hold()
    with pytest.raises(StoreError, match="another process is training"):
        api.resume(path, quiet=True)
    first.write_result(result)  # and the first one ends, at the very moment at which the second looks
    hold = Run.hold

    def late(self: Run) -> None:
        first.close()
        hold(self)

    monkeypatch.setattr(Run, "hold", late)
    monkeypatch.setattr(Run, "result", iter_results(Run.result))
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}
    assert api.resume(path, quiet=True)[1] == result
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()} == before


def iter_results(result: Callable[[Run], dict | None]) -> Callable[[Run], dict | None]:
    """`Run.result` that is too early the first time."""
    early = [None]
    return lambda self: early.pop() if early else result(self)


def test_two_commands_under_one_name(tmp_path, split):
    words = [sys.executable, "-m", "trainer", "--store", split, "--runs", tmp_path, "--name", "run", "--quiet"]
    words += ["--model", "wrn-10-1", "--steps", 4, "--threads", 1, "--device", "cpu"]
    words += [word for assignment in SETTINGS for word in ("--set", assignment)]
    commands = [[*map(str, words), "--set", f"lr={lr}"] for lr in (0.001, 0.004)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    (winner,) = [i for i, (_, code) in enumerate(ends) if code == 0]
    said, code = ends[1 - winner]
    assert code == 2
    assert said.startswith(f"error: '{tmp_path / 'run'}' exists")
    assert open_run(tmp_path / "run").config["run"]["lr"] == (0.001, 0.004)[winner]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
