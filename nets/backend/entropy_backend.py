"""`EntropyBackend`: entropy coding for any torch codec. Tensors and parameters in, bytes out, and back.

backend = EntropyBackend()
streams = backend.compress(y, mean, scale)           # (B, M, H, W) tensors: a stream for each image
y_hat = backend.decompress(streams, mean, scale)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ... import kernels
from ...entropy import CdfTable
from ...entropy._lanes import check_threads
from ..entropy_model import EntropyModel
from ..stale import Stamp
from ..system import ExactFeatures
from .checked import CheckedRecipe, IndexMismatch
from .exact import ExactRecipe
from .modules import ModulesRecipe, check_context, check_parts, is_lowered, order_function
from .tables import table_and_thresholds
from .tensors import FloatArray, check_count, check_images, stack


class _Coder(Protocol):
    """Codes the latent of one image."""

    channels: int | None
    given: int | None

    def encode(self, y: Tensor, given: tuple[Tensor, ...]) -> tuple[bytes, FloatArray]: ...

    def decode(self, data: Any, given: tuple[Tensor, ...]) -> FloatArray: ...

    def bits(self, y: Tensor, given: tuple[Tensor, ...]) -> float: ...


class _Recipe(Protocol):
    """Data that a coder is made of, again after a copy or pickle."""

    mode: ClassVar[str]

    def build(self) -> _Coder: ...


class EntropyBackend:
    """Codes latents of any codec: what gives (mean, scale), in that sequence, and a coding order.

    parameters: what makes them.
      - None: they are given themselves, or are what `hyper` gives.
      - A function or module, called with what is given of one image, (1, ...) each, so that a batch equals
        its images alone. It gives (mean, scale), or one tensor of 2M channels, means first. In an order of
        several steps it is called for each with `y_hat` (1, M, H, W), zero where nothing is decoded yet, and
        `step`, by name.
      - With `context`, a pointwise module from (features, context features) as channels of one tensor.
      - A sequence of modules, one for each step, from (y_hat, features) as channels of one tensor; each gives
        all M channels' parameters, or those of the step's channels alone.
    order: "parallel", "wavefront", "raster", "checkerboard" (anchors where row + column is even), or a
    function (height, width) -> kernels.Order.
    context: an nn.Conv2d (B, M, H, W) to context features, used under the order's mask, whatever class and
    mask it has; steps that don't read a context get zeros.
    hyper: a module from what is given to features. channels: M, for orders of several steps that neither a
    context nor an order of channels tells it.
    rounding: "residual" (y_hat = round(y - mean) + mean) or "integer" (y_hat = round(y)).
    scales, table, thresholds: Gaussians of these scales instead of the 64 default ones, or another table, of
    a row for each scale ("integer": for each scale and 16 means, `gaussian_table(scales[:, None], ...)`);
    thresholds between the scales, by default their geometric means.
    exact: None to lower parameters, context and hyper to exact kernels if they are modules, and to run them
    as they are if they are functions; functions beside modules are refused. False: modules, too, run in
    torch, where they must be in eval mode. True: nothing else than exact kernels.
    device: "cpu", or "cuda" for the exact kernels, through CuPy. threads: of the CPU's.

    What is promised:
      - mode "exact": of the same weights and given tensors, the same stream, symbols and y_hat on every
        machine, to the bit. If what is given to `decompress` differs from what was given to `compress`, in
        whatever bit, or the weights do, `TableMismatch`. Weights that change after they were lowered raise
        `StaleWeights`.
      - mode "checked": float parameters may differ between machines. The decoder has the encoder's symbols,
        or raises `IndexMismatch` naming the first step at which an index differs; y_hat differs by no more
        than the means do. The cost is 2 bytes a step and 7 a stream.

    Raises TypeError for a module that can't be lowered, by name; ValueError with the numbers for what doesn't
    fit.
    """

    _recipe: _Recipe
    _stamp: Stamp | None
    _coder: _Coder | None

    def __init__(
        self,
        parameters: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        order: str | Callable[[int, int], kernels.Order] = "parallel",
        *,
        context: nn.Conv2d | None = None,
        hyper: Callable[..., Any] | None = None,
        channels: int | None = None,
        rounding: str = "residual",
        scales: ArrayLike | None = None,
        table: CdfTable | None = None,
        thresholds: ArrayLike | None = None,
        exact: bool | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        if context is not None:
            check_context(context)
        own_table, limits = table_and_thresholds(rounding, scales, table, thresholds)
        if isinstance(parameters, list | tuple | nn.ModuleList):
            parameters = tuple(parameters)
        function = order_function(order, context)
        check_parts(parameters, function, context, hyper)
        shared: dict[str, Any] = {
            "parameters": parameters,
            "order": function,
            "context": context,
            "hyper": hyper,
            "channels": channels,
            "rounding": rounding,
            "table": own_table,
            "thresholds": limits,
            "threads": check_threads(threads),
        }
        if is_lowered(exact, {"parameters": parameters, "context": context, "hyper": hyper}):
            recipe = ModulesRecipe(device=device, **shared)
            try:
                self._start(recipe, Stamp(recipe.modules(), "make the backend again"))
            except TypeError as error:
                raise TypeError(f"{error}. With exact=False it runs in torch, indexes checked") from error
            return
        if device != "cpu":
            raise ValueError(f"device={device!r} is for exact kernels, and this backend has none")
        self._start(CheckedRecipe(**shared), None)

    @property
    def mode(self) -> str:
        """What is promised: "exact" or "checked"."""
        return self._recipe.mode

    def __repr__(self) -> str:
        order = getattr(self._recipe, "order", None)
        return f"EntropyBackend(order={order!r}, mode={self.mode!r})"

    @classmethod
    def of(
        cls,
        model: EntropyModel,
        order: str,
        *,
        hyper: kernels.Layer | Mapping[str, ExactFeatures] | None = None,
        table: CdfTable | None = None,
        thresholds: ArrayLike | None = None,
        device: str = "cpu",
        threads: int = 1,
        stamp: Stamp | None = None,
    ) -> EntropyBackend:
        """A backend over an entropy model of `quadrans.nets`, lowered to exact kernels.

        order: one of the model's `orders`. hyper: the exact layer from what `compress` and `decompress` are
        given (one tensor, say z_hat) to the model's features; None: features are given, then the model's
        other inputs. table, thresholds: instead of Gaussians of the 64 default scales. stamp: of the weights
        that the model was lowered from, checked at each call. device: "cpu", or "cuda" to run the exact part
        on, through CuPy. Raises TypeError naming a module without exact counterpart, ValueError with the
        numbers for what doesn't fit, ImportError for CUDA without CuPy.
        """
        self = cls.__new__(cls)
        self._start(ExactRecipe(model, order, hyper, table, thresholds, device, threads), stamp)
        return self

    def _start(self, recipe: _Recipe, stamp: Stamp | None) -> None:
        self._recipe, self._stamp = recipe, stamp
        self._coder = recipe.build()

    def compress(self, y: Tensor, *given: Tensor) -> list[bytes]:
        """One stream for each image of y (B, M, H, W), the one that it would have alone.

        y: finite floats on any device, float64 rounded to float32. given: what the parameters are made of,
        (B, C, H, W) floats each; functions, and modules in torch, may take any tensors of B images. Raises
        TypeError, ValueError with the numbers for tensors that don't fit, TypeError for modules in torch that
        are in training, StaleWeights.
        """
        return [stream for stream, _ in self._each("encode", y, given)]

    def encode(self, y: Tensor, *given: Tensor) -> tuple[list[bytes], Tensor]:
        """(streams, y_hat): as `compress`, and what `decompress` will give of them, on y's device."""
        streams, images = zip(*self._each("encode", y, given), strict=True)
        return list(streams), stack(images, y)

    def bits(self, y: Tensor, *given: Tensor) -> Tensor:
        """(B,) float64: what the symbols of each image cost, to compare with estimates.

        A stream takes this, rounded up, its head, checksums and some bytes that the coder's lanes need. As
        `compress`.
        """
        return torch.tensor(self._each("bits", y, given), dtype=torch.float64, device="cpu")

    def _each(self, what: str, y: Tensor, given: tuple[Tensor, ...]) -> list[Any]:
        """What a method of the coder gives for each image."""
        coder = self._ready()
        with torch.no_grad():
            check_images("y", y)
            self._check_given(coder, given, len(y))
            if coder.channels not in (None, y.shape[1]):
                raise ValueError(f"y of shape {tuple(y.shape)}, the backend's have {coder.channels} channels")
            out = []
            for i in range(len(y)):
                with _naming(i, len(y)):
                    out.append(getattr(coder, what)(y[i : i + 1], _image(given, i)))
            return out

    def decompress(self, streams: Sequence[bytes], *given: Tensor) -> Tensor:
        """y_hat (B, M, H, W) float32, on the device of the first tensor given, of B streams.

        given: as `compress` had it. Raises CorruptStream, TableMismatch (another table, model, order or
        size, and in the exact mode any other bit of what is given), and as `compress`.
        """
        coder = self._ready()
        if isinstance(streams, bytes | bytearray | memoryview | str) or not isinstance(streams, Sequence):
            kind = type(streams).__name__
            raise TypeError(f"streams must be a list or tuple of bytes, one for each image, not {kind}")
        with torch.no_grad():
            if not len(streams):
                raise ValueError("no streams")
            self._check_given(coder, given, len(streams))
            images = []
            for i, data in enumerate(streams):
                with _naming(i, len(streams)):
                    images.append(coder.decode(data, _image(given, i)))
            return stack(images, given[0])

    def _check_given(self, coder: _Coder, given: tuple[Tensor, ...], count: int) -> None:
        if not given or coder.given not in (None, len(given)):
            needed = coder.given or "at least 1"
            raise TypeError(f"{len(given)} tensors are given, this backend takes {needed}")
        for number, one in enumerate(given):
            # Functions may take tensors of any kind.
            check = check_images if coder.given is not None else check_count
            check(f"given {number}", one, count)

    def _ready(self) -> _Coder:
        if self._stamp is not None:
            self._stamp.check()
        if self._coder is None:
            self._coder = self._recipe.build()
        return self._coder

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_coder": None}


@contextmanager
def _naming(i: int, count: int) -> Iterator[None]:
    """Errors that arise within it say which of several images they are about."""
    try:
        yield
    except IndexMismatch as error:
        error.image = i
        raise
    except (TypeError, ValueError) as error:
        if count > 1:
            error.args = (f"image {i}: {error}",)
        raise


def _image(given: tuple[Tensor, ...], i: int) -> tuple[Tensor, ...]:
    return tuple(one[i : i + 1] for one in given)
