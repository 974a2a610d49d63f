"""CompressAI's own tests of its coders and of the models that call them: as it is, and with ours installed.

Run by `make compressai-tests`. The tests are in CompressAI's source distribution alone, which pip fetches, of
the version that is installed. Every test has to come out with ours as it does without: installed before
CompressAI is imported, and after. Trained weights aren't fetched: where a test asks for them, it gets
untrained ones of the same model.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

FILES = ("coder", "entropy_models", "entropy_models_vbr", "models", "ops", "waseda")
WAYS = ("as it is", "installed before", "installed after")

CONFTEST = """
import os

import compressai_stub
import pytest
import torch
from quadrans.nets.adapters.compressai import ans, install

compressai_stub.stub_unused()
way = os.environ["WAY"]
if way == "installed before":
    install()
import compressai.ans
import compressai.models
from compressai.zoo import image, image_vbr

if way == "installed after":
    install()
for holder in (compressai.ans, compressai.models.google):
    assert issubclass(holder.RansDecoder, ans.RansDecoder) == (way != "as it is")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def untrained(url, **_):
    name = next(name for name, urls in image.model_urls.items() if url in repr(urls))
    model = image.model_architectures[name](*next(iter(image.cfgs[name].values())))
    model.update(force=True)
    return model.state_dict()


def untrained_vbr(url, **_):
    name = next(name for name, urls in image_vbr.model_urls.items() if url in repr(urls))
    return image_vbr.model_architectures[name](*image_vbr.cfgs[name], vr_entbttlnck=True).state_dict()


image.load_state_dict_from_url = untrained
image_vbr.load_state_dict_from_url = untrained_vbr
"""


def unpack(folder: Path) -> list[str]:
    """Puts the tests into the folder; their names."""
    wanted = f"compressai=={version('compressai')}"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "compressai")
    subprocess.run((*pip, "--dest", folder, wanted), check=True)
    (sdist,) = folder.glob("*.tar.gz")
    names = [f"test_{name}.py" for name in FILES]
    with tarfile.open(sdist) as archive:
        for name in names:
            member = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/tests/{name}")
            assert member, name
            (folder / name).write_bytes(member.read())
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return names


def outcomes(folder: Path, names: list[str], way: str) -> dict[str, str]:
    """passed, failed or skipped, of each test."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "WAY": way, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # torch.compile of densities is no business of coders, takes most of the time, and fails with torch 2.13.
    options = ("-q", "--tb=short", "--show-capture=no", "-k", "not compiling", f"--junitxml={report}")
    command = (sys.executable, "-m", "pytest", *options, *names)
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if run.returncode not in (0, 1):
        sys.exit(f"CompressAI {way}: pytest ended with {run.returncode}\n{run.stdout}")
    kinds = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    found = {
        f"{case.get('classname')}::{case.get('name')}": next(
            (kinds[part.tag] for part in case if part.tag in kinds), "passed"
        )
        for case in ElementTree.parse(report).iter("testcase")
    }
    print(f"{way:17}", *(f"{count} {kind}" for kind, count in sorted(Counter(found.values()).items())))
    if "failed" in found.values():
        print(run.stdout)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = unpack(folder)
        stock, *ours = (outcomes(folder, names, way) for way in WAYS)
    collected = {test.partition("::")[0].partition(".")[0] for test in stock}
    if missing := set(names) - {f"{file}.py" for file in collected}:
        sys.exit(f"no tests were found in {', '.join(sorted(missing))}")
    different = sorted({test for found in ours for test, _ in stock.items() ^ found.items()})
    if different:
        sys.exit(f"with ours installed, {len(different)} tests come out otherwise: {', '.join(different)}")
    passed, name = (
        sum(outcome == "passed" for outcome in stock.values()),
        f"CompressAI {version('compressai')}",
    )
    print(f"{len(stock)} tests of {name} come out the same with our coder; {passed} pass")


if __name__ == "__main__":
    main()
