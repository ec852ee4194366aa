"""Names of stores, splits and runs.

A name is one component of a path, in a folder or a bucket: printable text in any script, with spaces and brackets. It
has no path separators, is not hidden, and does not look like an option.
"""

from __future__ import annotations

import unicodedata

from stores.errors import UsageError

LONGEST = 255  # characters
ROOM = 55  # bytes of a file system's 255 that are kept for temporary names: .NAME.realmix-TOKEN.tmp
_ELSEWHERE = frozenset("/\\?#")  # path separators, and what ends the path of an s3:// address


def is_name(name: object) -> bool:
    """Whether this may be the name of a store or run.

    >>> [is_name(name) for name in ("cifar10", "My photos (2)", "v1.2", "../outside", ".hidden", "")]
    [True, True, True, False, False, False]
    """
    return (
        isinstance(name, str)
        and 0 < len(name) <= LONGEST
        and name.isprintable()
        and not _ELSEWHERE & set(name)
        and name[0] not in ".-"
        and name == name.strip()
    )


def require(name: str, what: str) -> str:
    """Check a name before anything is written under it, and return it.

    Args:
        name: the name.
        what: where it comes from, for the error: "--name".

    Raises:
        UsageError: it is not a name, or too long for a file system.
    """
    long = len(name.encode(errors="surrogateescape")) > LONGEST - ROOM
    if is_name(name) and not long:
        return name
    why = f"it has more than {LONGEST - ROOM} bytes" if long else "a name is one part of a path, and printable"
    other = derive(name)
    raise UsageError(f"{what} '{name}' cannot be the name of a store or run", why, other and f"for example {other}")


def derive(text: str) -> str:
    """A name made from any text that needs no quotes in a shell; empty if no character can be kept.

    >>> derive("My Photos (2) & more"), derive("v1.2"), derive("../..")
    ('My_Photos_2_more', 'v1.2', '')
    """
    composed = unicodedata.normalize("NFC", text)  # some systems decompose file names
    kept = "".join(c if _is_plain(c) else " " for c in composed)
    name = "_".join(word for word in kept.split() if word.strip(".-")).lstrip(".-")
    while len(name.encode()) > LONGEST - 2 * ROOM:
        name = name[:-1]
    return name


def _is_plain(c: str) -> bool:
    return c in "_-." or unicodedata.category(c)[0] in "LMN"
