"""Copies made by a Dask cluster: `realmix-data build … --dask ADDRESS`, through `Client.get_executor()`.

A task is the store's place and a file's number; its worker writes the file and returns a checksum, so no pixel passes
the scheduler. Every worker must see the store, in a shared folder or in object storage, and that is checked before a
task is sent. Dask gives a dead worker's tasks to another; the bytes are the same wherever they were made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.executors import AHEAD, Pool
from stores import __version__, open_store
from stores.errors import IntegrityError, RealMixError, StoreError, UsageError
from stores.storage.location import Location
from stores.system import aside

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 5.0
WORKERS_S = 10.0  # how long the first worker may take to come
ANSWER_S = 60.0  # a question to the scheduler, or to all workers: they may have to load realmix first
GRACE_S = 30.0  # a cluster may be without workers for as long as a nanny or a queue needs to start new ones
_AGAIN = "run the same command again: it continues"
_SHARE = "use a folder that all machines share, or s3://"


@contextlib.contextmanager
def cluster(address: str, store: Location) -> Iterator[Pool]:
    """The workers of the scheduler at `address`, all of whom see `store`.

    Raises:
        UsageError: Dask is not installed, or `address` is none.
        StoreError: no scheduler answers there, it has no workers, or one of them does not see the store.
        RealMixError: later, that the scheduler or all workers are gone, or that one file has killed several workers.
    """
    try:
        from distributed import KilledWorker
    except ImportError as error:
        raise UsageError("--dask needs Dask", str(error), "pip install 'realmix[dask]'") from None
    with _connected(address) as client:
        threads = _check_workers(client, address, store)
        executor = client.get_executor(pure=False)  # pure: a result of an earlier build could be taken for this one's
        try:
            yield Pool(executor, AHEAD * threads, _Watch(client, address).check, _Remote)
        except KilledWorker as error:
            why = f"one file has killed several: {error}"
            raise RealMixError("workers of the cluster die", why, f"give them more memory, then {_AGAIN}") from None
        except (CancelledError, OSError):
            if client.status == "running":  # not the connection: a full disk, say
                raise
            raise RealMixError(f"the Dask scheduler at '{address}' is gone", hint=_AGAIN) from None
        finally:
            executor.shutdown(wait=False)


@dataclass(frozen=True)
class _Remote:
    """A task on a worker. What a worker cannot do is no reason to remove what others have done: it is told plainly."""

    task: Callable[[int], Any]

    def __call__(self, index: int) -> Any:
        from distributed import get_worker

        try:
            return self.task(index)
        except (UsageError, StoreError, IntegrityError) as error:
            raise RealMixError(f"worker {get_worker().address}: {error.what}", error.why, error.hint) from None


class _Watch:
    """Remembers when the cluster last had a worker: without one Dask would wait for ever."""

    def __init__(self, client: Client, address: str) -> None:
        self._client, self._address, self._seen = client, address, time.monotonic()

    def check(self) -> None:
        try:
            threads = self._client.nthreads(callback_timeout=ANSWER_S)
        except TimeoutError:  # it is stopped, or its machine is gone: the connection does not tell
            why = f"it has said nothing in {ANSWER_S:.0f} s"
            raise RealMixError(f"the Dask scheduler at '{self._address}' is gone", why, _AGAIN) from None
        now = time.monotonic()
        if threads:
            self._seen = now
        elif now - self._seen > GRACE_S:
            why = f"none has come back in {GRACE_S:.0f} s"
            raise RealMixError(f"all workers of the Dask cluster at '{self._address}' are gone", why, _AGAIN)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client

    for name in ("distributed", "tornado"):  # what they log with a traceback is told by one of our errors
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        asyncio.run(_greet(address))
        client = Client(address, timeout=CONNECT_S, set_as_default=False, name="realmix")
    except (ValueError, TypeError) as error:
        raise UsageError(f"--dask {address}: no address", str(error), "--dask tcp://HOST:8786") from None
    except (OSError, MemoryError) as error:  # bytes of another protocol may be read as the length of a message
        why = str(error) or "what listens there does not speak Dask's protocol"
        hint = "start one with `dask scheduler`, and workers with `dask worker ADDRESS`"
        raise StoreError(f"no Dask scheduler answers at '{address}'", why, hint) from None
    try:
        yield client
    finally:
        with contextlib.suppress(TimeoutError):  # a scheduler that is gone takes no leave
            client.close(timeout=CONNECT_S)


async def _greet(address: str) -> None:
    """Shake hands once: a `Client` that cannot would take a minute to say so, and more to close."""
    from distributed import Security
    from distributed.comm import connect

    greeting = connect(address, timeout=CONNECT_S, **Security().get_connection_args("client"))
    (await asyncio.wait_for(greeting, CONNECT_S + 1)).abort()


def _check_workers(client: Client, address: str, store: Location) -> int:
    """Every worker opens the store and leaves a mark in it that must be found from here; returns their threads."""
    with contextlib.suppress(TimeoutError):
        client.wait_for_workers(1, timeout=WORKERS_S)
    try:
        threads: dict[str, int] = client.nthreads(callback_timeout=ANSWER_S)
        answers = client.run(_mark, str(store), on_error="return", callback_timeout=ANSWER_S) if threads else {}
    except TimeoutError:
        why = f"one has said nothing in {ANSWER_S:.0f} s"
        raise StoreError(f"the workers of the Dask cluster at '{address}' do not answer", why, "restart them") from None
    if not threads:
        raise StoreError(f"the Dask scheduler at '{address}' has no workers", hint=f"`dask worker {address}`")
    for worker, answer in answers.items():
        if isinstance(answer, ImportError):
            raise StoreError(
                f"worker {worker} cannot load realmix", str(answer), f"install realmix {__version__} there"
            )
        if isinstance(answer, Exception):
            raise StoreError(f"worker {worker} does not see '{store}'", str(answer).partition("\n")[0], _SHARE)
        version, mark = answer
        if version != __version__:
            raise StoreError(f"worker {worker} has realmix {version}, this is {__version__}", hint="use one version")
        if mark and isinstance(store, Path):
            if not (store / mark).exists():
                why = "what it writes there is not found here"
                raise StoreError(f"worker {worker} sees another '{store}'", why, _SHARE)
            (store / mark).unlink()
    return sum(threads.values())


def _mark(store: str) -> tuple[str, str]:
    """On a worker: its version, and the name of an empty file that it has made in the store, if that is a folder."""
    opened = open_store(store, incomplete=True)
    if not isinstance(opened.path, Path):
        return __version__, ""
    mark = aside.named(opened.path / "mark")
    mark.touch()
    return __version__, mark.name
