"""The operations of the augmentation policies: their codes, and the meaning of an amount of each.

An amount is a number in the operation's own unit, the one that the papers' code passes to Pillow:

    identity                                   nothing
    autocontrast, equalize, invert             share of the result blended with the image, 0–1
    posterize                                  bits that are kept, 1–8
    solarize                                   grey level from which pixels are inverted, 0–256
    brightness, contrast, color, sharpness     factor, 1 changes nothing
    blur, smooth                               share of the filtered image, 0–1
    rotate                                     whole degrees, counter-clockwise
    shear_x, shear_y                           tangent of the angle
    translate_x, translate_y                   pixels that the content moves left or up, rounded to whole ones
    rescale                                    share of each side that is cut off, 0–0.25
    cutout                                     half the side of the square, whole pixels

Lengths in pixels are the papers' for images of 32 pixels, and scale with the side of others.
"""

from __future__ import annotations

from torch import Tensor

NAMES = (
    "identity",
    "autocontrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "brightness",
    "contrast",
    "color",
    "sharpness",
    "blur",
    "smooth",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rescale",
    "cutout",
)
(
    IDENTITY,
    AUTOCONTRAST,
    EQUALIZE,
    INVERT,
    POSTERIZE,
    SOLARIZE,
    BRIGHTNESS,
    CONTRAST,
    COLOR,
    SHARPNESS,
    BLUR,
    SMOOTH,
    ROTATE,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    RESCALE,
    CUTOUT,
) = range(len(NAMES))


def codes(*names: str) -> tuple[int, ...]:
    """Codes of operations by name."""
    return tuple(NAMES.index(name) for name in names)


def between(op: Tensor, first: int, last: int) -> Tensor:
    """Bool, where the code is one of `first` … `last`."""
    return (op >= first) & (op <= last)
