"""Where the files that come with the package lie: in its share folder once installed, else in the source checkout.

Models that were downloaded lie in the user's data folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from .configuration import ConfigError

PACKAGE = "ros_gpt4roi"


def share_folder() -> Path | None:
    """The package's ament share folder, or None where it is not installed (or no ROS 2 is sourced)."""
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        return None
    try:
        return Path(get_package_share_directory(PACKAGE))
    except (PackageNotFoundError, OSError):  # OSError: AMENT_PREFIX_PATH is not set
        return None


def find(relative: str) -> Path:
    """Path of a file or folder that comes with the package, such as "config/default.yaml".

    The share folder goes before the source checkout, so that a robot runs what was installed.

    Raises FileNotFoundError naming every place looked at.
    """
    places = _places()
    for folder in places:
        if (folder / relative).exists():
            return folder / relative
    looked = ", ".join(str(folder / relative) for folder in places)
    raise FileNotFoundError(f"{relative} of {PACKAGE} not found; looked at {looked}")


def _places() -> list[Path]:
    checkout = Path(__file__).resolve().parent.parent
    return [folder for folder in (share_folder(), checkout) if folder is not None]


def user_models() -> Path:
    """Where `python -m ros_gpt4roi.models get` puts models: ~/.local/share/ros_gpt4roi/models, or as XDG says."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(data) / PACKAGE / "models"


def model_places() -> list[Path]:
    """Folders of models, in the order in which a name is looked for."""
    return [*(folder / "models" for folder in _places()), user_models()]


def find_model(name: str) -> Path:
    """Find a model's checkpoint folder.

    Args:
        name: A folder, or the name of a model that is installed with the package, kept in the source checkout or was
            downloaded.

    Raises:
        ConfigError: neither is there; the message names every place looked at.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    configs = [place / name / "config.json" for place in model_places()]
    for config in configs:
        if config.exists():
            return config.parent
    raise ConfigError(f"model is {name!r}; expected a folder or an installed model, but {folder} is no folder and "
                      f"there is none of {', '.join(map(str, configs))} (`python -m {PACKAGE}.models list` shows what "
                      "is here or can be downloaded)")
