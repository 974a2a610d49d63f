"""Coding orders: partitions whose steps read only what is decoded, and refusal of all others."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from quadrans.kernels import orders
from quadrans.kernels.orders import Order, Step, Taps

SIDES = st.integers(1, 9)
PARITIES = st.sampled_from(["even", "odd"])
CAUSAL, CHECKERBOARD = orders.causal_mask(5), orders.checkerboard_mask(5)
NO_TAPS = orders.mask_taps(orders.empty_mask(1))
ELIC, CHARM, TCM = (16, 16, 32, 64, 192), orders.even_slices(320, 10), orders.even_slices(320, 5)


def all_orders(h: int, w: int) -> list[Order]:
    """One of each kind, with few channels."""
    return [
        orders.raster(h, w, CAUSAL),
        orders.wavefront(h, w, CAUSAL),
        orders.wavefront(h, w, orders.window_taps()),
        orders.checkerboard(h, w, CHECKERBOARD, "even"),
        orders.checkerboard(h, w, CHECKERBOARD, "odd"),
        orders.parallel(h, w),
        orders.slices(h, w, (1, 1, 2, 3)),
        orders.slices_checkerboard(h, w, (2, 1, 4), CHECKERBOARD, "even"),
        orders.slices_checkerboard(h, w, (2, 2), CHECKERBOARD, "odd"),
        orders.quadtree(h, w, 8),
        mixed(h, w, [1, 3, 2], "odd"),
    ]


def causal(size: tuple[int, int], channels: int | None, partial: bool, taps: Taps, steps: list[Step]) -> bool:
    """The definition, element by element: a partition in which each step reads only what is decoded."""
    total = 1 if channels is None else channels
    every = set(product(range(size[0]), range(size[1]), range(total)))
    offsets = list(zip(taps.dr.tolist(), taps.dc.tolist(), strict=True))
    decoded: set[tuple[int, int, int]] = set()
    for step in steps:
        ranges = [
            (r, c, range(f, f + (step.width or total)))
            for r, c, f in zip(step.rows.tolist(), step.cols.tolist(), step.first.tolist(), strict=True)
        ]
        coded = [(r, c, k) for r, c, span in ranges for k in span]
        reads = {(r, c, k) for r, c, k in every if k < step.known}
        if step.context and not partial:
            reads |= {(r + i, c + j, k) for r, c, span in ranges for i, j in offsets for k in span}
        if not coded or step.known > total or (channels is None and (step.known or step.width)):
            return False
        if not every.issuperset(coded) or len(set(coded)) != len(coded) or not decoded.isdisjoint(coded):
            return False
        if not decoded.issuperset(reads & every):
            return False
        decoded.update(coded)
    return decoded == every


@given(SIDES, SIDES)
def test_orders_are_causal(h: int, w: int) -> None:
    for order in all_orders(h, w):
        assert causal((h, w), order.channels, order.partial, order.taps, list(order)), order.name


def mixed(h: int, w: int, sizes: list[int], parity: str) -> Order:
    """Anchors with all their channels, then the rest in slices."""
    anchors, *rest = orders.checkerboard(h, w, NO_TAPS, parity)
    steps = [
        replace(step, first=np.array([sum(sizes[:k])]), width=size)
        for step in rest
        for k, size in enumerate(sizes)
    ]
    return Order("mixed", h, w, NO_TAPS, [anchors, *steps], sum(sizes))


@st.composite
def perhaps_wrong(draw: st.DrawFn) -> tuple[tuple[int, int], int | None, bool, Taps, list[Step]]:
    """A valid order's steps, changed in up to two places, and other taps than it was made for."""
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    order = draw(
        st.sampled_from(
            [
                orders.wavefront(h, w, NO_TAPS, draw(st.integers(0, 4))),
                orders.checkerboard(h, w, NO_TAPS, draw(PARITIES)),
                orders.slices(h, w, sizes),
                orders.slices_checkerboard(h, w, sizes, NO_TAPS, draw(PARITIES)),
                orders.quadtree(h, w, 4),
                replace(orders.quadtree(h, w, 8), partial=False),
                mixed(h, w, sizes, draw(PARITIES)),
            ]
        )
    )
    steps = list(order)
    for _ in range(draw(st.integers(0, 2))):
        a, b = (draw(st.integers(0, len(steps) - 1)) for _ in range(2))
        step, i = steps[a], draw(st.integers(0, len(steps[a]) - 1))
        change = draw(
            st.sampled_from(["swap", "context", "known", "move", "first", "width", "drop", "again"])
        )
        if change == "swap":
            steps[a], steps[b] = steps[b], steps[a]
        elif change == "context":
            steps[a] = replace(step, context=not step.context)
        elif change == "known":
            steps[a] = replace(step, known=draw(st.integers(0, 9)))
        elif change == "move":
            rows = step.rows.copy()
            rows[i] = draw(st.integers(-1, h))
            steps[a] = replace(step, rows=rows)
        elif change == "first" and order.channels is not None:
            first = step.first.copy()
            first[i] = draw(st.integers(-1, order.channels))
            steps[a] = replace(step, first=first)
        elif change == "width":
            steps[a] = replace(step, width=draw(st.none() | st.integers(1, (order.channels or 0) + 1)))
        elif change == "drop":
            keep = np.arange(len(step)) != i
            if keep.any():
                steps[a] = replace(step, rows=step.rows[keep], cols=step.cols[keep], first=step.first[keep])
        elif change == "again":
            steps.insert(b, step)
    center = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    taps = draw(st.lists(st.booleans(), min_size=9, max_size=9).map(lambda bits: np.reshape(bits, (3, 3))))
    sparse = taps & (np.arange(9).reshape(3, 3) % draw(st.integers(1, 9)) == 0)
    chosen = NO_TAPS if order.partial else orders.mask_taps(sparse, center)
    return (h, w), order.channels, order.partial, chosen, steps


