"""A note about images whose values use a small part of their range, such as 12 bits in 16-bit files.

Converted to 8 bits they would be nearly black.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stores.images import picture

FAR_BELOW = 1 / 8  # of the largest value of the type: at most 32 of 256 grey levels
SAMPLE = 64  # files checked


def note(files: Sequence[str]) -> str:
    """The note for the user, with a remedy; empty if there is nothing to say. Broken files are skipped here."""
    found = []
    for row in np.unique(np.linspace(0, len(files) - 1, SAMPLE, dtype=np.int64)):
        try:
            reach = picture.reach(picture.contents(files[row]))
        except picture.BrokenImage:
            continue
        if reach is not None:
            found.append(reach)
    if not found or any(reach.largest >= FAR_BELOW * reach.possible for reach in found):
        return ""
    largest, possible, grey = max(found)
    white = (1 << max(1, int(largest).bit_length())) - 1  # 4095 for 3900
    remedy = f"`--range 0,{white}` makes {white} white" if grey else "save them with 8 bits"
    return (
        f"of 0 to {possible:.0f}, these pictures use the numbers up to {largest:.0f}: they become nearly black; "
        f"if that is not meant, {remedy}"
    )
