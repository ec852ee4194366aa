"""The run directory: everything that is needed to understand a run, to repeat it, and to continue it.

    config.json          resolved settings, command, store and fingerprint, versions, device, deviations from the papers
    metrics.jsonl        a line every `log_every` steps and one per evaluation
    checkpoint.pt        the newest state
    tensorboard/         the same curves for TensorBoard, and pictures
    model.safetensors    averaged weights and BatchNorm statistics, at the end
    foreign.safetensors  what scores foreign images, at the end, if there are labelled and unlabelled images
    outcomes.safetensors what the averaged weights say of each test image and of unlabelled ones, at the end
    result.json          errors, confusion matrix, seconds; written last: a run with it is finished

Every file carries a checksum of itself, so that it is checked wherever it lies: config.json and result.json under
`sha256` (of the canonical JSON of the rest, in a list, as a store's manifest), each line of metrics.jsonl under
`crc32`, the checkpoint in the comment of its zip file, safetensors in their metadata. result.json also lists the bytes
and the SHA-256 of the other files under `files`: those of another run are noticed. Runs of before this have none of
these, and are read without.

A directory that exists is never overwritten.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from stores.errors import IntegrityError, StoreError, UsageError
from stores.format import manifest
from stores.storage.location import LocalFile, sha256_of
from stores.system import aside, durable
from trainer.runs import fields, metrics

FORMAT = 2  # 1: before the files had checksums
SEAL = "sha256"
LEFT_AT_THE_END = ("model.safetensors", "foreign.safetensors", "outcomes.safetensors")
LISTED = ("config.json", metrics.FILE, "checkpoint.pt", *LEFT_AT_THE_END)


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
            self._metrics = (self.path / metrics.FILE).open("ab", buffering=0)
            durable.sync_folder(self.path)
        self._metrics.write(metrics.line(record))

    def sync(self) -> None:
        """Wait until the lines are on the disk: a checkpoint must not outlive those of before it."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())

    def cut_back(self, step: int) -> int:
        """Undo what a killed run did after its checkpoint: lines of metrics.jsonl after `step`, files written aside.

        The run is held: what another process does is not undone.

        Returns:
            how many damaged lines there were; they are left out.
        """
        aside.sweep(self.path)
        lines, damaged = metrics.read(self.path)
        kept = [data + b"\n" for data, record in lines if record["step"] <= step]
        if (self.path / metrics.FILE).exists():
            manifest.write_atomically(self.path / metrics.FILE, b"".join(kept))
        return damaged

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, which marks the run finished."""
        paths = [self.path / name for name in LISTED if (self.path / name).is_file()]
        files = {path.name: dict(zip(("bytes", "sha256"), sha256_of(path), strict=True)) for path in paths}
        write_json(self.path / "result.json", {**result, "files": files})

    def result(self) -> dict[str, Any] | None:
        """What was given to `write_result`; None while the run is not finished.

        Raises:
            IntegrityError: result.json is damaged, or another run's.
        """
        return None if (content := self._result()) is None else {k: v for k, v in content.items() if k != "files"}

    def require_own(self, name: str) -> None:
        """Raises IntegrityError if the run is finished and its result says that it left a file as another one."""
        content = self._result()
        listed = (content or {}).get("files") or {}
        if name not in listed:
            return
        data, expected = read_bytes(self.path / name), (listed[name]["bytes"], listed[name]["sha256"])
        if (len(data), hashlib.sha256(data).hexdigest()) != expected:
            raise damaged(self.path / name, "it is not the file that the run left, says its result.json")

    def _result(self) -> dict[str, Any] | None:
        path = self.path / "result.json"
        if not path.exists():
            return None
        content, sealed = _read_json(path)
        if not sealed and self.config.get("format") != 1:
            raise damaged(path, "it lacks its checksum")
        if wrong := fields.wrong_result(content):
            raise damaged(path, f"wrong or missing: {', '.join(wrong)}")
        if other := fields.contradiction(self.config, content):
            raise damaged(path, f"it is another run's: it differs from 'config.json' in {other}")
        return content

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def how_to_continue(path: Path) -> str:
    """The hint that goes with whatever ended a run before its time."""
    return f"continue with `realmix-train --resume {path}`"


def refuse_existing(path: Path) -> None:
    """Raises UsageError if there is something at `path`."""
    if not os.path.lexists(path):
        return
    if (path / "result.json").is_file():
        raise UsageError(
            f"'{path}' exists",
            "it holds a finished run",
            f"choose another --seed or --name, or make it longer with `realmix-train --resume {path} --steps N`",
        )
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
    file = path / "config.json"
    if not file.exists():
        raise StoreError(f"'{path}' is no run", f"there is no '{file}'", _runs_beside(path))
    config, sealed = _read_json(file)
    if config.get("format") not in (1, FORMAT):
        raise StoreError(
            f"'{path}' was written by another version of realmix", f"its format is {config.get('format')!r:.40}"
        )
    if not sealed and config["format"] != 1:
        raise damaged(file, "it lacks its checksum")
    if wrong := fields.wrong_config(config):
        raise damaged(file, f"wrong or missing: {', '.join(wrong)}")
    return Run(path, config)


def each_run(paths: Sequence[Path]) -> list[Path]:
    """The runs that are meant: folders of runs stand for the runs in them, by name."""
    found = list[Path]()
    for path in paths:
        inside = [] if (path / "config.json").exists() else sorted(file.parent for file in path.glob("*/config.json"))
        found += inside or [path]
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of a run with its checksum, atomically."""
    content = {name: value for name, value in content.items() if name != SEAL}
    content[SEAL] = manifest.fingerprint(content)
    manifest.write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def damaged(path: Path, why: str) -> IntegrityError:
    """The error for a file of a run that is not what was written, with what to do about it."""
    again = f"then `realmix-train --resume {path.parent}`"
    hints = {
        "config.json": "bring it back from a copy; 'model.safetensors' can be used without it",
        "result.json": f"remove it, {again} makes it again from the checkpoint",
        "model.safetensors": f"remove it and 'result.json', {again} makes both again from the checkpoint",
        "outcomes.safetensors": f"remove it and 'result.json', {again} makes both again from the checkpoint",
        "foreign.safetensors": f"remove it and 'result.json', {again} makes both again from the checkpoint",
        "checkpoint.pt": "bring it back from a copy, or start a new run under another --name",
    }
    of_a_run = path.name == "config.json" or (path.parent / "config.json").is_file()
    return IntegrityError(
        f"'{path}' is damaged", why, hints.get(path.name, "") if of_a_run else "bring it back from a copy"
    )


def _read_json(path: Path) -> tuple[dict[str, Any], bool]:
    """Content of a file of a run without its checksum, which is compared; and whether it has one."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise damaged(path, "it holds no object")
    seal = content.pop(SEAL, None)
    try:
        sound = seal in (None, manifest.fingerprint(content))
    except (ValueError, RecursionError):  # NaN and infinity are no JSON
        sound = False
    if not sound:
        raise damaged(path, "it is not what its own checksum says; files of a run are not to be edited")
    return content, seal is not None


def read_bytes(path: Path) -> bytes:
    """A whole file of a run.

    Raises:
        FileNotFoundError: it is not there.
        IntegrityError: it is no regular file: a pipe must not make anybody wait.
    """
    LocalFile(path).close()
    return path.read_bytes()


def _runs_beside(path: Path) -> str:
    folder = path.parent
    found = sorted(p.parent.name for p in folder.glob("*/config.json"))[:12] if folder.is_dir() else []
    return f"runs in '{folder}': {', '.join(found)}" if found else "`realmix-train --store STORE` starts one"
