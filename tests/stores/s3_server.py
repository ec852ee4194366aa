"""An S3 server of its own process on loopback, and a proxy before it that cuts connections when told to."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """Yields its port; the process ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


class CuttingProxy:
    """Forwards connections to the server; resets those that carry too much in one direction.

    `cut("up", 1000, times=1)`: the next connection over which a client has sent more than 1,000 bytes is reset there.
    Once `silent` is set, it takes everything and gives nothing.
    """

    def __init__(self, server_port: int) -> None:
        self._server = (HOST, server_port)
        self._direction, self._after, self.times_left, self.cuts = "", 0, 0, 0
        self._guard = threading.Lock()
        self.silent, self.requests, self.answers = threading.Event(), 0, 0  # the latter two in pieces
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, direction: str, after: int, times: int) -> None:
        with self._guard:
            self._direction, self._after, self.times_left, self.cuts = direction, after, times, 0

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(self._server)
            for direction, source, target in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._pump, args=(direction, source, target), daemon=True).start()

    def _pump(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                passed += len(data)
                with self._guard:
                    self.requests += direction == "up"
                    self.answers += direction == "down"
                if self.silent.is_set():
                    continue
                if self._is_cut(direction, passed):
                    for end in (source, target):  # a reset, as when a router forgets the connection
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_cut(self, direction: str, passed: int) -> bool:
        with self._guard:
            if direction != self._direction or passed <= self._after or self.times_left <= 0:
                return False
            self.times_left -= 1
            self.cuts += 1
            return True
