"""`install`: whatever names CompressAI's C++ coder reaches ours, and is restored."""

import copy
import gc
import importlib
import pickle
import subprocess
import sys
import textwrap
import threading
from importlib.util import find_spec
from pathlib import Path

import compressai
import compressai.ans
import pytest
import torch
from compressai import entropy_models
from compressai.ans import BufferedRansEncoder, RansDecoder, RansEncoder
from compressai.latent_codecs import rasterscan
from compressai.models import google
from tiny_compressai import image, tiny

from quadrans.nets.adapters.compressai import ans, install, installation, installed, uninstall

# Tuples keep what they hold.
WHEEL = (compressai.ans, compressai._CXX, RansEncoder, BufferedRansEncoder, RansDecoder)


class Holder:
    """Names the coder in all the ways a third party may."""

    coder = RansDecoder
    quantize = compressai._CXX.pmf_to_quantized_cdf
    registry: dict = {"ans": RansDecoder, "all": [RansEncoder, RansDecoder]}  # noqa: RUF012

    def __init__(self):
        self.kind = RansDecoder

    @staticmethod
    def default(kind=RansDecoder, *, encoder=RansEncoder):
        return kind, encoder


def closure():
    kind = RansDecoder
    return lambda: kind


LIVE, CLOSURE = Holder(), closure()


def named():
    """All decoders that something here names."""
    return [
        RansDecoder,
        google.RansDecoder,
        rasterscan.RansDecoder,
        compressai.ans.RansDecoder,
        sys.modules["compressai.ans"].RansDecoder,
        importlib.import_module("compressai.ans").RansDecoder,
        Holder.coder,
        Holder.registry["ans"],
        Holder.registry["all"][1],
        LIVE.kind,
        Holder.default()[0],
        CLOSURE(),
    ]


def state():
    """Whether ours is installed, once everything agrees about it."""
    ours = {issubclass(kind, ans.RansDecoder) for kind in named()}
    wheels = {kind is WHEEL[4] for kind in named()}
    assert len(ours) == 1
    assert wheels == {not ours.copy().pop()}
    assert (compressai._CXX.pmf_to_quantized_cdf is WHEEL[1].pmf_to_quantized_cdf) == wheels.copy().pop()
    assert Holder().quantize([0.5, 0.5], 16) == [0, 32768, 65536]
    return ours.pop()


@pytest.fixture(autouse=True)
def _restored():
    yield
    assert not state()
    assert compressai.ans is sys.modules["compressai.ans"] is WHEEL[0]
    assert compressai._CXX is sys.modules["compressai._CXX"] is WHEEL[1]


def test_every_name():
    assert not state()
    with installed():
        assert state()
        assert RansEncoder is Holder.default()[1] is Holder.registry["all"][0] is compressai.ans.RansEncoder
        assert BufferedRansEncoder is google.BufferedRansEncoder is compressai.ans.BufferedRansEncoder
        assert (RansDecoder.__module__, RansDecoder.__name__) == ("compressai.ans", "RansDecoder")
        assert pickle.loads(pickle.dumps(RansDecoder)) is RansDecoder
        quantize = compressai._CXX.pmf_to_quantized_cdf
        assert pickle.loads(pickle.dumps(quantize)) is copy.deepcopy(quantize) is quantize
        assert find_spec("compressai.ans").origin == ans.__file__
        assert compressai.available_entropy_coders() == ["ans"]
    assert find_spec("compressai.ans").origin == WHEEL[0].__file__


def test_calls_nest():
    install()
    with installed():
        install()
        uninstall()
        assert state()
    assert state()
    uninstall()
    with pytest.raises(RuntimeError, match="uninstall without install"):
        uninstall()
    with pytest.raises(ZeroDivisionError), installed():
        1 / 0  # noqa: B018


def test_what_imports_ours_by_itself_keeps_it():
    mine = {"decoder": ans.RansDecoder, "encoder": RansEncoder}
    with installed():
        assert mine["decoder"] is ans.RansDecoder
        assert mine["encoder"] is not WHEEL[2]
    assert mine == {"decoder": ans.RansDecoder, "encoder": WHEEL[2]}
    assert ans.RansDecoder is importlib.import_module("quadrans.nets.adapters.compressai.ans").RansDecoder


