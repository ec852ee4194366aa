"""Counter-based random draws: the number depends on what it is for, never on who drew it or when.

Every draw is a pure function of (seed, purpose, counters), through Philox4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), vectorised over the counters. So a store has the same bytes for any number of
workers, any order and any interruption, its first 25 copies are those of a 25-copy store, and a training run needs no
generator state to be resumed: its order and its augmentations are functions of (seed, step).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCK = 1 << 20
_TABLE = 1 << 16  # entries of a round's table, at most


def key(seed: int, purpose: str) -> int:
    """64-bit Philox key of a named stream.

    >>> key(1, "copies") == key(1, "copies"), key(1, "copies") == key(1, "order")
    (True, False)
    """
    digest = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def philox(key: int, *counters: np.ndarray | int) -> np.ndarray:
    """Philox4x32-10.

    Args:
        key: 64-bit key, see `key`.
        counters: up to four broadcastable arrays of integers in [0, 2^32); the missing ones are 0.

    Returns:
        uint32 values held in uint64 [4, *broadcast shape].
    """
    assert 1 <= len(counters) <= 4, "Philox has four 32-bit counters"
    words = [np.asarray(c, np.uint64) for c in counters] + [np.uint64(0)] * (4 - len(counters))
    c0, c1, c2, c3 = np.broadcast_arrays(*words)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def below(words: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Integers in [0, n) from 32-bit words by multiply-shift; bias below n / 2^32. int64, the words' shape."""
    return ((words * np.asarray(n, np.uint64)) >> _HALF).astype(np.int64)


def unit(words: np.ndarray) -> np.ndarray:
    """Floats in [0, 1) from 32-bit words: float64, the words' shape."""
    return words.astype(np.float64) * 2.0**-32


def generator(seed: int, purpose: str, counter: int = 0) -> np.random.Generator:
    """NumPy generator of one (seed, purpose, counter): for the draws that are no table of integers (Beta, permutation).

    Two counters never overlap: each owns 2^64 blocks of Philox4x64's counter space.
    """
    return np.random.Generator(np.random.Philox(key=key(seed, purpose), counter=[0, 0, counter, 0]))


class Generators:
    """The `generator`s of one (seed, purpose), by counter: one, set back, in a twentieth of the time of a new one."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._rng = generator(seed, purpose)
        self._state = self._rng.bit_generator.state  # its buffer is empty

    def __getitem__(self, counter: int) -> np.random.Generator:
        """Valid until another one is asked for."""
        self._state["state"]["counter"][2] = counter
        self._rng.bit_generator.state = self._state
        return self._rng


def order(seed: int, purpose: str, n: int) -> np.ndarray:
    """A fixed random permutation of 0 … n−1 (int64 [n]): a stable sort of one 64-bit word per element."""
    words = np.empty(n, np.uint64)
    for start in range(0, n, _BLOCK):  # Philox needs a dozen times the memory of its result
        block = np.arange(start, min(start + _BLOCK, n), dtype=np.uint64)
        high, low = philox(key(seed, purpose), block)[:2]
        words[start : start + _BLOCK] = (high << _HALF) | low
    return np.argsort(words, kind="stable")


def shuffled(position: np.ndarray, n: int, seed: int, purpose: str) -> np.ndarray:
    """Element at `position` of an endless stream of random permutations of 0 … n−1, without storing any of them.

    Positions p·n … p·n+n−1 are the p-th epoch: a permutation of its own. A balanced Feistel network keyed by (seed,
    purpose, epoch) permutes the next power of four above n; walking its cycles until the value falls below n makes a
    permutation of exactly n (Black & Rogaway 2002). Any position costs the same, so a run resumes at any step for free,
    and 64 million copies need no index array.

    Args:
        position: int64 [...] (at least one dimension), at least 0.
        n: length of one epoch, 1 ≤ n ≤ 2^62.

    Returns:
        int64 [...], each in [0, n).
    """
    position = np.atleast_1d(np.asarray(position, np.int64))
    bits = max(1, (int(n - 1).bit_length() + 1) // 2)
    epoch = position.ravel() // n
    now = position.ravel() - epoch * n
    epochs, which = (epoch[:1], None) if (epoch == epoch[:1]).all() else np.unique(epoch, return_inverse=True)
    network = _Network(key(seed, purpose), tuple(epochs.tolist()), bits)
    out: np.ndarray = now
    walking = np.arange(len(now))
    while len(walking):
        now = network(now, which)
        out[walking] = now
        outside = np.flatnonzero(now >= n)
        walking, now = walking[outside], now[outside]
        which = None if which is None else which[outside]
    return out.reshape(position.shape)


class _Network:
    """The Feistel networks of some epochs, each a permutation of [0, 4^bits).

    A round's function takes `bits` bits, so where that are few values it is a table: computed once, it is looked up in
    a fraction of the time.
    """

    def __init__(self, key: int, epochs: tuple[int, ...], bits: int) -> None:
        self._bits, self._mask = bits, np.int64((1 << bits) - 1)
        tabled = len(epochs) << bits <= _TABLE
        self._tables = _round_tables(key, epochs, bits) if tabled else None
        self._keys = None if tabled else _round_keys(key, epochs)

    def __call__(self, value: np.ndarray, which: np.ndarray | None) -> np.ndarray:
        """Permute. value: int64 [n]; which: int64 [n], the epoch of each, None if there is one only."""
        left, right = value >> self._bits, value & self._mask
        if self._tables is not None:
            first = 0 if which is None else which << self._bits  # of its epoch's table
            for table in self._tables:
                left ^= np.take(table, right if which is None else right + first, mode="clip")
                left, right = right, left
        else:
            assert self._keys is not None
            for keys in self._keys:
                left ^= _round(right, keys[0 if which is None else which]) & self._mask
                left, right = right, left
        return (left << self._bits) | right


def _round_keys(key: int, epochs: tuple[int, ...]) -> np.ndarray:
    """Of six rounds: uint64 [6, epochs]."""
    which = np.array(epochs)
    words = philox(key, np.arange(6)[:, None], which & 0xFFFFFFFF, which >> 32)
    keys: np.ndarray = (words[0] << _HALF) | words[1]
    return keys


@lru_cache(maxsize=4)
def _round_tables(key: int, epochs: tuple[int, ...], bits: int) -> np.ndarray:
    """Each round's function of every value, epoch by epoch: int64 [6, epochs · 2^bits]."""
    values = np.arange(1 << bits)
    return (_round(values, _round_keys(key, epochs)[..., None]) & np.int64((1 << bits) - 1)).reshape(6, -1)


def _round(half: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A round's function, int64 [...], of one half of a value, int64 [...], and the round's key, uint64 [...]."""
    return _mix(half.astype(np.uint64) ^ key).view(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea & Flood 2014): a cheap 64-bit hash, the Feistel network's round function.

    In place: `x` is the caller's to give away.
    """
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
