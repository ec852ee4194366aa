"""Temporary names: what a dead process left goes, what a living one is writing stays, and nothing is seen half made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stores.format import manifest
from stores.system import aside, durable

WRITER = """
import sys
from pathlib import Path
from stores.system import aside
with aside.claim(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as made:
    if sys.argv[2] == "folder":
        (made.path / "inner").mkdir()
        (made.path / "inner" / "file").write_bytes(b"begun")
    print(made.path, flush=True)
    sys.stdin.read()
"""


def begun(target: Path, kind: str) -> tuple[subprocess.Popen, Path]:
    """A process at work on `target`, and what it is writing."""
    words = [sys.executable, "-c", WRITER, str(target), kind]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def ended(process: subprocess.Popen) -> None:
    with process:
        process.kill()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path, kind):
    target = tmp_path / "target"
    dead, left = begun(tmp_path / "another", kind)
    living, held = begun(target, kind)
    ended(dead)
    try:
        assert left.exists()
        manifest.write_atomically(target, b"whole")
        assert set(tmp_path.iterdir()) == {target, held}
        assert target.read_bytes() == b"whole"
    finally:
        ended(living)
    manifest.write_atomically(target, b"again")
    assert list(tmp_path.iterdir()) == [target]


def test_a_stopped_process_is_alive(tmp_path):
    living, held = begun(tmp_path / "target", "folder")
    living.send_signal(signal.SIGSTOP)
    try:
        aside.clear(tmp_path / "target")
        assert (held / "inner" / "file").read_bytes() == b"begun"
    finally:
        ended(living)


def test_names_of_others_are_left_alone(tmp_path):
    target = tmp_path / "target"
    others = [tmp_path / name for name in (".mine.tmp", ".target.tmp", ".target.1234.tmp", ".target.realmix-abc.tmp")]
    for other in others:
        other.write_bytes(b"somebody's")
    manifest.write_atomically(target, b"whole")
    aside.sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {target, *others}


def test_a_sweep_finds_what_was_left_at_any_depth(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    process, _ = begun(deep / "0", "file")
    ended(process)
    (deep / "0").write_bytes(b"whole")
    assert len(aside.left_in(tmp_path)) == 1
    aside.sweep(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "0"]


def test_what_lies_in_wait_under_a_temporary_name_is_not_followed(tmp_path):
    """A link, a pipe: it is neither opened, nor written through, nor does anybody wait for it."""
    (tmp_path / "precious").write_bytes(b"precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    link, pipe = (folder / aside.named(folder / name).name for name in ("link", "pipe"))
    link.symlink_to(tmp_path / "precious")
    os.mkfifo(pipe)
    manifest.write_atomically(folder / "target", b"whole")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert set(folder.iterdir()) == {link, pipe, folder / "target"}


def test_what_fails_half_way_leaves_what_was_there(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), aside.file(target) as out:  # noqa: PT012
        out.write(b"half")
        raise ZeroDivisionError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_names_of_every_length_and_kind(tmp_path):
    for name in ("a", "x" * 255, "ä" * 127, "new\nline", ".hidden", os.fsdecode(b"\xff\xfe")):
        manifest.write_atomically(tmp_path / name, name.encode(errors="surrogateescape"))
        assert (tmp_path / name).read_bytes() == name.encode(errors="surrogateescape")
    assert len(list(tmp_path.iterdir())) == 6


def test_many_writers_of_one_file_and_one_of_them_is_there(tmp_path):
    target = tmp_path / "target"
    wrong = []

    def write(which: int) -> None:
        try:
            for _ in range(20):
                manifest.write_atomically(target, bytes([which]) * 50_000)
        except OSError as error:
            wrong.append(error)

    writers = [threading.Thread(target=write, args=(which,)) for which in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert wrong == []
    assert list(tmp_path.iterdir()) == [target]
    data = target.read_bytes()
    assert data == data[:1] * 50_000


def test_an_output_is_a_file_a_link_or_a_device_but_no_folder(tmp_path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_bytes(b"before")
    link.symlink_to(real)
    with aside.output(link) as out:
        out.write(b"after")
    assert link.is_symlink()
    assert real.read_bytes() == b"after"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with aside.output(pipe) as out:
        out.write(b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(IsADirectoryError), aside.output(tmp_path) as out:
        raise AssertionError("no work for nothing")


def test_scratch_is_private_and_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with aside.scratch() as folder:
        (folder / "file").write_bytes(b"x")
        assert folder.stat().st_mode & 0o777 == 0o700
        with aside.scratch() as another:
            assert another != folder
        assert (folder / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_turns_are_taken(tmp_path):
    entered, order = threading.Event(), []

    def second() -> None:
        entered.wait()
        with aside.turn(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with aside.turn(tmp_path):
        entered.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def synced(monkeypatch) -> list[tuple[str, Path]]:
    """What happens on the disk from here on: ("renamed" | "synced", folder or file)."""
    events: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def log_sync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("synced", Path(f"/proc/self/fd/{descriptor}").readlink()))

    def log_replace(old: Path, new: Path) -> None:
        replace(old, new)
        events.append(("renamed", Path(new)))

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_replace)
    return events


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_caller_goes_on(tmp_path, monkeypatch):
    events = synced(monkeypatch)
    manifest.write_atomically(tmp_path / "file", b"data")
    first, second, third = events
    assert first[0] == "synced"
    assert first[1].parent == tmp_path
    assert [second, third] == [("renamed", tmp_path / "file"), ("synced", tmp_path)]


def test_folders_that_are_made_on_the_way_stay(tmp_path, monkeypatch):
    events = synced(monkeypatch)
    durable.make_folder(tmp_path / "a" / "b")
    assert sorted(events) == [("synced", tmp_path), ("synced", tmp_path / "a")]
    durable.make_folder(tmp_path / "a" / "b")
    assert len(events) == 2
