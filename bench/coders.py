"""The coders that `quadrans bench coder` runs, ours and the peers', each as its user would call it.

To add one, write a function that takes a workload's data and the number of threads, makes what a codec makes
once (tables, models) and what another part of a codec would hand over (tensors, lists), and returns a `Job`.
Its docstring says what is timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..entropy import gaussian_table
from ..entropy._compiled import simd_level
from .workloads import Gaussians, Mixture, cell_mass

Stream = bytes | list[bytes]


@dataclass(frozen=True)
class Job:
    """encode() and decode(stream) are timed; table_bits() is the ideal cost under the coder's own table."""

    encode: Callable[[], Stream]
    decode: Callable[[Any], ArrayLike]
    table_bits: Callable[[], float] | None = None


Prepare = Callable[[Any, int], Job]


@dataclass(frozen=True)
class Coder:
    """One way to code one kind of workload. most: the symbols beyond which it takes too much memory."""

    name: str
    about: str
    prepare: Prepare
    peer: str | None
    most: int
    within: Callable[[], AbstractContextManager[None]]
    """What holds while it is prepared and run."""


CODERS: dict[tuple[str, str], Coder] = {}
"""By kind of workload and name; ours come first, the first of a kind is what others are compared with."""


def coder(
    name: str,
    *kinds: str,
    peer: str | None = None,
    most: int = 1 << 62,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
    about: str = "",
) -> Callable[[Prepare], Prepare]:
    """Registers what prepares jobs of these kinds; peer: the package, one of PEERS, that it needs."""

    def register(prepare: Prepare) -> Prepare:
        text = about or " ".join((prepare.__doc__ or "").split())
        for kind in kinds:
            CODERS[kind, name] = Coder(name, text, prepare, peer, most, within)
        return prepare

    return register


# Ours


def four_names(name: str, precision: int = 14, **options: Any) -> Prepare:
    """Jobs of a module of `entropy` with our `encode`, `decode`, `Encoder` and `Decoder`."""

    def prepare(load: Gaussians, threads: int) -> Job:
        module: Any = importlib.import_module(f"..entropy.{name}", __package__)
        table = gaussian_table(load.scales, precision=precision)
        threaded = {"threads": threads} if name == "rans" else {}

        def put_all() -> bytes:
            encoder = module.Encoder(table, **options)
            for symbols, indexes in zip(load.symbols, load.indexes, strict=True):
                encoder.put(symbols, indexes)
            return encoder.finish()

        def get_all(stream: bytes) -> list[NDArray[np.int32]]:
            decoder = module.Decoder(stream, table)
            symbols = [decoder.get(indexes) for indexes in load.indexes]
            decoder.close()
            return symbols

        def cost() -> float:
            return table.bits(load.symbols, load.indexes)

        if load.symbols.ndim == 2:
            return Job(put_all, get_all, cost)
        return Job(
            lambda: module.encode(load.symbols, load.indexes, table, **options, **threaded),
            lambda stream: module.decode(stream, load.indexes, table, **threaded),
            cost,
        )

    return prepare


@contextmanager
def without_simd() -> Iterator[None]:
    """The variable is read once, so it is read again on either side."""
    try:
        with patch.dict(os.environ, QUADRANS_SIMD="scalar"):
            simd_level.cache_clear()
            yield
    finally:
        simd_level.cache_clear()


coder("lanes", "gaussians", "serial", about="entropy.encode, decode; Encoder.put, Decoder.get if serial")(
    four_names("rans")
)
coder("lanes-scalar", "gaussians", "serial", within=without_simd, about="the same with QUADRANS_SIMD=scalar")(
    four_names("rans")
)
coder("lanes-compact", "gaussians", "serial", about="the same with compact=True: fewer lanes")(
    four_names("rans", compact=True)
)
coder("range", "gaussians", "serial", about="the same of entropy.range_coder")(four_names("range_coder"))
coder("rans64", "gaussians", "serial", about="the same of entropy.rans64: CompressAI's bitstream")(
    four_names("rans64", precision=16)
)


