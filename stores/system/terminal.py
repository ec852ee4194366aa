"""Standard output and error that outlive whoever reads them: losing the terminal must not lose the work.

A pipe whose reader has ended, or a terminal that was closed, takes no more: what is written then goes nowhere, and the
command ends with the exit code of what it did. So does whatever cannot be written to standard error, on a full disk
say; to standard output, which may be what was asked for, that is an error.
"""

from __future__ import annotations

import errno
import io
import select
import sys
from typing import TextIO

GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET}


class _Outliving(io.FileIO):
    """A standard stream's file; `lost` once nothing that is written to it arrives."""

    lost = False

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        try:
            while not self.lost:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [self], [])  # full, and another process has said that nobody shall wait for it
        except OSError as error:
            gone, asked_for = error.errno in GONE, self.fileno() != 2
            self.lost = gone or asked_for
            if asked_for and not gone:
                raise
        return memoryview(data).nbytes


def outlive() -> None:
    """Let this process outlive the readers of its standard streams."""
    sys.stdout, sys.stderr = _outliving(sys.stdout, sys.__stdout__), _outliving(sys.stderr, sys.__stderr__)


def is_lost(stream: TextIO) -> bool:
    """Whether nobody reads any more what is written to a standard stream."""
    raw = getattr(stream.buffer, "raw", stream.buffer) if hasattr(stream, "buffer") else None
    return isinstance(raw, _Outliving) and raw.lost


def flush() -> None:
    """Write what is held back; errors are those of writing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed from the start
            stream.flush()


def _outliving(stream: TextIO, own: TextIO | None) -> TextIO:
    """The same stream on an `_Outliving`; one that is not this process's own, a test's say, as it is."""
    if stream is None or stream is not own or not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = _Outliving(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # type: ignore[type-var]
        stream.encoding,
        stream.errors,
        "\n",
        stream.line_buffering,
        stream.write_through,
    )
