"""Find what an interrupted pip left half installed in the running virtual environment, and remove its records.

pip writes a distribution's INSTALLER file after all its other files. A distribution without one was cut short, yet pip
would take it for installed; without its record, the next `pip install` writes all its files again.

    .venv/bin/python scripts/check_venv.py
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path


def half_installed(site_packages: Path) -> list[Path]:
    """The folders in `site_packages` that an interrupted installation or removal left behind."""
    cut_short = [path for path in site_packages.glob("*.dist-info") if not (path / "INSTALLER").is_file()]
    # pip renames what it is about to remove to "~name".
    return sorted(cut_short + list(site_packages.glob("~*")))


def main() -> int:
    for path in half_installed(Path(sysconfig.get_path("purelib"))):
        print(f"removing {path.name}, left by an interrupted installation")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
