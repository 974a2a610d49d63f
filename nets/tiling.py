"""Transforms of large images piece by piece, so that memory follows the tile and not the image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

TILE = 64
OVERLAP = 4


def tiled(
    transform: Callable[[Tensor], Tensor],
    x: Tensor,
    in_scale: int,
    out_scale: int,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Tensor:
    """transform(x) for x (1, C, h * in_scale, w * in_scale), computed by tiles of tile x tile units.

    The result is (1, D, h * out_scale, w * out_scale), on the CPU, of the pieces' dtype. Each tile is
    computed with `overlap` units around it, which are then cut off, so it equals the whole but for
    rounding if what the transform reads for an output lies within `overlap` units of it. Four 5x5 layers
    of stride 2, either way, reach less than two units of 16 pixels.
    """
    h, w = x.shape[2] // in_scale, x.shape[3] // in_scale
    out: Tensor | None = None
    for top, left in product(range(0, h, tile), range(0, w, tile)):
        bottom, right = min(top + tile, h), min(left + tile, w)
        first_row, first_col = max(top - overlap, 0), max(left - overlap, 0)
        last_row, last_col = min(bottom + overlap, h), min(right + overlap, w)
        rows = slice(first_row * in_scale, last_row * in_scale)
        piece = transform(x[:, :, rows, first_col * in_scale : last_col * in_scale])
        kept = piece[
            :,
            :,
            (top - first_row) * out_scale : (bottom - first_row) * out_scale,
            (left - first_col) * out_scale : (right - first_col) * out_scale,
        ]
        if out is None:
            out = torch.empty(1, piece.shape[1], h * out_scale, w * out_scale, dtype=piece.dtype)
        out[:, :, top * out_scale : bottom * out_scale, left * out_scale : right * out_scale] = kept
    assert out is not None
    return out
