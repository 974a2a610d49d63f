"""Tensors in, tensors out: what a backend is given, checked, and as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]


def check_count(name: str, tensor: Any, count: int) -> Tensor:
    """A tensor of `count` images. TypeError, ValueError for anything else."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")
    if not tensor.ndim or len(tensor) != count:
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} holds no {count} images")
    return tensor


def check_images(name: str, tensor: Any, count: int | None = None) -> Tensor:
    """A (B, C, H, W) tensor of floats, none of its sizes 0, of `count` images if given.

    TypeError, ValueError, with the numbers, for anything else.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be of floats, not {tensor.dtype}")
    if tensor.ndim != 4 or not tensor.numel():
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} must be (B, C, H, W), none of them 0")
    if count is not None and len(tensor) != count:
        raise ValueError(f"{name} holds {len(tensor)} images, not {count}")
    return tensor


def check_same_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """ValueError with both shapes unless they are the same."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} must be {tuple(shape)}")


def planes(name: str, image: Tensor) -> FloatArray:
    """(C, H, W) float32 of one image (1, C, H, W), float64 rounded to it; don't write to it.

    ValueError with the place of what isn't finite.
    """
    array: FloatArray = image.detach()[0].float().contiguous().cpu().numpy()
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        bad = array.size - int(np.isfinite(array).sum())
        raise ValueError(
            f"{name} of shape {array.shape}: {bad} values aren't finite as float32, the first, "
            f"{float(array[where])}, at {where}"
        )
    return array


def channels_last(array: FloatArray) -> FloatArray:
    """(C, H, W) to (H, W, C)."""
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def stack(images: Sequence[FloatArray], like: Tensor) -> Tensor:
    """(B, C, H, W) float32 on a tensor's device, of (C, H, W) arrays, any strides."""
    whole = np.empty((len(images), *images[0].shape), np.float32)
    for out, image in zip(whole, images, strict=True):
        out[...] = image
    return torch.from_numpy(whole).to(like.device)