def mixture(load: Mixture, threads: int, ready: bool) -> Job:
    """Jobs of entropy.mixture, whose quantization of the parameters is timed unless they are ready."""
    from ..entropy import mixture as ours

    floats = load.weights, load.means, load.scales
    integers = ours.parameters(*floats)

    def mixtures() -> ours.Mixtures:
        return integers if ready else ours.parameters(*floats)

    return Job(
        lambda: ours.encode(load.symbols, mixtures(), threads=threads),
        lambda stream: ours.decode(stream, mixtures(), threads=threads),
        lambda: ours.bits(load.symbols, integers),
    )


coder("mixture", "mixture", about="entropy.mixture from float32 weights, means and scales")(
    partial(mixture, ready=False)
)
coder("mixture-ready", "mixture", about="the same from quantized parameters")(partial(mixture, ready=True))


# The peers


def cdfs(load: Gaussians | Mixture, weights: Any, means: Any, scales: Any) -> Any:
    """float32 tensor (n, 2 bound + 2): the CDF at the edges of each symbol, from 0 to 1.

    weights, means, scales: K tensors each, (n,), weights also (1,). Written to be as fast as torch allows.
    """
    import torch

    edges = torch.arange(-load.bound, load.bound + 2, dtype=torch.float32) - 0.5
    total: Any = 0.5
    for weight, mean, scale in zip(weights, means, scales, strict=True):
        edge = (edges - mean[:, None]).mul_((0.5**0.5 / scale)[:, None])
        total = edge.erf_().mul_(0.5 * weight[:, None]).add_(total)
    total[:, 0], total[:, -1] = 0, 1
    return total


def components(load: Mixture) -> Any:
    """Weights, means and scales: three tensors (K, n)."""
    import torch

    return [torch.from_numpy(array) for array in (load.weights, load.means, load.scales)]


# CompressAI


@cache
def compressai() -> tuple[Any, Any]:
    """Its modules `ans` and `entropy_models`, which is all that coding runs.

    Importing the package itself also imports its datasets, transforms and models, and with them torchvision,
    pandas, torch_geometric and more; so a bare package takes its place while nothing else has imported it.
    """
    if "compressai" not in sys.modules:
        spec = importlib.util.find_spec("compressai")
        if spec is None:
            raise ModuleNotFoundError("No module named 'compressai'")
        package: Any = ModuleType("compressai")
        package.__path__ = list(spec.submodule_search_locations or ())
        package.get_entropy_coder = lambda: "ans"
        package.available_entropy_coders = lambda: ["ans"]
        sys.modules["compressai"] = package
    return importlib.import_module("compressai.ans"), importlib.import_module("compressai.entropy_models")


def compressai_table(load: Gaussians) -> tuple[Any, tuple[list, list, list]]:
    """Its GaussianConditional for our scales, and that one's tables as the lists that its `ans` takes."""
    model = compressai()[1].GaussianConditional(None)
    model.update_scale_table(load.scales.tolist())
    return model, (model.quantized_cdf.tolist(), model.cdf_length.tolist(), model.offset.tolist())


@coder("compressai", "gaussians", peer="compressai")
def compressai_as_called(load: Gaussians, threads: int) -> Job:
    """GaussianConditional.build_indexes from float32 scales, and compress or decompress, tensor to tensor"""
    import torch

    model, _ = compressai_table(load)
    y = torch.from_numpy(load.symbols.astype(np.float32))[None]
    scales = model.scale_table[torch.from_numpy(load.indexes)][None]
    return Job(
        lambda: model.compress(y, model.build_indexes(scales))[0],
        lambda stream: model.decompress([stream], model.build_indexes(scales))[0],
    )


@coder("compressai", "serial", peer="compressai")
def compressai_serial(load: Gaussians, threads: int) -> Job:
    """as its serial models do: build_indexes and `ans` for each call, its tables turned into lists once"""
    import torch

    ans = compressai()[0]
    model, tables = compressai_table(load)
    y = torch.from_numpy(load.symbols)
    scales = model.scale_table[torch.from_numpy(load.indexes)]

    def encode() -> bytes:
        encoder = ans.BufferedRansEncoder()
        symbols: list[int] = []
        indexes: list[int] = []
        for values, scale in zip(y, scales, strict=True):
            symbols += values.tolist()
            indexes += model.build_indexes(scale).tolist()
        encoder.encode_with_indexes(symbols, indexes, *tables)
        return encoder.flush()

    def decode(stream: bytes) -> Any:
        decoder = ans.RansDecoder()
        decoder.set_stream(stream)
        get = decoder.decode_stream
        return torch.stack([torch.tensor(get(model.build_indexes(s).tolist(), *tables)) for s in scales])

    return Job(encode, decode)