def coders(model):
    entropy = [m for m in model.modules() if isinstance(m, entropy_models.EntropyModel)]
    return {type(coder) for m in entropy for coder in (m.entropy_coder._encoder, m.entropy_coder._decoder)}


def test_live_models_pickles_and_copies():
    model = tiny("mbt2018-mean")
    with torch.no_grad():
        expected = model.compress(image())
        x_hat = model.decompress(**expected)["x_hat"]
        pickled_before, theirs = pickle.dumps(model), coders(model)
        with installed():
            copied = copy.deepcopy(model)
            made = tiny("mbt2018-mean")
            pickled = pickle.dumps(model)
            models = [model, copied, made, pickle.loads(pickled), pickle.loads(pickled_before)]
            for one in models:
                assert coders(one) == {compressai.ans.RansEncoder, compressai.ans.RansDecoder}
                assert one.compress(image()) == expected
                assert torch.equal(one.decompress(**expected)["x_hat"], x_hat)
        for one in [*models, pickle.loads(pickled), copy.deepcopy(copied)]:
            assert coders(one) == theirs == {WHEEL[2], WHEEL[4]}
            assert one.compress(image()) == expected
            assert torch.equal(one.decompress(**expected)["x_hat"], x_hat)


def test_other_coders_of_entropy_models_stay():
    model = entropy_models.EntropyBottleneck(3)
    other = model.entropy_coder._encoder = object()
    with installed():
        assert model.entropy_coder._encoder is other
        assert type(model.entropy_coder._decoder) is RansDecoder
    assert model.entropy_coder._encoder is other


def test_stock_bytes_while_threads_code():
    """Installing under the feet of threads that compress changes no byte of theirs."""
    model = tiny("bmshj2018-hyperprior")
    with torch.no_grad():
        expected = model.compress(image())["strings"]
    wrong, stop = [], threading.Event()

    def work():
        with torch.no_grad():
            while not stop.is_set():
                strings = model.compress(image())["strings"]
                if strings != expected:
                    wrong.append(strings)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with installed():
            assert state()
        assert not state()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_install():
    def work():
        for _ in range(10):
            with installed():
                pass

    with installed():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert state()


