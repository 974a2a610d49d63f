"""Choice of the torch device."""

from __future__ import annotations

import torch


def usable_device(device: str) -> torch.device:
    """The torch device of that name. Raises ValueError if torch doesn't know it or can't use it here."""
    try:
        found = torch.empty(1, device=device).device
        if found.type == "meta":
            raise RuntimeError("it has no data")
        return found
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch can't use device {device!r}: {error}") from error
