"""What trackers show as pictures: a batch's views as the network sees them, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

COLUMNS = 16  # samples of a batch that are shown
CELL = 64  # side in pixels that small images are magnified to, by a whole factor
GAP, GREY = 2, 128
RAMP = ((247, 247, 245), (10, 92, 158))  # colours of 0 and 1


def grid(views: Sequence[Tensor]) -> np.ndarray:
    """Rows of images: uint8 [H, W, 3] from one float [n, 3, h, w] in [−1, 1] a row, the first 16 of each."""
    rows = []
    for view in views:
        pixels = view[:COLUMNS].detach().float().add(1).mul(127.5).round().clamp(0, 255).byte()
        rows.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
    height, width = rows[0].shape[1:3]
    scale = max(1, CELL // max(height, width))
    cell_height, cell_width = height * scale + GAP, width * scale + GAP
    sheet = np.full((cell_height * len(rows) + GAP, cell_width * len(rows[0]) + GAP, 3), GREY, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * cell_height + GAP, j * cell_width + GAP
            large = image.repeat(scale, 0).repeat(scale, 1)
            sheet[top : top + height * scale, left : left + width * scale] = large
    return sheet


def heat_map(confusion: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] from int [K, K]: a square a cell, its colour between pale (0) and blue (the whole row)."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    low, high = (np.array(color, np.float64) for color in RAMP)
    cells: np.ndarray = (low + share[..., None] * (high - low)).round().astype(np.uint8)
    side = max(4, min(32, 640 // len(confusion)))
    return cells.repeat(side, 0).repeat(side, 1)