@coder("compressai-ans", "gaussians", peer="compressai")
def compressai_ans(load: Gaussians, threads: int) -> Job:
    """compressai.ans alone, from lists to lists"""
    encoder, decoder = compressai()[0].RansEncoder(), compressai()[0].RansDecoder()
    _, tables = compressai_table(load)
    symbols, indexes = load.symbols.tolist(), load.indexes.tolist()
    return Job(
        lambda: encoder.encode_with_indexes(symbols, indexes, *tables),
        lambda stream: decoder.decode_with_indexes(stream, indexes, *tables),
    )


@coder("compressai", "mixture", peer="compressai", most=1_000_000)
def compressai_mixture(load: Mixture, threads: int) -> Job:
    """GaussianMixtureConditional.compress and decompress, tensor to tensor"""
    import torch

    model = compressai()[1].GaussianMixtureConditional(len(load.weights))
    y = torch.from_numpy(load.symbols.astype(np.float32)).reshape(1, 1, 1, -1)
    weights, means, scales = (array[None, :, None] for array in components(load))
    parameters = scales, means, weights
    # What its compress returns beside the stream, and a file must carry.
    most, some = load.bound + 1, torch.ones(1, dtype=torch.long)
    return Job(
        lambda: model.compress(y, *parameters)[0][0],
        lambda stream: model.decompress(stream, most, some, *parameters).reshape(-1),
    )


# constriction


@coder("constriction", "gaussians", "serial", peer="constriction")
def constriction_gaussians(load: Gaussians, threads: int) -> Job:
    """AnsCoder with QuantizedGaussian, a mean and a scale in float64 for each symbol"""
    stream = constriction()
    model = stream.model.QuantizedGaussian(-load.bound, load.bound)
    symbols = np.atleast_2d(load.symbols)
    scales = load.scales[np.atleast_2d(load.indexes)]
    means = np.zeros_like(scales)

    def encode() -> bytes:
        encoder = stream.stack.AnsCoder()
        # Last in, first out: the calls are encoded in reverse.
        for i in range(len(symbols) - 1, -1, -1):
            encoder.encode_reverse(symbols[i], model, means[i], scales[i])
        return encoder.get_compressed().tobytes()

    def decode(data: bytes) -> list[NDArray[np.int32]]:
        decoder = stream.stack.AnsCoder(np.frombuffer(data, np.uint32))
        return [decoder.decode(model, mean, scale) for mean, scale in zip(means, scales, strict=True)]

    return Job(encode, decode)


@coder("constriction-grouped", "gaussians", peer="constriction")
def constriction_grouped(load: Gaussians, threads: int) -> Job:
    """AnsCoder with one Categorical for each scale, the symbols sorted by index in NumPy, both timed"""
    stream = constriction()
    alphabet = np.arange(-load.bound, load.bound + 1)
    models = [
        stream.model.Categorical(row, perfect=False) for row in cell_mass(alphabet, 0.0, load.scales[:, None])
    ]

    def groups() -> tuple[NDArray[np.intp], list[tuple[int, int, Any]]]:
        """Where the symbols of each row stand, and of each row that occurs (start, end, model)."""
        ends = np.cumsum(np.bincount(load.indexes, minlength=len(models))).tolist()
        starts = [0, *ends[:-1]]
        used = [group for group in zip(starts, ends, models, strict=True) if group[0] < group[1]]
        # Sorting 16-bit keys is a radix sort.
        return np.argsort(load.indexes.astype(np.int16), kind="stable"), used

    def encode() -> bytes:
        order, used = groups()
        encoder, symbols = stream.stack.AnsCoder(), load.symbols[order] + np.int32(load.bound)
        for start, end, model in reversed(used):
            encoder.encode_reverse(symbols[start:end], model)
        return encoder.get_compressed().tobytes()

    def decode(data: bytes) -> NDArray[np.int32]:
        order, used = groups()
        decoder = stream.stack.AnsCoder(np.frombuffer(data, np.uint32))
        symbols = np.empty(load.indexes.size, np.int32)
        symbols[order] = np.concatenate([decoder.decode(model, end - start) for start, end, model in used])
        symbols -= np.int32(load.bound)
        return symbols

    return Job(encode, decode)


