"""The strong policies with Pillow, one image at a time: what the batched ones are compared with, and real images."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Resampling, Transform

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}
AFFINE = {
    "shear_x": lambda v: (1, v, 0, 0, 1, 0),
    "shear_y": lambda v: (1, 0, 0, v, 1, 0),
    "translate_x": lambda v: (1, 0, v, 0, 1, 0),
    "translate_y": lambda v: (1, 0, 0, 0, 1, v),
}
FILTERS = (
    Resampling.LANCZOS,
    Resampling.BICUBIC,
    Resampling.BILINEAR,
    Resampling.BOX,
    Resampling.HAMMING,
    Resampling.NEAREST,
)


def patches(height: int = 32, width: int = 32, count: int = 400) -> np.ndarray:
    """uint8 [count, H, W, 3] cut out of two photographs, with a few that have hardly any levels."""
    from sklearn.datasets import load_sample_images

    cut = []
    for photo in load_sample_images().images:
        rows, columns = photo.shape[0] // height, photo.shape[1] // width
        grid = photo[: rows * height, : columns * width].reshape(rows, height, columns, width, 3).swapaxes(1, 2)
        cut.append(grid.reshape(-1, height, width, 3))
    both = np.concatenate(cut)
    chosen = both[np.random.default_rng(0).choice(len(both), count - 5, replace=count - 5 > len(both))]
    flat = np.full((5, height, width, 3), 77, np.uint8)  # one level
    flat[1, 0, 0] = 200  # two
    flat[2, : height // 2] = [0, 128, 255]
    flat[3] = chosen[0] // 64
    flat[4] = 255 - chosen[1] // 64
    return np.concatenate([chosen, flat])


def transform(image: Image.Image, name: str, amount: float, method: int = 0) -> Image.Image:
    """One operation but cutout, its amount in the operation's unit."""
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(amount)
    if name in AFFINE:
        return image.transform(image.size, Transform.AFFINE, AFFINE[name](amount))
    if name == "rotate":
        return image.rotate(amount)
    if name == "rescale":
        width, height = image.size
        box = (amount * width, amount * height, width * (1 - amount), height * (1 - amount))
        return image.crop(box).resize(image.size, FILTERS[method])
    if name in ("blur", "smooth"):
        return Image.blend(image, image.filter(getattr(ImageFilter, name.upper())), amount)
    if name in ("autocontrast", "equalize", "invert"):
        return Image.blend(image, getattr(ImageOps, name)(image), amount)
    if name in ("posterize", "solarize"):
        return getattr(ImageOps, name)(image, int(amount))
    assert name == "identity", name
    return image


def window(centre: np.ndarray, half: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a square around a centre, clipped."""
    (row, column), (height, width) = centre, size
    return (
        slice(max(row - half, 0), max(min(row + half, height), 0)),
        slice(max(column - half, 0), max(min(column + half, width), 0)),
    )


def randaugment(array: np.ndarray, names: list[str], amounts: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] to float64 [H, W, 3] in [−1, 1]: alpha marks what is hidden, as in the papers' code."""
    size = array.shape[:2]
    image = Image.fromarray(array).convert("RGBA")
    for name, amount, centre in zip(names, amounts, centres[:-1], strict=True):
        if name == "cutout":
            pixels = np.asarray(image).copy()
            pixels[window(centre, int(amount), size)] = (125, 122, 113, 0)
            image = Image.fromarray(pixels)
        elif name in ("autocontrast", "equalize", "invert", "posterize", "solarize"):
            image = transform(image.convert("RGB"), name, amount).convert("RGBA")
        else:
            image = transform(image, name, amount)
    pixels = np.asarray(image)
    scaled = pixels[..., :3] * (2 / 255) - 1
    scaled[pixels[..., 3] == 0] = 0
    scaled[window(centres[-1], min(size) // 2 // 2, size)] = 0
    return scaled


def ctaugment(array: np.ndarray, names: list[str], levels: np.ndarray, centres: np.ndarray, legacy: bool) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [H, W, 3]; levels [depth, 2] in [0, 1], the second one chooses rescale's filter."""
    image = Image.fromarray(array)
    width, height = image.size
    for name, (level, filter_level), centre in zip(names, levels, centres, strict=False):
        if name == "cutout":
            pixels = np.asarray(image).copy()
            pixels[window(centre, (1 + int(level * min(image.size) * 0.499)) // 2, (height, width))] = 127
            image = Image.fromarray(pixels)
            continue
        span = {"translate_x": width, "translate_y": height}.get(name, 1) if not legacy else 1
        if name in ENHANCERS:
            amount = 0.1 + 1.9 * level
        elif name in AFFINE:
            amount = (2 * level - 1) * 0.3 * span
        elif name == "rotate":
            amount = int(np.round((2 * level - 1) * 45))
        elif name == "posterize":
            amount = 1 + int(level * 7.999)
        elif name == "solarize":
            amount = int(level * 255.999)
        else:
            amount = level * (0.25 if name == "rescale" else 1)
        image = transform(image, name, amount, int(filter_level * 5.99))
    return np.asarray(image)
