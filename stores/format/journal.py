"""The journal of a build: the finished files, so that a continued build does not write them again.

In a folder it is `.journal.jsonl`, one record per line, appended and synced. Objects cannot be appended to, so in a
bucket each entry is an object under `.journal.jsonl/`. `read` returns a record only if its file has the recorded bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from stores.format.fields import is_file
from stores.storage.confine import require_inside
from stores.storage.location import Location, parallel, sha256_of
from stores.system import durable
from stores.system.threads import thread_pool

NAME = ".journal.jsonl"
Record = dict[str, Any]  # {"key": path inside the store, "bytes": int, "sha256": hex}


def append(store: Location, records: tuple[Record, ...]) -> None:
    """Record finished files; a continued build will not write them again."""
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    if not isinstance(store, Path):
        (store / NAME / hashlib.sha256(text).hexdigest()[:32]).write_bytes(text)
        return
    require_inside(store, store / NAME)
    new = not (store / NAME).exists()
    with (store / NAME).open("ab") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if new:
        durable.sync_folder(store)


def read(store: Location) -> dict[str, Record]:
    """Records by key whose files exist unchanged; an incomplete last line is ignored."""
    noted = {record["key"]: record for record in map(_parsed, _text(store).splitlines()) if record}
    with thread_pool(parallel(store)) as pool:
        there = list(pool.map(lambda record: _is_there(store, record), noted.values()))
    return {key: record for (key, record), found in zip(noted.items(), there, strict=True) if found}


def remove(store: Location) -> None:
    """Delete the journal of a complete store."""
    if isinstance(store, Path):
        (store / NAME).unlink(missing_ok=True)
        return
    for entry in (store / NAME).rglob("*"):
        entry.unlink()


def _text(store: Location) -> str:
    if isinstance(store, Path):
        require_inside(store, store / NAME)
        return (store / NAME).read_bytes().decode(errors="replace") if (store / NAME).exists() else ""
    return "".join(entry.read_text() for entry in (store / NAME).rglob("*"))


def _parsed(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and is_file(record.get("key"), record) else None


def _is_there(store: Location, record: Record) -> bool:
    try:
        return bool(sha256_of(store / record["key"])[1] == record["sha256"])
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