@coder("constriction", "mixture", peer="constriction", most=1_000_000)
def constriction_mixture(load: Mixture, threads: int) -> Job:
    """AnsCoder with Categorical, the matrix of all symbols' probabilities built in torch included"""
    stream = constriction()
    model = stream.model.Categorical(perfect=False)
    symbols = load.symbols + np.int32(load.bound)
    parameters = components(load)

    def probabilities() -> NDArray[np.float32]:
        return cdfs(load, *parameters).diff().clamp_(min=0).numpy()

    def encode() -> bytes:
        encoder = stream.stack.AnsCoder()
        encoder.encode_reverse(symbols, model, probabilities())
        return encoder.get_compressed().tobytes()

    def decode(data: bytes) -> NDArray[np.int32]:
        decoder = stream.stack.AnsCoder(np.frombuffer(data, np.uint32))
        return decoder.decode(model, probabilities()) - np.int32(load.bound)

    return Job(encode, decode)


def constriction() -> Any:
    """Its module `stream`."""
    return importlib.import_module("constriction").stream


# torchac


def torchac() -> Any:
    """The module; its first import on a machine compiles for some seconds."""
    return importlib.import_module("torchac")


@coder("torchac", "gaussians", "serial", peer="torchac", most=1_000_000)
def torchac_ready(load: Gaussians, threads: int) -> Job:
    """encode_ and decode_int16_normalized_cdf, each symbol's int16 CDF ready; a stream for each call"""
    import torch

    ac, bound = torchac(), load.bound
    scales = torch.from_numpy(load.scales.astype(np.float32))
    rows = cdfs(load, [torch.ones(1)], [torch.zeros_like(scales)], [scales])
    # As encode_float_cdf does it: a cell has at least 1 of 65536; the last value, 65536, is read from a 0.
    steps = torch.arange(rows.shape[1])
    rows = ((rows * (65537 - rows.shape[1])).round().long() + steps).to(torch.int16)
    ready = rows[torch.from_numpy(np.atleast_2d(load.indexes))]
    symbols = torch.from_numpy((np.atleast_2d(load.symbols) + bound).astype(np.int16))

    def encode() -> list[bytes]:
        return [ac.encode_int16_normalized_cdf(*call) for call in zip(ready, symbols, strict=True)]

    def decode(streams: list[bytes]) -> Any:
        decoded = [ac.decode_int16_normalized_cdf(*call) for call in zip(ready, streams, strict=True)]
        return torch.stack(decoded) - bound

    return Job(encode, decode)


@coder("torchac-build", "gaussians", peer="torchac", most=1_000_000)
def torchac_built(load: Gaussians, threads: int) -> Job:
    """encode_ and decode_float_cdf, each symbol's CDF built from its float32 scale in torch, included"""
    import torch

    scales = torch.from_numpy(load.scales.astype(np.float32)[load.indexes])
    return torchac_job(load, lambda: cdfs(load, [torch.ones(1)], [torch.zeros_like(scales)], [scales]))


@coder("torchac", "mixture", peer="torchac", most=1_000_000)
def torchac_mixture(load: Mixture, threads: int) -> Job:
    """encode_ and decode_float_cdf, each symbol's CDF built in torch, included"""
    parameters = components(load)
    return torchac_job(load, lambda: cdfs(load, *parameters))


def torchac_job(load: Gaussians | Mixture, build: Callable[[], Any]) -> Job:
    import torch

    ac, bound = torchac(), load.bound
    symbols = torch.from_numpy((load.symbols + bound).astype(np.int16))
    return Job(
        lambda: ac.encode_float_cdf(build(), symbols),
        lambda stream: ac.decode_float_cdf(build(), stream) - bound,
    )


PEERS: dict[str, Callable[[], Any]] = {
    "compressai": compressai,
    "constriction": constriction,
    "torchac": torchac,
}
"""What imports each peer; an exception means that it can't be used here."""
