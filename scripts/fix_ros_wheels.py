"""Make the CMake exports of the ROS wheels usable in the running virtual environment.

The wheels were built elsewhere: the targets of their Python type supports name the build machine's Python and NumPy
header folders, which do not exist here, and CMake refuses to generate. Every such export is rewritten to this
interpreter's folders. A second run changes nothing.

    .venv/bin/python scripts/fix_ros_wheels.py
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

import numpy

_PYTHON_HEADERS = re.compile(r"/opt/python/[^;\"]*/include/python3\.\d+(?=[;\"])")
_NUMPY_HEADERS = re.compile(r"/opt/python/[^;\"]*/numpy/(?:_core|core)/include(?=[;\"])")


def rewrite(text: str, python_headers: str, numpy_headers: str) -> str:
    """`text` of one CMake export with the build machine's header folders replaced by this machine's."""
    text = _NUMPY_HEADERS.sub(lambda _: numpy_headers, text)
    return _PYTHON_HEADERS.sub(lambda _: python_headers, text)


def fix(prefix: Path, python_headers: str, numpy_headers: str) -> tuple[int, int]:
    """Rewrite the exports under `prefix`/share. Returns the numbers of files looked at and of files changed."""
    seen = changed = 0
    for path in sorted(prefix.glob("share/*/cmake/*.cmake")):
        seen += 1
        before = path.read_text(encoding="utf-8")
        after = rewrite(before, python_headers, numpy_headers)
        if after != before:
            # Renamed into place: an interrupted run leaves the old file or the new one, never half of one.
            temporary = path.with_suffix(".cmake.new")
            temporary.write_text(after, encoding="utf-8")
            os.replace(temporary, path)
            changed += 1
    return seen, changed


def main() -> int:
    seen, changed = fix(Path(sys.prefix), sysconfig.get_path("include"), numpy.get_include())
    if not seen:
        print(f"no CMake exports under {sys.prefix}/share: the ROS wheels are not installed", file=sys.stderr)
        return 1
    print(f"{changed} of {seen} CMake exports of the ROS wheels rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
