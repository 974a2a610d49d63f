"""`install`: CompressAI's C++ coder and all that names it, replaced by `ans` for as long as one likes.

Each of the two modules has a *stand-in* with the same names, whose objects are found nowhere else. Installed,
a finder gives the stand-ins to whoever imports them, and where the modules were imported before, every
namespace, dictionary, list and closure that refers to one of their objects refers to the stand-in's instead.
Uninstalling is the same exchange the other way, so it covers what was imported in between.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CellType, FunctionType, ModuleType
from typing import Any

from . import ans

_NAMES = {
    "compressai.ans": ("RansEncoder", "BufferedRansEncoder", "RansDecoder"),
    "compressai._CXX": ("pmf_to_quantized_cdf",),
}

_lock = threading.RLock()
_count = 0
_originals: dict[str, ModuleType] = {}


def install() -> None:
    """Makes CompressAI, imported before or after, code with our coder; no stream changes by a byte.

    It needs CompressAI's C++ extension no more, not even to be there. What was imported from it by name is
    exchanged wherever a module, class, function default, closure, object, dictionary or list holds it, and
    so are the coders of live entropy models. Coders that other code made and keeps, its subclasses of the
    C++ classes, and what a tuple, a slot, a running function or an object that lets nobody change it holds
    stay what they are.

    Calls nest: as many `uninstall` undo it. A call that is interrupted has changed nothing. Other processes
    install for themselves.
    """
    global _count
    with _lock:
        if _count == 0:
            _originals.update((name, sys.modules[name]) for name in _NAMES if sys.modules.get(name))
            try:
                _enter()
            except BaseException:
                _leave()
                raise
        _count += 1


def uninstall() -> None:
    """Undoes one `install`; the last one restores all that names the C++ coder, whenever it was imported.

    Without the C++ extension, what imported our coder keeps it, as it has no other. A call that is
    interrupted has changed nothing. Raises RuntimeError if nothing is installed.
    """
    global _count
    with _lock:
        if _count == 0:
            raise RuntimeError("uninstall without install")
        if _count == 1:
            try:
                _leave()
            except BaseException:
                _enter()
                raise
        _count -= 1


@contextmanager
def installed() -> Iterator[None]:
    """`install` for the time of a with block; also in all other threads."""
    install()
    try:
        yield
    finally:
        uninstall()


def _enter() -> None:
    """Puts the stand-ins wherever the originals are, also if only some of them are left."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _exchange(tuple((module, _stand_ins()[name]) for name, module in _originals.items()))


def _leave() -> None:
    """The reverse."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    _restore_modules()
    _exchange(tuple((_stand_ins()[name], module) for name, module in _originals.items()))


class _Finder(MetaPathFinder, Loader):
    """Imports the stand-ins."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return _stand_ins()[name].__spec__ if name in _NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _stand_ins()[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


_FINDER = _Finder()


class _Function(partial):
    """A function of `ans` under CompressAI's name; as in C++, it doesn't bind to a class that has it."""

    def __get__(self, instance: object, owner: type | None = None) -> _Function:
        return self

    def __reduce__(self) -> str:
        return str(self.func.__name__)


@cache
def _stand_ins() -> dict[str, ModuleType]:
    """The modules that replace CompressAI's.

    Their objects are their own, not those of `ans`: who imports `ans` itself isn't to be uninstalled.
    """
    modules = {}
    for home, names in _NAMES.items():
        modules[home] = module = ModuleType(home, ans.__doc__)
        module.__spec__, module.__loader__ = ModuleSpec(home, _FINDER, origin=ans.__file__), _FINDER
        module.__package__, module.__file__ = home.rpartition(".")[0], ans.__file__
        for name in names:
            ours = getattr(ans, name)
            named = {"__module__": home, "__doc__": ours.__doc__}
            if isinstance(ours, type):
                stand_in: Any = type(name, (ours,), {**named, "__slots__": ()})
            else:
                stand_in = _Function(ours)
                vars(stand_in).update(named, __name__=name, __qualname__=name)
            setattr(module, name, stand_in)
    return modules