@settings(max_examples=400)
@given(perhaps_wrong())
def test_check_agrees_with_the_definition(
    case: tuple[tuple[int, int], int | None, bool, Taps, list[Step]],
) -> None:
    size, channels, partial, taps, steps = case
    expected = causal(size, channels, partial, taps, steps)
    try:
        order = Order("case", *size, taps, steps, channels, partial)
        got = True
    except ValueError as error:
        assert str(error).startswith("case: ")  # noqa: PT017
        got = False
    assert got == expected
    event(f"valid: {got}")
    if got:
        assert len(order) == len(steps)
        for made, step in zip(order, steps, strict=True):
            for name in ("rows", "cols", "first", "context", "width", "known"):
                np.testing.assert_array_equal(getattr(made, name), getattr(step, name))


def context(order: Order, step: Step, y: np.ndarray) -> np.ndarray:
    """(n, width): numbers that depend on all that the step reads of y at each of its positions."""
    made = np.zeros(y[step.elements(y.shape[2])].shape)
    if step.known:
        made += np.sin(y[:, :, : step.known]).sum()
    if step.context and order.partial:
        made += (y * np.arange(1, y.size + 1).reshape(y.shape)).sum()
    elif step.context:
        rows, cols, channels = step.elements(y.shape[2])
        for t, (dr, dc) in enumerate(zip(order.taps.dr, order.taps.dc, strict=True)):
            r, c = rows + dr, cols + dc
            inside = (r >= 0) & (r < order.height) & (c >= 0) & (c < order.width)
            value = y[np.clip(r, 0, order.height - 1), np.clip(c, 0, order.width - 1), channels]
            made += np.where(inside, (t + 1) * value, 0.0)
    return np.sin(made)


def decode(order: Order, channels: int, undecoded: float) -> tuple[np.ndarray, np.ndarray]:
    """A latent whose elements depend on their contexts, and these contexts."""
    y, contexts = np.full((2, order.height, order.width, channels), undecoded)
    own = np.arange(y.size).reshape(y.shape) % 7
    for step in order:
        at = step.elements(channels)
        contexts[at] = context(order, step, y)
        y[at] = contexts[at] + own[at]
    return y, contexts


