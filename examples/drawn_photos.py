"""Draws what `make demo-photos` trains on: pictures of five shapes before clutter, and the file of a network's weights.

    python examples/drawn_photos.py FOLDER

writes FOLDER/train/<shape>/*.png, 60 of each, FOLDER/test/<shape>/*.png, 40 of each, and FOLDER/lite0.safetensors,
ImageNet weights of EfficientNet-Lite0 from a Python package. Shapes have any size, place, turn and colours; the
background is a coarse texture with other things in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from networks.loading.packaged import write_efficientnet_lite0

SIDE, TRAIN, TEST = 96, 60, 40
CORNERS = {"triangle": 3, "square": 4, "hexagon": 6, "star": 5, "cross": 4}


def outline(shape: str, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Corners of a shape around the middle of the picture, in any size and turn."""
    centre, radius = rng.uniform(34, 62, 2), rng.uniform(20, 32)
    turn, count = rng.uniform(0, 2 * np.pi), CORNERS[shape]
    angles = turn + 2 * np.pi * np.arange(2 * count) / (2 * count)
    radii = {"star": [1, 0.4], "cross": [1, 0.25]}.get(shape, [1, np.cos(np.pi / count)])
    reach = radius * np.tile(radii, count)
    return [
        (float(centre[0] + r * np.cos(a)), float(centre[1] + r * np.sin(a))) for a, r in zip(angles, reach, strict=True)
    ]


def colour(rng: np.random.Generator) -> tuple[int, ...]:
    """Any."""
    return tuple(int(level) for level in rng.integers(0, 256, 3))


def picture(shape: str, rng: np.random.Generator) -> Image.Image:
    """One picture."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    plain = Image.new("RGB", (SIDE, SIDE), colour(rng))
    image = Image.blend(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), plain, 0.5)
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, size = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(4, 12)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=colour(rng))
    draw.polygon(outline(shape, rng), fill=colour(rng), outline=colour(rng), width=2)
    noise = rng.normal(0, 12, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    """Draw all of them."""
    rng = np.random.default_rng(1)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for shape in CORNERS:
            (folder / part / shape).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(shape, rng).save(folder / part / shape / f"{i:03}.png")
    write_efficientnet_lite0(folder / "lite0.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