def _restore_modules() -> None:
    """Imports what was imported only as a stand-in so far, or forgets it where it isn't installed."""
    for name, stand_in in _stand_ins().items():
        if name in _originals or sys.modules.get(name) is not stand_in:
            continue
        del sys.modules[name]
        package, _, attribute = name.rpartition(".")
        try:
            _originals[name] = import_module(name)
        except Exception:
            if vars(sys.modules[package]).get(attribute) is stand_in:
                delattr(sys.modules[package], attribute)


def _exchange(modules: tuple[tuple[ModuleType, ModuleType], ...]) -> None:
    """Replaces the first modules and their objects by the second ones, wherever anything refers to them."""
    # What is frozen, the collector doesn't find; what Python itself froze at its start matters to nobody.
    frozen = not any(one is sys.modules for one in gc.get_objects())
    if frozen:
        gc.unfreeze()
    try:
        _exchange_found(modules)
    finally:
        if frozen:
            gc.freeze()


def _exchange_found(modules: tuple[tuple[ModuleType, ModuleType], ...]) -> None:
    objects = [
        (vars(old)[name], vars(new)[name])
        for old, new in modules
        for name in _NAMES[new.__name__]
        if name in vars(old) and name in vars(new)
    ]
    olds = tuple(old for old, _ in (*modules, *objects))
    new_of = {id(old): new for old, new in (*modules, *objects)}
    del objects
    keepers = {id(_originals), id(_stand_ins()), *(id(vars(old)) for old, _ in modules)}
    referrers = [one for one in gc.get_referrers(*olds) if id(one) not in keepers]
    # Both only through what owns them: classes cache their attributes, and tuples can't change.
    inner = [one for one in referrers if type(one) is tuple or (type(one) is dict and "__module__" in one)]
    owners = gc.get_referrers(*inner) if inner else []
    for change, holders in ((_exchange_owned, owners), (_exchange_held, referrers)):
        for one in holders:
            # Code of others may run here, and fail; no other place waits for theirs.
            with suppress(Exception):
                change(one, new_of)
    _exchange_coders({old: new_of[id(old)] for old in olds if isinstance(old, type)})


def _exchange_owned(one: Any, new_of: dict[int, Any]) -> None:
    """Defaults of a function, attributes of a class: past its metaclass, unless that is one of C's."""
    if isinstance(one, FunctionType) and one.__defaults__:
        one.__defaults__ = tuple(new_of.get(id(value), value) for value in one.__defaults__)
    elif isinstance(one, type):
        for name, value in list(vars(one).items()):
            if id(value) in new_of:
                with suppress(TypeError):
                    type.__setattr__(one, name, new_of[id(value)])


def _exchange_held(one: Any, new_of: dict[int, Any]) -> None:
    """Items of lists and dictionaries, attributes of modules and other objects, and variables of closures."""
    if isinstance(one, list):
        for place, value in enumerate(one):
            if id(value) in new_of:
                list.__setitem__(one, place, new_of[id(value)])
    elif isinstance(one, CellType):
        one.cell_contents = new_of[id(one.cell_contents)]
    elif not isinstance(one, tuple | type):
        namespace = one if isinstance(one, dict) else getattr(one, "__dict__", None)
        if isinstance(namespace, dict):
            for name, value in list(namespace.items()):
                if id(value) in new_of:
                    dict.__setitem__(namespace, name, new_of[id(value)])


def _exchange_coders(new_of: dict[type, type]) -> None:
    """Gives live entropy models new coders in place of those of the first classes."""
    proxy = getattr(sys.modules.get("compressai.entropy_models.entropy_models"), "_EntropyCoder", None)
    for one in gc.get_referrers(proxy) if proxy is not None else ():
        if type(one) is proxy:
            coders = [(name, coder) for name, coder in vars(one).items() if type(coder) in new_of]
            vars(one).update((name, new_of[type(coder)]()) for name, coder in coders)
