"""What importing costs, in a fresh process each time, above what the bare interpreter and NumPy cost.

python bench/startup.py [--repetitions N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

IMPORTS = {
    "bare interpreter": "pass",
    "numpy": "import numpy",
    "quadrans": "import quadrans",
    "quadrans.entropy": "import quadrans.entropy",
    "quadrans.kernels": "import quadrans.kernels",
    "first symbol coded (imports Numba)": (
        "from quadrans.entropy import encode, gaussian_table; encode([0], [0], gaussian_table())"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    for name, code in IMPORTS.items():
        times = []
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - start)
        # The first run may compile bytecode and fill caches.
        print(f"{name:36} {1000 * statistics.median(times[1:]):7.0f} ms")


if __name__ == "__main__":
    main()