@given(SIDES, SIDES, st.sampled_from([orders.mask_taps(CAUSAL), orders.window_taps()]), st.integers(0, 9))
def test_serial_orders_read_alike(h: int, w: int, taps: Taps, more: int) -> None:
    expected, _ = decode(orders.raster(h, w, taps), 2, np.nan)
    assert not np.isnan(expected).any()
    lag = orders.wavefront_lag(taps) + more
    made, _ = decode(orders.wavefront(h, w, taps, lag), 2, np.nan)
    np.testing.assert_array_equal(made, expected)


@given(SIDES, SIDES)
def test_runs_give_what_steps_give(h: int, w: int) -> None:
    for order in all_orders(h, w):
        channels = order.channels or 3
        runs = order.runs()
        np.testing.assert_array_equal(runs.rows, order.flat.rows)
        if order.partial:
            assert [step.rows.tolist() for step in runs] == [step.rows.tolist() for step in order]
            continue
        y, expected = decode(order, channels, np.nan)
        made = np.full_like(expected, np.nan)
        for run in runs:
            made[run.elements(channels)] = context(order, run, y)
        np.testing.assert_array_equal(made, expected)


def test_runs_join_what_reads_alike() -> None:
    assert [len(order.runs()) for order in all_orders(6, 5)] == [1, 1, 1, 2, 2, 1, 4, 6, 4, 4, 4]


@given(SIDES, SIDES)
def test_flat_arrays(h: int, w: int) -> None:
    for order in all_orders(h, w):
        flat = order.flat
        arrays = flat.starts, flat.rows, flat.cols, flat.first, flat.width, flat.known
        assert all(array.dtype == np.int64 and array.flags.c_contiguous for array in arrays)
        assert flat.context.dtype == np.bool_
        assert flat.starts[0] == 0
        assert flat.starts[-1] == len(flat.rows) == len(flat.cols) == len(flat.first)
        assert len(flat.starts) - 1 == len(flat.context) == len(flat.width) == len(flat.known) == len(order)
        assert order.channels is not None or not flat.width.any()
        for s, step in enumerate(order):
            assert len(step) == flat.starts[s + 1] - flat.starts[s] > 0
            assert step.width == (int(flat.width[s]) or None)
            # Raster scan within a step.
            assert (np.diff(step.rows * w + step.cols) > 0).all()
        rows, cols = order.positions()
        np.testing.assert_array_equal(rows, np.concatenate([step.rows for step in order]))
        np.testing.assert_array_equal(cols, np.concatenate([step.cols for step in order]))


@given(SIDES, SIDES, st.sampled_from([1, 3, 5, 7]), st.integers(0, 20))
def test_steps_of_serial_orders(h: int, w: int, k: int, more: int) -> None:
    mask = orders.causal_mask(k)
    assert len(orders.raster(h, w, mask)) == h * w
    lag = orders.wavefront_lag(mask) + more
    wavefront = orders.wavefront(h, w, mask, lag)
    assert len(wavefront) == (w + lag * (h - 1) if lag <= w else h * w)
    for step in wavefront:
        assert len(set((step.cols + lag * step.rows).tolist())) == 1


def test_steps_on_kodak() -> None:
    size = 32, 48
    made = [
        orders.raster(*size, CAUSAL),
        orders.wavefront(*size, CAUSAL),
        orders.wavefront(*size, orders.window_taps()),
        orders.checkerboard(*size, CHECKERBOARD),
        orders.parallel(*size),
        orders.slices(*size, CHARM),
        orders.slices(*size, TCM),
        orders.slices_checkerboard(*size, ELIC, CHECKERBOARD),
        orders.slices_checkerboard(*size, CHARM, CHECKERBOARD, "odd"),
        orders.quadtree(*size, 320),
    ]
    assert [len(order) for order in made] == [1536, 141, 110, 2, 1, 10, 5, 10, 20, 4]


