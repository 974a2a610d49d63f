"""A team of threads and the signals that its caller gets: nobody is left spinning."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

import numpy as np
import pytest

from quadrans.kernels import _team


def _members() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("quadrans-")]


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_an_interrupt_as_the_caller_joins_in() -> None:
    def work(team: np.ndarray, thread: int) -> None:
        _team.barrier(team)

    _team.together(2, work)

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is work.__code__:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGINT)

    # Where tests run in the background, the signal may be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            _team.together(2, work)
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGINT, before)
    for _ in range(1000):
        if not _members():
            break
        time.sleep(0.01)
    assert not _members()


def test_teams_have_a_largest_size() -> None:
    """Spinning members without a core would hold up those that have one."""
    seen: list[int] = []
    _team.together(10**9, lambda team, member: seen.append(member))
    assert sorted(seen) == list(range(_team.MOST))
