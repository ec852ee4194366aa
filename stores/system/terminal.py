"""Standard streams that survive the loss of their reader: a closed terminal must not end a long build.

Once the reader of a pipe has ended or the terminal is closed, output is discarded and the command ends with the exit
code of its work. Other write errors (a full disk) are ignored on standard error and raised on standard output.
"""

from __future__ import annotations

import errno
import io
import select
import sys
from typing import TextIO

GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET}


class _Outliving(io.FileIO):
    """A standard stream's file; `lost` once its reader is gone."""

    lost = False

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        try:
            while not self.lost:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [self], [])  # the pipe is full, and another process has made it non-blocking
        except OSError as error:
            gone, asked_for = error.errno in GONE, self.fileno() != 2
            self.lost = gone or asked_for
            if asked_for and not gone:
                raise
        return memoryview(data).nbytes


def outlive() -> None:
    """Make this process survive the loss of the readers of its standard streams."""
    sys.stdout, sys.stderr = _outliving(sys.stdout, sys.__stdout__), _outliving(sys.stderr, sys.__stderr__)


def is_lost(stream: TextIO) -> bool:
    """Whether the reader of a standard stream is gone."""
    raw = getattr(stream.buffer, "raw", stream.buffer) if hasattr(stream, "buffer") else None
    return isinstance(raw, _Outliving) and raw.lost


def flush() -> None:
    """Flush both streams; raises the errors of writing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed from the start
            stream.flush()


def _outliving(stream: TextIO, own: TextIO | None) -> TextIO:
    """The stream on top of an `_Outliving`; a stream that is not this process's own (a test's) as it is."""
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
