"""Poor surroundings: any console, closed streams, readers who leave, no home, no memory, a hostile folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stores.errors import run
from stores.verify import verify

BIN = Path(sys.executable).parent


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash with both commands on its path."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_console_of_any_encoding(tiny, tmp_path, environment):
    done = shell(f"realmix-data info {tiny} && realmix-data info nowhere-é; exit $?", tmp_path, **environment)
    assert done.returncode == 3, done.stderr
    assert "classes" in done.stdout
    assert "error: 'nowhere-" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def few(tmp_path) -> str:
    """Arguments that build a store of forty small images."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(40) % 2)
    return "arrays few.npz --copies 2 --labels 20"


def test_closed_streams(few, tmp_path):
    """What is opened next would take their numbers: what a library says would be written into the store."""
    assert shell(f"realmix-data build {few} <&- >&- 2>&-", tmp_path).returncode == 0
    assert verify(tmp_path / "stores/few") == []
    assert shell("realmix-data info stores/few 2>&- <&-", tmp_path).stdout.count("\n") > 5


def test_the_writer_of_ffcv_needs_no_standard_error(few, tmp_path):
    done = shell(f"realmix-data build {few} --format ffcv --quiet 2>&-", tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("line", ["realmix-data info {}", "realmix-train methods", "realmix-data info {} --json"])
def test_a_reader_who_leaves_is_no_error(tiny, tmp_path, line):
    done = shell(f"{line.format(tiny)} | (exec <&-); echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")


NOBODY = """
import pwd, sys
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
from pipeline.cli import main
sys.argv = ["realmix-data", *sys.argv[1:]]
main()
"""


def test_a_user_without_a_home(few, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}

    def command(words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", NOBODY, "build", *words.split()]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = command(few)
    assert done.returncode == 0, done.stderr
    done = command("cifar10")
    assert (done.returncode, "--cache FOLDER" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("can't start new thread"),
        RuntimeError("Zstd decompression error: Allocation error : not enough memory"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_memory_is_one_message_whoever_says_it(error, capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # as it was, afterwards

    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run(command)
    assert left.value.code == 5
    assert "not enough memory" in capsys.readouterr().err


def test_what_a_lack_of_memory_leads_to_is_told_as_that(capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def command() -> None:
        try:
            raise RuntimeError("can't start new thread")
        finally:
            raise RuntimeError("cannot join thread before it is started")

    with pytest.raises(SystemExit) as left:
        run(command)
    assert left.value.code == 5
    assert "not enough memory" in capsys.readouterr().err


BEGUN = """
import atexit, threading
from stores.errors import run
def command():
    atexit.register(threading.Thread().join)  # as zarr does, whether its thread could be started or not
    raise RuntimeError("can't start new thread")
run(command)
"""


def test_a_library_that_could_not_begin_says_nothing_at_the_end():
    done = subprocess.run([sys.executable, "-c", BEGUN], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (5, False), done.stderr


USED_UP = """
import resource
from stores.errors import run
def command():
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (16 << 20), resource.RLIM_INFINITY))
    raise SystemError("error return without exception set")  # so an import ends that finds no memory
run(command)
"""


def test_whatever_fails_where_no_memory_is_left_is_told_as_that():
    done = subprocess.run([sys.executable, "-c", USED_UP], capture_output=True, text=True, check=False)
    assert (done.returncode, "not enough memory" in done.stderr) == (5, True), done.stderr


def test_an_error_of_our_own_keeps_its_traceback():
    def command() -> None:
        raise RuntimeError("a broken invariant")

    with pytest.raises(RuntimeError, match="broken"):
        run(command)


LIMITED = """
import resource, sys
import pipeline.building.build, pipeline.sources.arrays, pipeline.splits.split_stores, pipeline.recipes
from pipeline.cli import main
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (24 << 20),) * 2)
sys.argv = ["realmix-data", "build", "arrays", "a.npz", "--copies", "2", "--workers", "1", "--quiet"]
main()
"""


def test_memory_that_gives_out_for_real(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((20_000, 32, 32, 3), np.uint8), labels=np.arange(20_000) % 2)
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr


def test_no_process_takes_modules_from_the_current_folder(tiny, few, tmp_path):
    """Not the commands, and none of the processes that they start: a build's workers, the runs of a table."""
    for name in ("rich", "random", "socket", "pickle", "multiprocessing", "typer", "trainer"):
        (tmp_path / f"{name}.py").write_text("open('proof', 'a').write(__name__)\nraise SystemExit(9)\n")
    (tmp_path / "mine.toml").write_text(
        'title = "t"\nsteps = 2\nmodel = "wrn-10-1"\nseeds = [1]\nset = {batch = 4, tensorboard = false}\n'
        '[columns]\n"20" = "tiny_20"\n[[rows]]\nname = "[/ours]"\nmethod = "supervised"\n'
    )
    done = shell(f"realmix-data build {few} --recipe color --workers 2 --quiet", tmp_path)
    assert done.returncode == 0, done.stderr
    done = shell(f"realmix-train reproduce mine.toml --stores {tiny.parent} --runs runs --threads 1", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[/ours]" in done.stdout
    assert not (tmp_path / "proof").exists()
    result = next((tmp_path / "runs").rglob("result.json"))
    assert json.loads(result.read_text())["steps"] == 2
