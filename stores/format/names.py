"""What a store, a split or a run may be called: one rule for those who write a name and those who read it.

A name is one part of a path, in a folder or in a bucket: printable text in any script, spaces and brackets included. It
leads nowhere else, hides nothing and is no option of a command.
"""

from __future__ import annotations

import unicodedata

from stores.errors import UsageError

LONGEST = 255  # characters
ROOM = 55  # bytes that a file system's 255 leave for what is written beside it: .NAME.12345.tmp
_ELSEWHERE = frozenset("/\\?#")  # parts of a path, and what an s3:// address ends with


def is_name(name: object) -> bool:
    """Whether a store or a run may be called so.

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
    """The name, checked before anything is written under it.

    Args:
        what: whose it is, for the error: "--name".

    Raises:
        UsageError: `is_name` does not hold, or it is longer than a file system allows.
    """
    long = len(name.encode(errors="surrogateescape")) > LONGEST - ROOM
    if is_name(name) and not long:
        return name
    why = f"it has more than {LONGEST - ROOM} bytes" if long else "a name is one part of a path, and printable"
    other = derive(name)
    raise UsageError(f"{what} '{name}' is no name of a store or a run", why, other and f"for example {other}")


def derive(text: str) -> str:
    """A plain name made of any text, which a shell takes without quotes; empty if nothing of it can stay.

    >>> derive("My Photos (2) & more"), derive("v1.2"), derive("../..")
    ('My_Photos_2_more', 'v1.2', '')
    """
    composed = unicodedata.normalize("NFC", text)  # as one system writes it and another does not
    kept = "".join(c if _is_plain(c) else " " for c in composed)
    name = "_".join(word for word in kept.split() if word.strip(".-")).lstrip(".-")
    while len(name.encode()) > LONGEST - 2 * ROOM:
        name = name[:-1]
    return name


def _is_plain(c: str) -> bool:
    return c in "_-." or unicodedata.category(c)[0] in "LMN"
