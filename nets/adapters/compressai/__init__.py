"""CompressAI over our coders.

    with installed():                               # or install() ... uninstall()
        strings = model.compress(x)["strings"]      # CompressAI's own code and bytes, our coder under it

    accelerate(model)                               # the same model object, with fast compress and decompress

`install` changes no byte: files written before decode after, and the reverse. Nothing here imports
CompressAI, torch or Numba before it needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .acceleration import accelerate, decelerate
    from .installation import install, installed, uninstall

__all__ = ["accelerate", "decelerate", "install", "installed", "uninstall"]

_HOMES = {"accelerate": ".acceleration", "decelerate": ".acceleration"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, ".installation"), __name__), name)
