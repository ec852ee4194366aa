"""Counter-based random draws: the number depends on what it is for, never on who drew it or when.

Every draw is a pure function of (seed, purpose, counters), through Philox4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), vectorised over the counters. So a store has the same bytes for any number of
workers, any order and any interruption, its first 25 copies are those of a 25-copy store, and a training run needs no
generator state to be resumed: its order and its augmentations are functions of (seed, step).
"""

from __future__ import annotations

import hashlib

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCK = 1 << 20


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
    epoch, value = np.divmod(position.ravel(), n)
    half_bits = max(1, (int(n - 1).bit_length() + 1) // 2)
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    epochs, which = np.unique(epoch, return_inverse=True)  # few, so their keys are cheap
    keys = philox(key(seed, purpose), np.arange(6)[:, None], epochs & 0xFFFFFFFF, epochs >> 32)
    round_keys = ((keys[0] << _HALF) | keys[1])[:, which]
    out = value.astype(np.uint64)
    walking, now = np.arange(len(out)), out
    while len(walking):
        left, right = now >> bits, now & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        now = (left << bits) | right
        out[walking] = now
        outside = now >= np.uint64(n)
        walking, now, round_keys = walking[outside], now[outside], round_keys[:, outside]
    return out.astype(np.int64).reshape(position.shape)


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
