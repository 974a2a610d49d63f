"""Whether pip can install quadrans with all its extras from wheels alone, for each Python that it names.

Run by `make wheels`; nothing is installed, but pip fetches many of the packages to read what they need, torch
among them. pip resolves for x86-64 Linux of glibc 2.28 and takes environment markers as of the Python that
runs it.
"""

import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_RUNTIME = {"fuzz", "peers", "test"}
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
PYTHON = "Programming Language :: Python :: 3."


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = (sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(archive.read(path).decode())
        extras = sorted(set(metadata.get_all("Provides-Extra", [])) - NOT_RUNTIME)
        classifiers = metadata.get_all("Classifier", [])
        versions = [f"3.{line.removeprefix(PYTHON)}" for line in classifiers if line.startswith(PYTHON)]
        if not (extras and versions):
            sys.exit(f"the wheel names extras {extras} and Pythons {versions}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--only-binary", ":all:"]
        pip += ["--implementation", "cp", "--target", str(folder / "nowhere")]
        pip += [option for platform in PLATFORMS for option in ("--platform", platform)]
        failed = []
        for version in versions:
            command = [*pip, "--python-version", version, f"{wheel}[{','.join(extras)}]"]
            run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if run.returncode:
                failed.append(version)
                print(run.stdout)
            print(
                f"Python {version}: {'no' if run.returncode else 'wheels of all that is needed'}", flush=True
            )
    if failed:
        sys.exit(f"pip finds no set of wheels for Python {', '.join(failed)} with {', '.join(extras)}")
    print(f"compiles nothing: extras {', '.join(extras)}")


if __name__ == "__main__":
    main()
