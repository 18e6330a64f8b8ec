"""Where the files that come with the package lie: in its share folder once installed, else in the source checkout.

Models that were downloaded lie in the user's data folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from .configuration import ConfigError
from .regular_file import read_regular

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


def completed_model(folder: Path) -> Path | None:
    """Where a model lies, or is to lie, once what it came without is there (`model/without_base.py`).

    Args:
        folder: A model's.

    Returns:
        A folder of the same name, under the SHA-256 of the model's config.json, which names all that it is made of;
        None where the model is whole as it is.
    """
    try:
        content = read_regular(folder / "config.json")
        if "base" not in json.loads(content):
            return None
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # who loads it says what is wrong
    digest = hashlib.sha256(content).hexdigest()[:16]
    return user_models().with_name("completed") / digest / folder.resolve().name


def find_model(name: str) -> Path:
    """Find a model's checkpoint folder.

    Args:
        name: A folder, or the name of a model that is installed with the package, kept in the source checkout or was
            downloaded.

    Returns:
        The folder; of a model that came without its language model, that of the whole one.

    Raises:
        ConfigError: neither is there, the message names every place looked at; or its language model was never added.
    """
    return _whole(find_model_as_it_came(name))


def find_model_as_it_came(name: str) -> Path:
    """As `find_model`, but of a model that came without its language model the folder that came."""
    try:
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            return folder
        configs = [place / name / "config.json" for place in model_places()]
        for config in configs:
            if config.exists():
                return config.parent
    except (OSError, RuntimeError) as error:  # too long, not to be looked at, or in the home of nobody
        raise ConfigError(f"model is {name!r}; expected a folder or an installed model ({error})") from error
    raise ConfigError(f"model is {name!r}; expected a folder or an installed model, but {folder} is no folder and "
                      f"there is none of {', '.join(map(str, configs))} (`python -m {PACKAGE}.models list` shows what "
                      "is here or can be downloaded)")


def _whole(folder: Path) -> Path:
    whole = completed_model(folder)
    if whole is not None and not (whole / "config.json").is_file():
        raise ConfigError(f"model {folder} came without its language model, expected that it was completed: "
                          f"python -m {PACKAGE}.model complete {folder}; scripts/setup.sh --household does so")
    return whole or folder
