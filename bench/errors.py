"""Errors of the exact functions, in units in the last place of the true result: the largest over all inputs.

    python bench/errors.py [--stride N]

With stride 1, all 2^32 inputs of each function, in an hour or two; an odd stride samples all exponents
evenly. The true results are torch's in binary64.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from quadrans.kernels import _fma
from quadrans.kernels.functions import unary
from quadrans.kernels.program import Function

TRUE: dict[Function, Callable[[Tensor], Tensor]] = {
    Function.EXP: torch.exp,
    Function.SIGMOID: torch.sigmoid,
    Function.SOFTPLUS: lambda x: torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs())),
    Function.TANH: torch.tanh,
    Function.GELU: lambda x: 0.5 * x * torch.special.erfc(-x / math.sqrt(2)),
    Function.GELU_TANH: lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}
CHUNK = 1 << 20
NUMBER = _fma.machine_number()


@njit(nogil=True, cache=True)
def evaluate(function: int, x: NDArray[np.float32], out: NDArray[np.float32]) -> bool:
    """out = function(x), by this CPU's best kernels."""
    return unary(_fma.machine(NUMBER), function, np.float32(0), x, out)  # type: ignore[call-arg]


def largest(function: Function, stride: int) -> dict[str, tuple[float, float]]:
    """(error, the input that has it) among normal and among subnormal results."""
    worst = {"normal": (0.0, 0.0), "subnormal": (0.0, 0.0)}
    for start in range(0, 1 << 32, CHUNK * stride):
        bits = np.arange(start, min(start + CHUNK * stride, 1 << 32), stride, dtype=np.uint64)
        x = bits.astype(np.uint32).view(np.float32)
        x = x[np.isfinite(x)]
        out = np.empty_like(x)
        evaluate(int(function), x, out)
        true = TRUE[function](torch.from_numpy(x).double()).numpy()
        finite = np.isfinite(true) & np.isfinite(out) & (true != 0)
        exponent = np.frexp(np.where(finite, true, 1.0))[1] - 1
        distance = np.abs(np.where(finite, out, 0.0) - np.where(finite, true, 0.0))
        error = np.ldexp(distance, 23 - np.maximum(exponent, -126))
        for kind, chosen in (("normal", exponent >= -126), ("subnormal", exponent < -126)):
            errors = np.where(chosen, error, 0.0)
            if errors.size and errors.max() > worst[kind][0]:
                worst[kind] = float(errors.max()), float(x[errors.argmax()])
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stride", type=int, default=4093)
    stride = parser.parse_args().stride
    for function in TRUE:
        worst = largest(function, stride)
        parts = (f"{kind} {error:.3f} at {x:.9g}" for kind, (error, x) in worst.items())
        print(f"{function.name.lower():10} {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
