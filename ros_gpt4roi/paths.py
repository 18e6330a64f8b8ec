"""Where the files that come with the package lie: in its share folder once installed, else in the source checkout."""

from __future__ import annotations

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
    places = [folder for folder in (share_folder(), Path(__file__).resolve().parent.parent) if folder is not None]
    for folder in places:
        if (folder / relative).exists():
            return folder / relative
    looked = ", ".join(str(folder / relative) for folder in places)
    raise FileNotFoundError(f"{relative} of {PACKAGE} not found; looked at {looked}")


def find_model(name: str) -> Path:
    """Find a model's checkpoint folder.

    Args:
        name: A folder, or the name of a model that is installed with the package or kept in the source checkout.

    Raises:
        ConfigError: neither is there; the message names every place looked at.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    try:
        return find(f"models/{name}/config.json").parent
    except FileNotFoundError as error:
        raise ConfigError(f"model is {name!r}; expected a folder or an installed model, but {folder} is no folder and "
                          f"{error}") from error
