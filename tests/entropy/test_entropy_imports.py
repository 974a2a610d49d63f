"""What `import quadrans.entropy` must not pull in."""

import subprocess
import sys


def test_import_is_light():
    code = "import sys, quadrans.entropy; print(*{'torch', 'cupy', 'numba'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