def test_nothing_is_left_behind():
    with installed():
        pass
    names = "compressai.ans", "compressai._CXX"
    stand_ins = {id(kind) for kind in ans.RansDecoder.__subclasses__() if kind.__module__ in names}
    assert stand_ins
    namespaces = [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    homes = [one for one in namespaces if any(id(value) in stand_ins for value in list(one.values()))]
    assert homes == []


class Sealed(type):
    def __setattr__(cls, name, value):
        raise AttributeError(f"{cls.__name__} is sealed")


class SealedHolder(metaclass=Sealed):
    decoder = RansDecoder
    encoder = RansEncoder


class Unbound:
    """As proxies are that stand for nothing yet: whatever one asks of them fails."""

    __slots__ = ("_kind",)

    def __init__(self):
        object.__setattr__(self, "_kind", RansDecoder)

    def __getattr__(self, name):
        raise RuntimeError("stands for nothing")

    @property
    def __class__(self):
        raise RuntimeError("stands for nothing")


class SealedList(list):
    def __setitem__(self, place, value):
        raise TypeError("this list is sealed")


def test_what_refuses():
    """Classes and lists against their own will; what fails when it is asked keeps what it has."""
    items, proxy = SealedList([RansDecoder]), Unbound()
    for _ in range(2):
        with installed():
            assert state()
            assert SealedHolder.decoder is items[0] is RansDecoder
            assert SealedHolder.encoder is RansEncoder
            assert object.__getattribute__(proxy, "_kind") is WHEEL[4]
        assert SealedHolder.decoder is items[0] is object.__getattribute__(proxy, "_kind") is WHEEL[4]


@pytest.fixture(params=["_exchange", "_exchange_owned", "_exchange_coders", "_restore_modules"])
def interrupted(request, monkeypatch):
    """Sets a function up so that its next call is interrupted: in its middle, as it has done its work."""
    original = getattr(installation, request.param)
    pending = []

    def run(*arguments):
        original(*arguments)
        if pending:
            raise pending.pop()

    monkeypatch.setattr(installation, request.param, run)
    return lambda: pending.append(KeyboardInterrupt()) or pending


def test_an_interrupted_install_leaves_nothing(interrupted):
    pending, finders = interrupted(), list(sys.meta_path)
    model = entropy_models.EntropyBottleneck(3)
    try:
        install()
    except KeyboardInterrupt:
        assert sys.meta_path == finders
        assert coders(model) == {WHEEL[2], WHEEL[4]}
        assert not state()
        with pytest.raises(RuntimeError, match="uninstall without install"):
            uninstall()
        install()
    pending.clear()
    assert state()
    uninstall()
    assert sys.meta_path == finders


def test_an_interrupted_uninstall_leaves_all(interrupted):
    model = entropy_models.EntropyBottleneck(3)
    install()
    pending, finders = interrupted(), list(sys.meta_path)
    with pytest.raises(KeyboardInterrupt):
        uninstall()
    assert not pending
    assert sys.meta_path == finders
    assert coders(model) == {RansEncoder, RansDecoder}
    assert state()
    uninstall()
    assert coders(model) == {WHEEL[2], WHEEL[4]}


def test_frozen_objects():
    """As servers do that fork."""
    gc.freeze()
    try:
        with installed():
            assert state()
            assert gc.get_freeze_count() > 10_000
        assert not state()
    finally:
        gc.unfreeze()


# What a process of its own needs, to import CompressAI late or without its extension


def run(code):
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    setup += "from compressai_stub import stub_unused; stub_unused()\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_install_before_the_import_and_uninstall_after():
    run("""
        from quadrans.nets.adapters.compressai import ans, install, installation, installed, uninstall
        assert "torch" not in sys.modules and "compressai" not in sys.modules and "numba" not in sys.modules
        install()
        assert "compressai" not in sys.modules
        import compressai.ans
        from compressai._CXX import pmf_to_quantized_cdf
        from compressai.latent_codecs import rasterscan
        from compressai import ans as late
        assert late is compressai.ans and issubclass(rasterscan.RansDecoder, ans.RansDecoder)
        assert pmf_to_quantized_cdf([0.5, 0.5], 16) == [0, 32768, 65536]
        bottleneck = compressai.entropy_models.EntropyBottleneck(4)
        bottleneck.update()
        import torch
        x = 20 * torch.randn(1, 4, 9, 9)
        strings = bottleneck.compress(x)
        uninstall()
        import compressai.ans as restored
        assert restored.__file__.endswith((".so", ".pyd")), restored
        assert late is restored is compressai.ans and rasterscan.RansDecoder is restored.RansDecoder
        assert type(pmf_to_quantized_cdf).__name__ == "builtin_function_or_method"
        assert type(bottleneck.entropy_coder._encoder) is restored.RansEncoder
        assert bottleneck.compress(x) == strings
        with installed():
            assert issubclass(rasterscan.RansDecoder, ans.RansDecoder) and bottleneck.compress(x) == strings
        assert rasterscan.RansDecoder is restored.RansDecoder
    """)


def test_without_the_extension():
    run("""
        class Missing:
            def find_spec(self, name, path, target=None):
                if name in ("compressai.ans", "compressai._CXX"):
                    raise ModuleNotFoundError(f"No module named {name!r}")

        sys.meta_path.insert(0, Missing())
        from quadrans.nets.adapters.compressai import ans, install, uninstall
        try:
            import compressai.ans
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("the extension is there")
        install()
        import torch
        from compressai.models import google
        model = google.JointAutoregressiveHierarchicalPriors(8, 12).eval()
        model.update()
        x = torch.rand(1, 3, 64, 64)
        out = model.compress(x)
        x_hat = model.decompress(**out)["x_hat"]
        uninstall()
        assert "compressai.ans" not in sys.modules and not hasattr(sys.modules["compressai"], "ans")
        # There is nothing to restore: what is imported goes on with our coder.
        assert issubclass(google.RansDecoder, ans.RansDecoder)
        assert torch.equal(model.decompress(**out)["x_hat"], x_hat)
        install()
        import compressai.ans
        assert compressai.ans.RansDecoder is google.RansDecoder
        uninstall()
    """)