def test_lag_is_least() -> None:
    for k in (3, 5, 7):
        mask = orders.causal_mask(k)
        with pytest.raises(ValueError, match="reads tap"):
            orders.wavefront(9, 9, mask, orders.wavefront_lag(mask) - 1)


@given(SIDES, SIDES, st.sampled_from([3, 5]), PARITIES)
def test_checkerboard(h: int, w: int, k: int, parity: str) -> None:
    order = orders.checkerboard(h, w, orders.checkerboard_mask(k), parity)
    assert len(order) == min(2, h * w)
    for step in order:
        assert ((step.rows + step.cols) % 2 == (parity == "odd") ^ step.context).all()


@given(SIDES, SIDES)
def test_parallel(h: int, w: int) -> None:
    assert [(len(step), step.context) for step in orders.parallel(h, w)] == [(h * w, False)]


@given(SIDES, SIDES, st.lists(st.integers(1, 5), min_size=1, max_size=6), PARITIES)
def test_slices(h: int, w: int, sizes: list[int], parity: str) -> None:
    order = orders.slices(h, w, sizes)
    halves = orders.slices_checkerboard(h, w, sizes, CHECKERBOARD, parity)
    assert order.channels == halves.channels == sum(sizes)
    before = [sum(sizes[:k]) for k in range(len(sizes))]
    assert [(step.width, step.known, step.context) for step in order] == [
        (size, known, False) for size, known in zip(sizes, before, strict=True)
    ]
    inner = list(orders.checkerboard(h, w, CHECKERBOARD, parity))
    expected = [(k, half) for k in range(len(sizes)) for half in inner]
    for step, (k, half) in zip(halves, expected, strict=True):
        np.testing.assert_array_equal(step.rows, half.rows)
        np.testing.assert_array_equal(step.cols, half.cols)
        assert (step.first == before[k]).all()
        assert (step.width, step.known, step.context) == (sizes[k], before[k], half.context)


def test_elic() -> None:
    order = orders.slices_checkerboard(3, 3, ELIC, CHECKERBOARD)
    assert order.channels == 320
    assert [(int(s.first[0]), s.width, s.known, len(s), s.context) for s in order] == [
        (0, 16, 0, 5, False),
        (0, 16, 0, 4, True),
        (16, 16, 16, 5, False),
        (16, 16, 16, 4, True),
        (32, 32, 32, 5, False),
        (32, 32, 32, 4, True),
        (64, 64, 64, 5, False),
        (64, 64, 64, 4, True),
        (128, 192, 128, 5, False),
        (128, 192, 128, 4, True),
    ]


DCVC = """
TL TR BL BR
BR BL TR TL
BL BR TL TR
TR TL BR BL
"""
"""Corner of each 2x2 block coded by groups 0 to 3, a line a step."""


@given(SIDES, SIDES, st.integers(1, 3))
def test_quadtree(h: int, w: int, quarter: int) -> None:
    order = orders.quadtree(h, w, 4 * quarter)
    assert order.partial
    assert order.channels == 4 * quarter
    assert [step.context for step in order] == [False, True, True, True]
    for step, line in zip(order, DCVC.split("\n")[1:-1], strict=True):
        group = {corner: g for g, corner in enumerate(line.split())}
        # Every position once in raster scan: the step's symbols form a plane.
        np.testing.assert_array_equal(step.rows * w + step.cols, np.arange(h * w))
        assert (step.width, step.known) == (quarter, 0)
        corners = ["TB"[r % 2] + "LR"[c % 2] for r, c in zip(step.rows, step.cols, strict=True)]
        assert step.first.tolist() == [group[corner] * quarter for corner in corners]


