"""bench/errors.py finds the errors that ARITHMETIC.md states, and would find others."""

from __future__ import annotations

import pytest
import torch

from quadrans.bench import errors
from quadrans.kernels.program import Function

STRIDE = 65_537
BOUNDS = {Function.EXP: 0.686, Function.SIGMOID: 1.504, Function.SOFTPLUS: 1.861, Function.TANH: 1.458}


@pytest.mark.parametrize("function", BOUNDS, ids=lambda function: function.name)
def test_within_what_is_stated(function: Function) -> None:
    worst = errors.largest(function, STRIDE)
    assert 0.4 < worst["normal"][0] <= BOUNDS[function]
    assert worst["subnormal"][0] <= 0.775


def test_another_function_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(errors.TRUE, Function.EXP, lambda x: torch.exp(x) * (1 + 2**-20))
    assert errors.largest(Function.EXP, STRIDE)["normal"][0] > 4
