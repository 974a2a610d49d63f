"""Weight files: a model's name, its tensors and the tables of its side information, in one safetensors file.

Read without torch. A digest over architecture, arguments, tables, and all tensors identifies the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entropy import CdfTable
from .arguments import check_plain
from .container import DIGEST_BYTES, check_name
from .files import write_file

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save
except ImportError as error:
    raise ImportError("weight files need safetensors: pip install 'quadrans[codec]'") from error

FORMAT = "quadrans 2"
TABLE = "_table"
"""Ends the names of tensors that are tables: of side information z, z_table."""
MAX_CONFIG = 1 << 14
"""Characters of an architecture's arguments, as JSON."""
DEFAULT_MODEL = "minnen2018-s1"
DIGEST_SHOWN = DIGEST_BYTES
"""Bytes of a digest that files name and people see."""


class WeightError(ValueError):
    """A weight file that is missing, damaged, or not one of ours."""


@dataclass(frozen=True)
class Weights:
    """A model's tensors as stored, by their state-dict names, and what is known about them."""

    name: str
    architecture: str
    """Of `registry.SYSTEMS`."""
    config: Mapping[str, Any]
    """The arguments that the system is made with: what JSON has."""
    tensors: Mapping[str, NDArray[Any]]
    tables: Mapping[str, CdfTable]
    """Of each kind of side information, by name."""
    info: Mapping[str, str]
    """Free text on training: keys and values are for people."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything that decides what the model computes: CONTAINER.md, "Digests"."""
        sha = hashlib.sha256(f"quadrans weights 2\n{self.architecture}\n{_json(self.config)}".encode())
        for name in sorted(self.tables):
            sha.update(f"\n{name}\n".encode())
            sha.update(self.tables[name].to_bytes())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            sha.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
            sha.update(np.ascontiguousarray(tensor).tobytes())
        return sha.digest()


def write_weights(path: Path, weights: Weights) -> None:
    """Write under a temporary name and rename. Replaces an existing file.

    Raises ValueError for a name or arguments that couldn't be read again.
    """
    check_name(weights.name)
    check_plain(weights.config)
    tensors = dict(weights.tensors)
    for name, table in weights.tables.items():
        tensors[name + TABLE] = np.frombuffer(table.to_bytes(), np.uint8)
    metadata = {
        **weights.info,
        "format": FORMAT,
        "name": weights.name,
        "architecture": weights.architecture,
        "config": _json(weights.config),
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
    if metadata.pop("format", None) != FORMAT:
        raise WeightError(f"{path}: a safetensors file, but not of a quadrans model of format {FORMAT!r}")
    try:
        name, architecture = metadata.pop("name"), metadata.pop("architecture")
        check_name(name)
        config = _config(metadata.pop("config"))
        tables = {
            key.removesuffix(TABLE): CdfTable.from_bytes(tensors.pop(key).tobytes())
            for key in sorted(tensors)
            if key.endswith(TABLE) and tensors[key].dtype == np.uint8
        }
    except (KeyError, ValueError) as error:
        raise WeightError(f"{path}: damaged weight file ({error})") from error
    for key, tensor in tensors.items():
        if tensor.dtype not in (np.float16, np.float32):
            raise WeightError(f"{path}: tensor {key} is {tensor.dtype}, not float16 or float32")
        if tensor.size == 0 or not np.isfinite(tensor).all():
            raise WeightError(f"{path}: tensor {key} is empty or holds values that are not finite")
    return Weights(name, architecture, config, tensors, tables, metadata)


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _config(text: str) -> dict[str, Any]:
    """ValueError for what isn't the JSON of a few named values."""
    if len(text) > MAX_CONFIG:
        raise ValueError(f"arguments of {len(text)} characters, more than {MAX_CONFIG}")
    try:
        config = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("arguments nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"arguments that are a {type(config).__name__}")
    check_plain(config)
    return config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("arguments of which one is there twice")
    return found


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
