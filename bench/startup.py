"""What importing and the first coding cost, in a fresh process each time.

python bench/startup.py [--repetitions N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

LATENT = (
    "import numpy as np; from quadrans.entropy import *; n = 491_520; table = gaussian_table();"
    "indexes = np.full(n, 20, np.int32); symbols = np.arange(n, dtype=np.int32) % 3;"
    "decode(encode(symbols, indexes, table), indexes, table)"
)
JOBS = {
    "bare interpreter": "pass",
    "numpy": "import numpy",
    "quadrans": "import quadrans",
    "quadrans.entropy": "import quadrans.entropy",
    "quadrans.kernels": "import quadrans.kernels",
    "first symbol coded (imports Numba)": (
        "from quadrans.entropy import encode, gaussian_table; encode([0], [0], gaussian_table())"
    ),
    "a latent coded and decoded": LATENT,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    for name, code in JOBS.items():
        # The first run may compile and fill caches.
        times = [run(code, {}) for _ in range(repetitions + 1)][1:]
        print(f"{name:36} {1000 * statistics.median(times):7.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        cold = run(LATENT, {"NUMBA_CACHE_DIR": folder})
    print(f"{'the same, compiled first (no cache)':36} {1000 * cold:7.0f} ms")


def run(code: str, environment: dict[str, str]) -> float:
    """Seconds that a new process takes for the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | environment)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
