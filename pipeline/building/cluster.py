"""Work on a Dask cluster, through `Client.get_executor()`: `realmix-data build …` and `embed … --dask ADDRESS`.

A task is the location of the store and a file number; the worker writes the file and returns its checksum, so no pixels
pass through the scheduler. Every worker must see the store, in a shared folder or in object storage; this is checked
first. Dask gives the tasks of a dead worker to others; the bytes do not depend on the worker.
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

from pipeline.building.executors import AHEAD, Pool
from stores import __version__
from stores.errors import IntegrityError, RealMixError, StoreError, UsageError, install
from stores.format import manifest
from stores.storage.location import Location, locate
from stores.system import aside

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 5.0
WORKERS_S = 10.0  # timeout for the first worker
ANSWER_S = 60.0  # timeout of a request to the scheduler or to all workers, which may have to import realmix
GRACE_S = 30.0  # time without workers, in which a nanny or a queue may start new ones
_AGAIN = "run the same command again: it continues"
_SHARE = "use a folder that all machines share, or s3://"


@contextlib.contextmanager
def cluster(address: str, store: Location) -> Iterator[Pool]:
    """A pool of the workers of a Dask scheduler.

    Args:
        address: of the scheduler.
        store: that all workers must see.

    Raises:
        UsageError: Dask is not installed, or `address` is not an address.
        StoreError: no scheduler answers, it has no workers, or one of them does not see the store.
        RealMixError: (later) the scheduler or all workers are gone, or one file has killed several workers.
    """
    try:
        from distributed import KilledWorker
    except ImportError as error:
        raise UsageError("--dask needs Dask", str(error), install("dask")) from None
    with _connected(address) as client:
        threads = _check_workers(client, address, store)
        executor = client.get_executor(pure=False)  # pure: results of an earlier build could be reused
        try:
            yield Pool(executor, AHEAD * threads, _Watch(client, address).check, _Remote)
        except KilledWorker as error:
            why = f"one file has killed several: {error}"
            raise RealMixError("workers of the cluster die", why, f"give them more memory, then {_AGAIN}") from None
        except (CancelledError, OSError):
            if client.status == "running":  # not the connection but, say, a full disk
                raise
            raise RealMixError(f"the Dask scheduler at '{address}' is gone", hint=_AGAIN) from None
        finally:
            executor.shutdown(wait=False)


@dataclass(frozen=True)
class _Remote:
    """A task on a worker; its errors become plain RealMixErrors, after which finished files are kept."""

    task: Callable[[int], Any]

    def __call__(self, index: int) -> Any:
        from distributed import get_worker

        try:
            return self.task(index)
        except (UsageError, StoreError, IntegrityError) as error:
            raise RealMixError(f"worker {get_worker().address}: {error.what}", error.why, error.hint) from None


class _Watch:
    """Raises when the cluster has been without workers for `GRACE_S`; Dask would wait forever."""

    def __init__(self, client: Client, address: str) -> None:
        self._client, self._address, self._seen = client, address, time.monotonic()

    def check(self) -> None:
        try:
            threads = self._client.nthreads(callback_timeout=ANSWER_S)
        except TimeoutError:  # it is stopped, or its machine is gone, which the connection does not show
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

    _silence("distributed", "tornado")
    try:
        asyncio.run(_greet(address))
        client = Client(address, timeout=CONNECT_S, set_as_default=False, name="realmix")
    except (ValueError, TypeError) as error:
        raise UsageError(f"--dask {address}: no address", str(error), "--dask tcp://HOST:8786") from None
    except (OSError, MemoryError) as error:  # bytes of another protocol may be taken for the length of a message
        why = str(error) or "what listens there does not speak Dask's protocol"
        hint = "start one with `dask scheduler`, and workers with `dask worker ADDRESS`"
        raise StoreError(f"no Dask scheduler answers at '{address}'", why, hint) from None
    try:
        yield client
    finally:
        with contextlib.suppress(TimeoutError):  # the scheduler is gone
            client.close(timeout=CONNECT_S)


def _silence(*packages: str) -> None:
    """Stop the packages' loggers from printing tracebacks of what becomes one of our errors.

    A package's own logger is not enough: Dask gives levels to several below it, `tornado.application` among them.
    """
    for name in (*packages, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in packages:
            logging.getLogger(name).setLevel(logging.CRITICAL)


async def _greet(address: str) -> None:
    """Connect once, because a `Client` takes a minute to report that it cannot connect."""
    from distributed import Security
    from distributed.comm import connect

    greeting = connect(address, timeout=CONNECT_S, **Security().get_connection_args("client"))
    (await asyncio.wait_for(greeting, CONNECT_S + 1)).abort()


def _check_workers(client: Client, address: str, store: Location) -> int:
    """Check that every worker sees the store: it makes a file there that must exist here. Returns their threads."""
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
    """On a worker: the version of realmix, and the name of an empty file made in the store, if that is a folder."""
    place = locate(store)
    manifest.read(place, incomplete=True)
    if not isinstance(place, Path):
        return __version__, ""
    mark = aside.named(place / "mark")
    mark.touch()
    return __version__, mark.name
