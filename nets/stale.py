"""Weights that were lowered, and may have changed since: a stamp that notices, and the error that says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..entropy._compiled import import_compiled

Stamped = nn.Module | Mapping[str, nn.Module | Tensor | str]
"""What a stamp looks at, by name: tensors, descriptions, and modules, which are both of their own."""

_NAMED = 3
"""Differences that an error names."""


class StaleWeights(ValueError):
    """Weights aren't those any more that were lowered: what would be coded is another model's."""


class _Seen(NamedTuple):
    """A tensor as it was."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    strides: tuple[int, ...]
    in_memory: int
    """Digest of the elements as they lie in memory."""
    in_order: int
    """Digest of the elements in C order."""


class Stamp:
    """What tensors hold now; `check` tells whether they still do.

    source: a module, or modules, tensors and descriptions by name. What counts are names, shapes and values,
    and not where a tensor lies: `.to()`, and loading equal weights, are no change. Of modules their classes
    and what `describe` says count, too. Every check reads all values, since what writes to `.data` leaves no
    trace: 20 MB take some 2 ms. mend: what the error advises, a clause. A copy or pickle of a stamp looks at
    the copy of its source.
    """

    def __init__(self, source: Stamped, mend: str) -> None:
        self.source, self.mend = source, mend
        self._seen = {name: _look(one) for name, one in self._looked_at()}

    def check(self) -> None:
        """Raise StaleWeights, naming the tensors and what mends it, unless all hold what they held."""
        now = dict(self._looked_at())
        wrong = [f"{name} is missing" for name in self._seen if name not in now]
        for name, one in now.items():
            reason = _difference(self._seen[name], one) if name in self._seen else "is new"
            if reason:
                wrong.append(f"{name or 'it'} {reason}")
        if wrong:
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            raise StaleWeights(f"weights changed since: {', '.join(wrong[:_NAMED])}{more}; {self.mend}")

    def _looked_at(self) -> Iterator[tuple[str, Tensor | str]]:
        source = {"": self.source} if isinstance(self.source, nn.Module) else self.source
        for name, one in source.items():
            if not isinstance(one, nn.Module):
                yield name, one
                continue
            for path, module in one.named_modules(prefix=name, remove_duplicate=False):
                yield path, describe(module)
            yield from one.named_parameters(name)
            yield from one.named_buffers(name)


def describe(module: nn.Module) -> str:
    """What it does with its weights, as far as it says so: its class, `extra_repr`, and hooks if any."""
    # What lists of tensors say is where these lie.
    silent = isinstance(module, nn.ParameterList | nn.ParameterDict)
    said = f"{type(module).__qualname__}({'' if silent else module.extra_repr()})"
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return f"{said} with hooks or another forward" if hooked else said


def _difference(seen: _Seen | str, tensor: Tensor | str) -> str:
    """In what a tensor or description differs from what was seen, or nothing."""
    if isinstance(seen, str) or isinstance(tensor, str):
        return "" if tensor == seen else f"is {_named(tensor)}, not {_named(seen)}"
    if tuple(tensor.shape) != seen.shape:
        return f"has the shape {tuple(tensor.shape)}, not {seen.shape}"
    if tensor.dtype != seen.dtype:
        # The values of a wider type may be the same, those of a narrower one as well.
        back = tensor.detach().to(seen.dtype)
        same = torch.equal(back.to(tensor.dtype), tensor.detach()) and _in_order(back) == seen.in_order
        return "" if same else f"became {tensor.dtype}, which rounded it"
    same_place = tensor.stride() == seen.strides and _is_dense(tensor)
    same = _in_memory(tensor) == seen.in_memory if same_place else _in_order(tensor) == seen.in_order
    return "" if same else "has other values"


def _named(one: object) -> str:
    return one if isinstance(one, str) else "a tensor"


def _look(tensor: Tensor | str) -> _Seen | str:
    if isinstance(tensor, str):
        return tensor
    in_order = _in_order(tensor)
    in_memory = in_order if tensor.is_contiguous() or not _is_dense(tensor) else _in_memory(tensor)
    return _Seen(tuple(tensor.shape), tensor.dtype, tensor.stride(), in_memory, in_order)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, whatever their sequence there: channels-last, too."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _in_memory(tensor: Tensor) -> int:
    """REQUIRES: it is dense."""
    flat = tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return _digest(flat)


def _in_order(tensor: Tensor) -> int:
    return _digest(tensor.detach().contiguous().reshape(-1))


def _digest(flat: Tensor) -> int:
    """Of the bytes of a 1-D tensor without gaps, on any device."""
    data = flat.cpu().view(torch.uint8).numpy()
    whole = data.size & ~7
    state = _chained(data[:whole], np.uint64(data.size))
    if whole < data.size:
        tail = np.zeros(8, np.uint8)
        tail[: data.size - whole] = data[whole:]
        state = _chained(tail, state)
    return int(state)


def _chained(words: NDArray[np.uint8], state: np.uint64) -> np.uint64:
    # Of a tensor inside another's storage the bytes may lie at any address.
    aligned = words if words.ctypes.data % 8 == 0 else words.copy()
    return np.uint64(_loops().digest(aligned.view(np.uint64), _loops().KEY, state))


@cache
def _loops() -> Any:
    return import_compiled("._digest", __package__)
