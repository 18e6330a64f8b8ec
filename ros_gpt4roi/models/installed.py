"""Models that are here: their folders, and what a folder says of its model without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model_card import CARD_FILE, CardError, summary
from ..paths import model_places
from ..printable import printable
from ..regular_file import read_json
from .catalogue import COMMIT

CONFIG_FILE = "config.json"
#: What a downloaded folder says of where it is from.
RECORD_FILE = "download.json"


def installed_models() -> dict[str, Path]:
    """The folders that `find_model` finds by name."""
    found: dict[str, Path] = {}
    for place in model_places():
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if not folder.name.startswith(".") and (folder / CONFIG_FILE).is_file():
                    found.setdefault(folder.name, folder)
    return found


def unfinished(folder: Path) -> Path:
    """Where a download lies until it may be called by the name of its folder; on the same disk."""
    return folder.with_name(f".{folder.name}.unfinished")


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote; empty where there is nothing, or nothing that it wrote."""
    try:
        content = read_json(folder / RECORD_FILE)
    except (OSError, ValueError):
        return {}
    known = isinstance(content, dict) and COMMIT.fullmatch(str(content.get("revision"))) is not None
    return content if known else {}


def readable(size: float) -> str:
    """A size for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def describe_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """What a model's folder says of it.

    Args:
        folder: A checkpoint of this package, or a model as transformers writes it.

    Yields:
        What, and what of it; fit to be shown.
    """
    yield "folder", str(folder)
    yield "network", printable(_network(folder))
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    formats = {name: size for name, size in sizes.items() if name.startswith("language-")}
    yield "weights", readable(sum(sizes.values()) - sum(formats.values()))
    if formats:
        yield "saved formats", ", ".join(f"{Path(name).stem.removeprefix('language-')} {readable(size)}"
                                         for name, size in formats.items())
    if record := read_record(folder):
        yield "downloaded", printable(f"{record.get('repository')} at {record['revision']}, licence "
                                      f"{record.get('licence')} ({RECORD_FILE})")
    if (folder / "probes" / "probes.json").is_file():
        yield "probes", "yes, for load_model"
    if (folder / CARD_FILE).is_file():
        try:
            yield "retrained", printable(summary(folder))
        except CardError as error:
            yield "retrained", f"not known: {printable(str(error))}"
    if (folder / "README.md").is_file():
        yield "model card", str(folder / "README.md")


def _network(folder: Path) -> str:
    try:
        config = read_json(folder / CONFIG_FILE)
        if "model" not in config:
            return f"{config['model_type']} of transformers"
        parts = config["model"]
        return (f"GPT4RoI: {_kind(parts['vision']['encoder'])}, region extractor {parts['regions']['kind']}, "
                f"{_kind(parts['language']['model'])}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"not known: {CONFIG_FILE} cannot be read ({type(error).__name__}: {error})"


def _kind(network: dict[str, Any]) -> str:
    return str(network["model_type"])
