"""Counter-based random numbers: each draw is a pure function of (seed, purpose, counters).

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), vectorised over the
counters. So a store has the same bytes for any number of workers, any order and any interruption; the first 25 of 50
copies are those of a store with 25; and a training run resumes without generator state, because its order and its
augmentations are functions of (seed, step).
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
_TABLE = 1 << 16  # most entries of a round's table


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
        counters: up to four broadcastable arrays of integers in [0, 2^32); missing ones are 0.

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
    """Integers in [0, n) from 32-bit words by multiply-shift, with a bias below n / 2^32: int64, shape of `words`."""
    return ((words * np.asarray(n, np.uint64)) >> _HALF).astype(np.int64)


def unit(words: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) from 32-bit words: float64, shape of `words`."""
    return words.astype(np.float64) * 2.0**-32


def generator(seed: int, purpose: str, counter: int = 0) -> np.random.Generator:
    """NumPy generator of (seed, purpose, counter), for other distributions than uniform (Beta, permutations).

    The streams of two counters never overlap: each has 2^64 blocks of Philox4x64's counter space.
    """
    return np.random.Generator(np.random.Philox(key=key(seed, purpose), counter=[0, 0, counter, 0]))


class Generators:
    """The `generator`s of one (seed, purpose) by counter; resets one object, 20 times faster than making new ones."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._rng = generator(seed, purpose)
        self._state = self._rng.bit_generator.state  # its buffer is empty

    def __getitem__(self, counter: int) -> np.random.Generator:
        """The generator of a counter, valid until the next one is requested."""
        self._state["state"]["counter"][2] = counter
        self._rng.bit_generator.state = self._state
        return self._rng


def order(seed: int, purpose: str, n: int) -> np.ndarray:
    """A fixed random permutation of 0 … n−1 (int64 [n]): a stable sort of one 64-bit word per element."""
    words = np.empty(n, np.uint64)
    for start in range(0, n, _BLOCK):  # Philox needs about 12 times the memory of its result
        block = np.arange(start, min(start + _BLOCK, n), dtype=np.uint64)
        high, low = philox(key(seed, purpose), block)[:2]
        words[start : start + _BLOCK] = (high << _HALF) | low
    return np.argsort(words, kind="stable")


def shuffled(position: np.ndarray, n: int, seed: int, purpose: str) -> np.ndarray:
    """Elements of an endless stream of random permutations of 0 … n−1, without storing any of them.

    Positions p·n … p·n+n−1 are epoch p, which has its own permutation. A balanced Feistel network keyed by (seed,
    purpose, epoch) permutes the numbers below the next power of four above n; applying it again until the value falls
    below n gives a permutation of exactly n (Black & Rogaway 2002). Every position costs the same, so a run resumes at
    any step for free, and 64 million copies need no index array.

    Args:
        position: int64 [...], at least one dimension, values ≥ 0.
        n: length of an epoch, 1 ≤ n ≤ 2^62.
        seed: of the permutations.
        purpose: name of the stream.

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
    """The Feistel networks of several epochs, each a permutation of [0, 4^bits).

    The function of a round has 2^bits values; where these are few, they are computed once and looked up.
    """

    def __init__(self, key: int, epochs: tuple[int, ...], bits: int) -> None:
        self._bits, self._mask = bits, np.int64((1 << bits) - 1)
        tabled = len(epochs) << bits <= _TABLE
        self._tables = _round_tables(key, epochs, bits) if tabled else None
        self._keys = None if tabled else _round_keys(key, epochs)

    def __call__(self, value: np.ndarray, which: np.ndarray | None) -> np.ndarray:
        """Permute.

        Args:
            value: int64 [n].
            which: int64 [n], index of the epoch of each value; None if there is only one epoch.
        """
        left, right = value >> self._bits, value & self._mask
        if self._tables is not None:
            first = 0 if which is None else which << self._bits  # start of the epoch's table
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
    """Keys of the six rounds: uint64 [6, epochs]."""
    which = np.array(epochs)
    words = philox(key, np.arange(6)[:, None], which & 0xFFFFFFFF, which >> 32)
    keys: np.ndarray = (words[0] << _HALF) | words[1]
    return keys


@lru_cache(maxsize=4)
def _round_tables(key: int, epochs: tuple[int, ...], bits: int) -> np.ndarray:
    """The function of each round for every value, epoch by epoch: int64 [6, epochs · 2^bits]."""
    values = np.arange(1 << bits)
    return (_round(values, _round_keys(key, epochs)[..., None]) & np.int64((1 << bits) - 1)).reshape(6, -1)


def _round(half: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The function of a round: int64 [...] from half of a value, int64 [...], and the round's key, uint64 [...]."""
    return _mix(half.astype(np.uint64) ^ key).view(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014), a cheap 64-bit hash; changes `x` in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
