"""Latents under a `StepModel`: networks over whole planes, the coder between them, for each step."""

from __future__ import annotations

import numpy as np

from ..entropy.errors import CorruptStream
from . import cpu
from ._coders import Int32Array, SymbolDecoder, get_symbols, too_large
from ._quantize import quantize, store, to_indexes
from .models import Inputs, own_steps
from .orders import Order, Step
from .program import FloatArray
from .quantization import LATENT_LIMIT
from .step_models import StepModel


class StepLatent:
    """A latent, a model of steps and an order, over planes (H, W, M + F + memory), made once."""

    def __init__(
        self,
        model: StepModel,
        features: FloatArray,
        order: Order,
        threads: int,
        ticks: dict[str, int] | None = None,
        *,
        inputs: Inputs | None = None,
    ) -> None:
        """ticks: gets the time of each part added, as `decode_latent` says."""
        self.model, self._order, self._threads, self._inputs = model, order, threads, inputs
        self._steps = own_steps(order)
        # Whatever isn't decoded or remembered yet is +0.
        self._planes = np.zeros((*features.shape[:2], model.width), np.float32)
        self._planes[:, :, model.channels : model.channels + model.features] = features
        self._ticks, self._last = ticks, cpu.ticks()

    @property
    def y_hat(self) -> FloatArray:
        """A copy, (H, W, M)."""
        return np.ascontiguousarray(self._planes[:, :, : self.model.channels])

    def decode(self, decoder: SymbolDecoder) -> None:
        """Fill y_hat. Raises as `decode_latent`."""
        for number, step in enumerate(self._steps):
            offsets, indexes = self._parameters(number, step)
            self._write(step, get_symbols(decoder, indexes), offsets)
            self._took("coder")
            if (beyond := self._refine(number, step)) is not None:
                raise CorruptStream(beyond)

    def quantize(self, y: FloatArray) -> tuple[Int32Array, Int32Array]:
        """(symbols, indexes), 1-D in coding order, of y (H, W, M); fills y_hat. Raises as `encode_latent`."""
        symbols, indexes = [], []
        plane = y.reshape(-1), 0, self._order.width, self.model.channels
        for number, step in enumerate(self._steps):
            offsets, index = self._parameters(number, step)
            symbol = np.empty(index.shape, np.int32)
            count = index.shape[1]
            where = step.rows, step.cols, step.first, count
            flat = offsets.reshape(-1), self.model.quantization.bits, symbol.reshape(-1)
            bad = quantize(*plane, *where, *flat)
            if bad >= 0:
                at = step.rows[bad // count], step.cols[bad // count], step.first[bad // count] + bad % count
                raise too_large(y[at], at)
            self._write(step, symbol, offsets)
            if (beyond := self._refine(number, step)) is not None:
                raise ValueError(beyond)
            symbols.append(symbol.reshape(-1))
            indexes.append(index.reshape(-1))
        return np.concatenate(symbols), np.concatenate(indexes)

    def _parameters(self, number: int, step: Step) -> tuple[FloatArray, Int32Array]:
        """(offsets, indexes), (n, width) each, of a step."""
        arguments = self._planes, self._order, number, self._threads, self._inputs
        self.model.remember(*arguments)
        scales, means = self.model.parameters(*arguments)
        self._took("nets")
        count, width = scales.shape
        if (count, width) != (len(step), step.width or self.model.channels):
            raise ValueError(f"{self._order.name}: step {number} changed while it was coded")
        memory = np.stack([scales, means]).reshape(-1)
        offsets, indexes = np.empty((count, width), np.float32), np.empty((count, width), np.int32)
        places = 0, scales.size, width, count, width
        quantization = self.model.quantization
        rule = quantization.thresholds, quantization.bits
        to_indexes(memory, *places, *rule, offsets.reshape(-1), indexes.reshape(-1))
        self._took("index")
        return offsets, indexes

    def _write(self, step: Step, symbols: Int32Array, offsets: FloatArray) -> None:
        where = step.rows, step.cols, step.first, symbols.shape[1]
        _, width, pitch = self._planes.shape
        flat = symbols.reshape(-1), offsets.reshape(-1), self.model.quantization.bits
        if store(self._planes.reshape(-1), 0, width, pitch, *where, *flat) >= 0:
            raise CorruptStream(f"a latent lies beyond +-{LATENT_LIMIT}")

    def _refine(self, number: int, step: Step) -> str | None:
        """Add what comes after a step to what it decoded. Returns an error's text for what is too large."""
        added = self.model.refinement(self._planes, self._order, number, self._threads, self._inputs)
        if added is not None:
            at = step.elements(self.model.channels)
            # A sum is -0 only if both its terms are, and y_hat never is.
            with np.errstate(all="ignore"):
                refined = self._planes[at] + added
                bad = np.argwhere(~(np.abs(refined) <= LATENT_LIMIT))
            if len(bad):
                where = tuple(int(np.broadcast_to(axis, refined.shape)[tuple(bad[0])]) for axis in at)
                value = refined[tuple(bad[0])]
                return f"the latent at {where} is refined to {value}, beyond +-{LATENT_LIMIT}"
            self._planes[at] = refined
            self._took("nets")
        return None

    def _took(self, part: str) -> None:
        """Adds the time since the last call to a part's."""
        if self._ticks is not None:
            now = cpu.ticks()
            self._ticks[part] = self._ticks.get(part, 0) + now - self._last
            self._last = now
