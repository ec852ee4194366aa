"""Lines of metrics.jsonl: one JSON object each, every one with the checksum of itself; a damaged line is no line.

    {"kind": "train", "step": 50, "loss": 1.25, "crc32": "0d4a1185"}

`crc32` is that of the line's bytes without it, `{"kind": "train", "step": 50, "loss": 1.25}`. A run of before there
were checksums has lines without. What was cut off at the file's end belongs to a killed run, and is no damage.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stores.storage.location import LocalFile
from trainer.runs import fields

FILE = "metrics.jsonl"
_CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\Z')


def line(record: Mapping[str, Any]) -> bytes:
    """A record as it is written, its end of line included."""
    data = json.dumps(record, allow_nan=False).encode()
    return data[:-1] + f', "crc32": "{zlib.crc32(data):08x}"}}\n'.encode()


def parse(data: bytes) -> dict[str, Any] | None:
    """The record of a line, without its end and without its checksum; None if it is damaged."""
    found = _CHECKSUM.search(data)
    if found is not None:
        data = data[: found.start()] + b"}"
        if zlib.crc32(data) != int(found[1], 16):
            return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if fields.is_line(record) else None


def read(folder: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """The sound lines of a run's folder, each as its bytes and as a record, and how many others there are.

    Raises:
        IntegrityError: the file is no regular file.
    """
    try:
        file = LocalFile(folder / FILE)
    except FileNotFoundError:
        return [], 0
    try:
        lines = file.read(0, file.size).split(b"\n")[:-1]
    finally:
        file.close()
    found = [(data, record) for data in lines if (record := parse(data)) is not None]
    return found, len(lines) - len(found)
