"""Build sdist and, from it, the wheel; check what they contain; use the wheel in a fresh environment.

Run by `make test`. Everything happens in a temporary folder, away from the checkout.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {
    path.relative_to(ROOT).as_posix()
    for folder in ("entropy", "kernels", "nets", "bench")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".safetensors", ".cu", ".cuh")
} | {"__init__.py", "__main__.py", "cli.py", "cli_bench.py", "console.py", "py.typed"}

USE_CORE = """
import sys
import numpy as np
import quadrans
from quadrans import entropy, kernels
assert quadrans.__file__.startswith(sys.prefix), quadrans.__file__

rng = np.random.default_rng(0)
table = entropy.gaussian_table()
indexes = rng.integers(0, 64, (31, 17))
symbols = rng.integers(-9, 9, indexes.shape)
assert (entropy.decode(entropy.encode(symbols, indexes, table), indexes, table) == symbols).all()
from quadrans.entropy import torchac
cdf, symbols = np.sort(rng.random((31, 17, 20), np.float32)), (symbols + 9).astype(np.int16)
assert (torchac.decode_float_cdf(cdf, torchac.encode_float_cdf(cdf, symbols)) == symbols).all()
assert len(kernels.wavefront(32, 48, kernels.causal_mask(5))) == 141
from quadrans.kernels.cuda._source import source
assert '#include "' not in source("serial.cu")
assert "torch" not in sys.modules
"""

USE_CODEC = """
import numpy as np
import torch
from quadrans.nets import EntropyBackend
from quadrans.nets.adapters import torchac
from quadrans.nets.adapters.compressai import ans, installed

cdf, symbols = torch.rand(2, 3, 5).sort().values, torch.zeros(2, 3, dtype=torch.int16)
assert torch.equal(torchac.decode_float_cdf(cdf, torchac.encode_float_cdf(cdf, symbols)), symbols)
with installed():
    rows = [0, 1], [1, 1], [[0, 40000, 65535, 65536]] * 2, [4, 4], [-1, 0]
    stream = ans.RansEncoder().encode_with_indexes(*rows)
    assert ans.RansDecoder().decode_with_indexes(stream, *rows[1:]) == rows[0]
y, mean, scale = torch.randn(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
backend = EntropyBackend()
assert torch.equal(backend.decompress(backend.compress(y, mean, scale), mean, scale), y.round())

from PIL import Image
from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import Container
from quadrans.nets.weights import DEFAULT_MODEL, find_weights

yy, xx = np.mgrid[:75, :101]
pixels = np.stack([yy * 3, xx * 2, 128 + 80 * np.sin(yy / 9) * np.cos(xx / 7)], -1).astype(np.uint8)
Image.fromarray(pixels).save("photo.png")
codec = ImageCodec(find_weights(DEFAULT_MODEL))
latents = codec.analyse(pixels)
assert len(np.unique(latents.y)) > 3
for order in codec.orders:
    assert codec.decode(Container.from_bytes(codec.compress(pixels, order))).same_bits(latents), order
"""


def run(*command: str | Path, cwd: Path) -> None:
    print("$", *(str(part).strip().partition("\n")[0] for part in command), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
        (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
        with tarfile.open(sdist) as archive:
            in_sdist = {member.name.partition("/src/quadrans/")[2] for member in archive.getmembers()}
        with zipfile.ZipFile(wheel) as archive:
            in_wheel = {member.partition("quadrans/")[2] for member in archive.namelist()}
        for kind, content in (("sdist", in_sdist), ("wheel", in_wheel)):
            if missing := SHIPPED - content:
                sys.exit(f"{kind} lacks {', '.join(sorted(missing))}")
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        install = (python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
        run(*install, wheel, cwd=folder)
        run(python, "-c", USE_CORE, cwd=folder)
        refusal = subprocess.run(
            [python, "-m", "quadrans", "models"], cwd=folder, capture_output=True, text=True
        )
        if refusal.returncode != 2 or "pip install 'quadrans[codec]'" not in refusal.stderr:
            sys.exit(f"without extras the command line must name the extra, not say {refusal.stderr!r}")
        run(*install, f"{wheel}[codec]", cwd=folder)
        run(python, "-c", USE_CODEC, cwd=folder)
        run(python, "-m", "quadrans", "compress", "photo.png", cwd=folder)
        run(python, "-m", "quadrans", "info", "photo.qdr", cwd=folder)
        run(python, "-m", "quadrans", "decompress", "photo.qdr", "-o", "decoded.png", cwd=folder)
    print("the wheel works away from the checkout")


if __name__ == "__main__":
    main()