def test_quadtree_reads_what_is_decoded() -> None:
    y, contexts = decode(orders.quadtree(3, 5, 4), 4, 0.0)
    first, second = orders.quadtree(3, 5, 4).steps[:2]
    so_far = np.zeros_like(y)
    assert (contexts[first.elements(4)] == 0).all()
    so_far[first.elements(4)] = y[first.elements(4)]
    np.testing.assert_array_equal(
        contexts[second.elements(4)], context(orders.quadtree(3, 5, 4), second, so_far)
    )


def test_steps_are_a_sequence() -> None:
    order = orders.raster(2, 3, CAUSAL)
    assert [(int(step.rows[0]), int(step.cols[0])) for step in order.steps[1:5:2]] == [(0, 1), (1, 0)]
    assert (order.steps[-1].rows.tolist(), order.steps[-1].cols.tolist()) == ([1], [2])
    with pytest.raises(IndexError):
        order.steps[6]
    again = Order("again", 2, 3, order.taps, tuple(order))
    assert again.flat.starts.tolist() == order.flat.starts.tolist()
    assert Order("flat", 2, 3, order.taps, order.flat).flat is order.flat


def test_an_order_keeps_its_steps() -> None:
    rows, cols = np.array([0, 0]), np.array([0, 1])
    order = Order("mine", 1, 2, NO_TAPS, [Step(rows, cols, False)])
    cols[:] = 7
    assert order.flat.cols.tolist() == [0, 1]


def test_wrong_reads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"raster: position \(0, 0\) reads tap \(row \+0, column \+1\)"):
        orders.raster(4, 4, orders.checkerboard_mask(3))
    # Taps at even distance hold positions of the reader's own color, under either parity.
    for parity, position in (("even", r"\(2, 3\)"), ("odd", r"\(2, 2\)")):
        with pytest.raises(ValueError, match=rf"board: position {position} reads tap \(row -2, column -2\)"):
            orders.checkerboard(4, 4, CAUSAL, parity)
    with pytest.raises(ValueError, match="which is not decoded before it"):
        orders.check_order(orders.wavefront(4, 9, orders.causal_mask(3)), CAUSAL)
    elic = orders.slices_checkerboard(4, 4, ELIC, CHECKERBOARD)
    with pytest.raises(ValueError, match=r"\(2, 3\), channel 0, reads tap \(row -2, column -2\)"):
        orders.check_order(elic, CAUSAL)
    # The other parity's anchors are this one's readers.
    wrong = [replace(step, context=not step.context) for step in elic]
    with pytest.raises(ValueError, match=r"\(2, 2\), channel 0, reads tap \(row -2, column -1\)"):
        Order("wrong", 4, 4, elic.taps, wrong, 320)

    def part(first: int, width: int, known: int) -> Step:
        return Step(np.array([0, 0]), np.array([0, 1]), False, np.array([first]), width, known)

    ahead = [part(0, 2, 0), part(2, 3, 3)]
    with pytest.raises(ValueError, match=r"step 1 reads position \(0, 0\), channel 2, which is not decoded"):
        Order("ahead", 1, 2, NO_TAPS, ahead, 5)
    with pytest.raises(ValueError, match="a step knows 6 channels of 5"):
        Order("ahead", 1, 2, NO_TAPS, [part(0, 2, 0), part(2, 3, 6)], 5)
    # Of the channels known, an earlier one is the late one.
    behind = [part(1, 1, 0), part(2, 1, 2), part(0, 1, 0)]
    with pytest.raises(ValueError, match=r"step 1 reads position \(0, 0\), channel 0, which is not decoded"):
        Order("behind", 1, 2, NO_TAPS, behind, 3)
    assert len(Order("fine", 1, 2, NO_TAPS, [part(0, 2, 0), part(2, 3, 2)], 5)) == 2
    with pytest.raises(ValueError, match="a partial order reads no taps, not 12"):
        Order("both", 1, 1, orders.mask_taps(CAUSAL), [], 4, True)


