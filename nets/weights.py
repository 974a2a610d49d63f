"""Weight files: one safetensors file holds a model's name, its tensors and the table of its hyper-latent.

Read without torch. A digest over names, shapes and bits of all tensors identifies the weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entropy import CdfTable
from .container import check_name
from .files import write_file

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save
except ImportError as error:
    raise ImportError("weight files need safetensors: pip install 'quadrans[codec]'") from error

Z_TABLE = "z_table"
DEFAULT_MODEL = "minnen2018-s1"


class WeightError(ValueError):
    """A weight file that is missing, damaged, or not one of ours."""


@dataclass(frozen=True)
class Weights:
    """A model's tensors as stored, by their state-dict names, and what is known about them."""

    name: str
    architecture: str
    tensors: Mapping[str, NDArray[Any]]
    z_table: CdfTable
    info: Mapping[str, str]
    """Free text on training: keys and values are for people."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything that decides what the model computes: CONTAINER.md, "Digests"."""
        sha = hashlib.sha256(f"quadrans weights 1\n{self.architecture}\n".encode())
        sha.update(self.z_table.to_bytes())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            sha.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
            sha.update(np.ascontiguousarray(tensor).tobytes())
        return sha.digest()


def write_weights(path: Path, weights: Weights) -> None:
    """Write under a temporary name and rename. Replaces an existing file."""
    check_name(weights.name)
    tensors = dict(weights.tensors)
    tensors[Z_TABLE] = np.frombuffer(weights.z_table.to_bytes(), np.uint8)
    metadata = {
        **weights.info,
        "format": "quadrans 1",
        "name": weights.name,
        "architecture": weights.architecture,
    }
    data = save({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, metadata)
    write_file(path, lambda temporary: temporary.write_bytes(data), force=True)


def read_weights(path: Path) -> Weights:
    """Read and check a weight file. Raises WeightError when it is missing or not one of ours."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightError(f"{path}: no such weight file") from error
    except (SafetensorError, OSError, TypeError, AttributeError, ValueError) as error:
        raise WeightError(f"{path}: not a readable safetensors file ({error})") from error
    if metadata.pop("format", None) != "quadrans 1" or Z_TABLE not in tensors:
        raise WeightError(f"{path}: a safetensors file, but not of a quadrans model")
    try:
        name, architecture = metadata.pop("name"), metadata.pop("architecture")
        check_name(name)
        z_table = CdfTable.from_bytes(tensors.pop(Z_TABLE).tobytes())
    except (KeyError, ValueError) as error:
        raise WeightError(f"{path}: damaged weight file ({error})") from error
    for key, tensor in tensors.items():
        if tensor.dtype not in (np.float16, np.float32):
            raise WeightError(f"{path}: tensor {key} is {tensor.dtype}, not float16 or float32")
        if tensor.size == 0 or not np.isfinite(tensor).all():
            raise WeightError(f"{path}: tensor {key} is empty or holds values that are not finite")
    return Weights(name, architecture, tensors, z_table, metadata)


def bundled_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    folder = Path(str(resources.files(__package__) / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def bundled_weights(name: str) -> Weights:
    """The weights of a bundled model. Raises WeightError for any other name, paths among them."""
    bundled = bundled_models()
    if name not in bundled:
        raise WeightError(f"no model named {name} is bundled, only {', '.join(bundled) or 'none'}")
    return read_weights(bundled[name])


def find_weights(model: str) -> Weights:
    """The weights of a bundled model's name or of a .safetensors path, for what a user asks by hand.

    A name out of a file belongs to `bundled_weights`. Raises WeightError if there are none.
    """
    if model.endswith(".safetensors") or os.sep in model:
        return read_weights(Path(model))
    return bundled_weights(model)
