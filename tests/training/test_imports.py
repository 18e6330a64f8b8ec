"""What the programs of training/ import before they know what is asked of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_programs_that_read_data_do_not_wait_for_what_only_models_need(root: Path) -> None:
    program = "import sys, training.data.__main__; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=120).returncode == 0
