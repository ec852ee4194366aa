"""Script of test_repair: kill -9 a repair at every sync, rename and removal, run it again, compare every byte.

Usage: killed_repairs.py STORE. Prints the number of kills. Forks, so it must not be imported by a process with threads.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.check.repair import repair

LOST = ("copies/images/c/0/0/0/0/0", "train/labels/zarr.json")


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def repaired(store: Path, call: str = "", at: int = 0) -> bool:
    """Repair in a child that kills itself in its `at`-th call of that name; False if it came to its end."""
    child = os.fork()
    if child == 0:
        left = at

        def deadly(plain: Callable[..., None]) -> Callable[..., None]:
            def called(*args: object) -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                plain(*args)

            return called

        if call:
            setattr(os, call, deadly(getattr(os, call)))
        repair(store)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main() -> None:
    store = Path(sys.argv[1])
    whole, kills = bytes_of(store), 0
    for call in ("fsync", "replace", "unlink"):
        at = killed = 1
        while killed:
            for file in LOST:
                (store / file).unlink()
            killed = repaired(store, call, at)
            repaired(store)
            assert bytes_of(store) == whole, (call, at, bytes_of(store).keys() ^ whole.keys())
            at, kills = at + 1, kills + killed
        assert at > 2, f"nothing was killed in {call}"
    print(kills)


if __name__ == "__main__":
    main()