def test_wrong_partitions_are_refused() -> None:
    raster = orders.raster(2, 2, CAUSAL)

    def order(*steps: Step, channels: int | None = None) -> Order:
        return Order("odd", 2, 2, raster.taps, steps, channels)

    with pytest.raises(ValueError, match=r"position \(1, 1\) is coded 0 times"):
        order(*raster.steps[:3])
    with pytest.raises(ValueError, match=r"position \(0, 0\) is coded 0 times"):
        order()
    with pytest.raises(ValueError, match=r"position \(0, 1\) is coded 2 times"):
        order(*raster.steps, raster.steps[1])
    with pytest.raises(ValueError, match=r"\(0, 2\) is outside 2x2"):
        order(Step(np.array([0]), np.array([2]), False))
    with pytest.raises(ValueError, match=r"position \(1, 1\) reads tap \(row -1, column -1\)"):
        order(*raster.steps[::-1])
    with pytest.raises(ValueError, match="step 4 codes nothing"):
        order(*raster, Step(np.zeros(0, np.int64), np.zeros(0, np.int64), True))

    quarters = list(orders.quadtree(2, 2, 8))
    with pytest.raises(ValueError, match=r"channel 0 of position \(1, 0\) is coded 0 times"):
        order(*quarters[:2], quarters[3], channels=8)
    wider = replace(quarters[0], width=3)
    with pytest.raises(ValueError, match=r"position \(1, 1\) codes 3 channels from 6 on, of 8"):
        order(wider, *quarters[1:], channels=8)
    for steps in (quarters, [replace(step, width=1) for step in raster]):
        with pytest.raises(ValueError, match="doesn't say how many"):
            order(*steps)
    with pytest.raises(ValueError, match=r"1\.\.65536 channels, not 2x2 and 0"):
        order(*quarters, channels=0)
    with pytest.raises(ValueError, match=r"1\.\.65536 channels, not 2x2 and 65540"):
        orders.quadtree(2, 2, 65540)


def test_bad_steps() -> None:
    one, two = np.array([0]), np.array([0, 1])
    with pytest.raises(ValueError, match=r"int64 \(1,\), int64 \(2,\), int64 \(1,\)"):
        Step(one, two, False)
    with pytest.raises(ValueError, match="int64 of one 1-D shape, not float64"):
        Step(two / 2, two, False)
    with pytest.raises(ValueError, match="int64 of one 1-D shape"):
        Step(two, two, False, np.zeros(3, np.int64), 1)
    with pytest.raises(ValueError, match="width 0 that knows 0"):
        Step(two, two, False, width=0)
    with pytest.raises(ValueError, match="knows -1 channels"):
        Step(two, two, False, known=-1)


def test_bad_arguments() -> None:
    mask = orders.causal_mask(3)
    for height, width in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least 1x1"):
            orders.raster(height, width, mask)
        with pytest.raises(ValueError, match="at least 1x1"):
            orders.quadtree(height, width, 4)
        with pytest.raises(ValueError, match="at least 1x1"):
            orders.slices(height, width, [4])
    for parity_of in (orders.checkerboard, lambda *a: orders.slices_checkerboard(2, 2, [1], *a[2:])):
        with pytest.raises(ValueError, match='"even" or "odd", not \'both\''):
            parity_of(2, 2, CHECKERBOARD, "both")
    with pytest.raises(ValueError, match="negative"):
        orders.wavefront(2, 2, mask, -1)
    for channels in (0, 2, 6):
        with pytest.raises(ValueError, match=f"four equal groups, not {channels}"):
            orders.quadtree(2, 2, channels)
    for sizes in ([], [4, 0], [3, -1], [65536, 1]):
        with pytest.raises(ValueError, match=r"1 channel or more each, 65536 at most"):
            orders.slices(2, 2, sizes)
    with pytest.raises(TypeError):
        orders.slices(2, 2, [1.5])
    assert orders.even_slices(320, 5) == (64,) * 5
    for channels, count in ((320, 3), (320, 0), (0, 1)):
        with pytest.raises(ValueError, match=f"{channels} channels don't divide into {count}"):
            orders.even_slices(channels, count)
