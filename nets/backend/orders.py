"""Coding orders of latents of any size, each made and checked once."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from ...kernels import Order
from .stream import with_order

_KEPT = 32
"""Sizes whose orders are kept, the latest."""


class Orders:
    """A function (height, width) -> Order, with its latest results and their fingerprints."""

    def __init__(self, function: Callable[[int, int], Order], crc: int) -> None:
        """crc: what fingerprints continue (`stream.own_fingerprint`)."""
        self._function, self._crc, self._lock = function, crc, Lock()
        self._kept: dict[tuple[int, int], tuple[Order, int]] = {}

    def __call__(self, height: int, width: int) -> tuple[Order, int]:
        """(order, fingerprint). TypeError, ValueError if the function gives no order of that size."""
        size = height, width
        with self._lock:
            if size in self._kept:
                return self._kept[size]
        order = self._function(height, width)
        if not isinstance(order, Order):
            raise TypeError(f"the order's function must give a kernels.Order, not {type(order).__name__}")
        if (order.height, order.width) != size:
            raise ValueError(f"an order of {order.height}x{order.width} positions for {height}x{width}")
        found = order, with_order(self._crc, order)
        with self._lock:
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[size] = found
        return found
