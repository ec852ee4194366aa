"""The run directory: everything that is needed to understand a run, to repeat it, and to continue it.

    config.json        resolved settings, command, store and fingerprint, versions, device, deviations from the papers
    metrics.jsonl      a line every `log_every` steps and one per evaluation
    checkpoint.pt      the newest state
    tensorboard/       the same curves for TensorBoard, and pictures
    model.safetensors  averaged weights and BatchNorm statistics, at the end
    result.json        errors, confusion matrix, seconds; written last: a run with it is finished

A directory that exists is never overwritten.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from stores import aside, durable, manifest
from stores.errors import IntegrityError, StoreError, UsageError

FORMAT = 1


class Run:
    """A run directory that exists; `create` makes one, `open_run` finds one.

    Attributes:
        path: the directory, as the user gave it.
        config: content of config.json.
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: int | None = None) -> None:
        self.path, self.config = path, config
        self._metrics: IO[bytes] | None = None
        self._lock = lock

    def hold(self) -> None:
        """Be the one process that trains it, until `close` or the end of the process, however it ends.

        Raises:
            StoreError: another process holds it.
        """
        if self._lock is None:
            self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            why = "two would write over each other"
            raise StoreError(
                f"another process is training '{self.path}'", why, "wait for its end, or stop it"
            ) from None

    def write_line(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; it is in the file when this returns, and on the disk after `sync`."""
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("ab", buffering=0)
            durable.sync_folder(self.path)
        self._metrics.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Wait until the lines are on the disk: a checkpoint must not outlive those of before it."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())

    def cut_back(self, step: int) -> None:
        """Undo what a killed run did after its checkpoint: lines of metrics.jsonl after `step`, files written aside.

        The run is held: what another process does is not undone.
        """
        aside.sweep(self.path)
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except ValueError:
                continue
        manifest.write_atomically(path, "".join(kept).encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, which marks the run finished."""
        write_json(self.path / "result.json", result)

    def result(self) -> dict[str, Any] | None:
        """Content of result.json; None while the run is not finished."""
        path = self.path / "result.json"
        return _read_json(path) if path.is_file() else None

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def refuse_existing(path: Path) -> None:
    """Raises UsageError if there is something at `path`."""
    if not os.path.lexists(path):
        return
    if (path / "result.json").is_file():
        raise UsageError(f"'{path}' exists", "it holds a finished run", "choose another --name")
    raise UsageError(
        f"'{path}' exists",
        "it is not overwritten",
        f"continue it with `realmix-train --resume {path}`, or choose another --name",
    )


def create(path: Path, config: dict[str, Any], first_checkpoint: Callable[[Path], None]) -> Run:
    """Make the directory with its config and its first checkpoint: it appears with both, and held, or not at all.

    Of several processes that make it at the same moment one does; the run is its own until `close`.

    Raises:
        UsageError: there is something at `path`, or another process was faster.
    """
    refuse_existing(path)
    durable.make_folder(path.parent)
    with aside.claim(path, folder=True) as made:
        write_json(made.path / "config.json", {"format": FORMAT, **config})
        first_checkpoint(made.path)
        run = Run(path, config, os.dup(made.descriptor))  # whoever finds the directory finds it locked
        try:
            run.hold()
            made.path.rename(path)
        except OSError as error:
            run.close()
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise UsageError(
                f"'{path}' exists", "another process has begun it just now", "choose another --name"
            ) from None
    durable.sync_folder(path.parent)
    return run


def open_run(path: Path) -> Run:
    """Open the directory of a run, finished or not.

    Raises:
        StoreError: it is no run directory, or one of another version.
        IntegrityError: its config.json is damaged.
    """
    if not (path / "config.json").is_file():
        raise StoreError(f"'{path}' is no run", f"there is no '{path / 'config.json'}'", _runs_beside(path))
    config = _read_json(path / "config.json")
    if config.get("format") != FORMAT:
        raise StoreError(
            f"'{path}' was written by another version of realmix", f"its format is {config.get('format')!r}"
        )
    return Run(path, config)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    manifest.write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"'{path}' is damaged", str(error)) from None
    if not isinstance(content, dict):
        raise IntegrityError(f"'{path}' is damaged", "it holds no object")
    return content


def _runs_beside(path: Path) -> str:
    folder = path.parent
    found = sorted(p.parent.name for p in folder.glob("*/config.json"))[:12] if folder.is_dir() else []
    return f"runs in '{folder}': {', '.join(found)}" if found else "`realmix-train --store STORE` starts one"
