"""Models by name: which there are, what is known of one, and its download.

    python -m ros_gpt4roi.models list
    python -m ros_gpt4roi.models card Qwen3-VL-2B-Instruct
    python -m ros_gpt4roi.models get Qwen3-VL-2B-Instruct

Only `get` goes online, to the Hugging Face Hub or the mirror that HF_ENDPOINT names.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

from ..configuration import ConfigError
from ..paths import user_models
from .catalogue import FORMATS, Entry, ModelsError, Parameters, read_catalogue, unknown
from .installed import CONFIG_FILE, RECORD_FILE, describe_folder, installed_models, read_record, readable, unfinished


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 1 where there is an error, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m ros_gpt4roi.models", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="models that are here or can be downloaded")
    card = commands.add_parser("card", help="what is known of a model")
    card.add_argument("name", help="of a model, or a folder")
    get = commands.add_parser("get", help="download a model; an interrupted download is gone on with")
    get.add_argument("name", help="of a model")
    get.add_argument("--to", type=Path, metavar="FOLDER",
                     help=f"becomes the model's folder (default: {user_models()}/NAME, where `model: NAME` finds it)")
    get.add_argument("--accept-licence", action="store_true", help="accept the model's licence without being asked")
    given = parser.parse_args(arguments)
    try:
        entries = read_catalogue()
        if given.command == "list":
            _list(entries)
        elif given.command == "card":
            _card(given.name, entries)
        elif given.name in entries:
            _get(given.name, entries[given.name], given.to, given.accept_licence)
        else:
            raise unknown(given.name, [name for name, entry in entries.items() if entry.repository])
    except (ModelsError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with what has come", file=sys.stderr)
        return 130
    return 0


def _list(entries: dict[str, Entry]) -> None:
    here = installed_models()
    rows = [("name", "here", "download", "memory, int8", "licence", "what it is")]
    for name in dict.fromkeys((*entries, *here)):
        entry = entries.get(name)
        rows.append((name, "yes" if name in here else "in part" if unfinished(user_models() / name).is_dir() else "no",
                     f"{entry.download_bytes / 1e9:.1f} GB" if entry and entry.download_bytes else "",
                     f"{entry.parameters.memory('int8', gpu=False) / 1e9:.1f} GB" if entry and entry.parameters else "",
                     entry.licence if entry else "", entry.about if entry else str(here[name])))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    print("\nMemory is that of the weights on a CPU, computed. `card NAME` says more, `get NAME` downloads.")


def _card(name: str, entries: dict[str, Entry]) -> None:
    here = installed_models()
    folder = here.get(name, Path(name).expanduser())
    is_here = (folder / CONFIG_FILE).is_file()
    entry = entries.get(name)
    if entry is None and not is_here:
        raise unknown(name, [f"a folder with {CONFIG_FILE}", *dict.fromkeys((*entries, *here))])
    print(name)
    lines: list[tuple[str, str]] = []
    if entry is not None:
        lines = [("what it is", entry.about), ("licence", f"{entry.licence}, {entry.licence_page}"),
                 ("tried", entry.tried)]
        if entry.repository:
            lines += [("publisher's page", entry.page),
                      ("commit", entry.revision or "the newest, when it is downloaded"),
                      ("download", f"{readable(entry.download_bytes)}: {', '.join(entry.files)}")]
    lines += describe_folder(folder) if is_here else [("folder", f"not here; `get {name}` downloads it"
                                                       if entry and entry.repository else "not here")]
    for label, text in lines:
        print(f"  {label + ':':<18}{text}")
    if entry is not None and entry.parameters is not None:
        _show_memory(entry.parameters, str(folder) if is_here else "FOLDER")


def _show_memory(parameters: Parameters, folder: str) -> None:
    print("  memory of the weights, computed; a running model's caches and activations come on top:")
    print("    GB      " + "".join(f"{number_format:>8}" for number_format in FORMATS))
    for where, gpu in (("on a CPU", False), ("on a GPU", True)):
        print(f"    {where}" + "".join(f"{parameters.memory(item, gpu) / 1e9:8.1f}" for item in FORMATS))
    more = parameters.loading("int8", False) - parameters.memory("int8", False)
    print(f"    {more / 1e9:.1f} GB more while it is loaded. int8 and int4 are made at the first start and kept in the "
          f"engine cache;\n    to make one beforehand: python -m ros_gpt4roi.runtime.language_format {folder} int8")


def _get(name: str, entry: Entry, to: Path | None, accepted: bool) -> None:
    here = installed_models()
    if not entry.repository:
        print(f"{name} comes with the package: {here.get(name, 'not here, install the package again')}")
        return
    target = (user_models() / name if to is None else to.expanduser()).absolute()
    if to is None and name in here:
        target = here[name]
    # Only now: these take half a second to import, and can go online.
    from .download import check_room, download, locked, look_up, write_record
    if (target / CONFIG_FILE).is_file() and (to is None or read_record(target).get("repository") == entry.repository):
        print(f"{name} is here: {target}")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelsError(f"{target}: there is something else, expected a new or empty folder")
    terms = f"{entry.licence}, as its publisher says on {entry.page}; its text: {entry.licence_page}"
    if not accepted and not sys.stdin.isatty():
        raise ModelsError(f"the licence of {name} ({terms}) was not accepted: nobody can be asked here, expected "
                          "--accept-licence")
    work = unfinished(target)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelsError(f"{target}: {error.strerror}, expected a place that can be written") from error
    with locked(work):
        try:
            remote = look_up(entry, str(read_record(work).get("revision", "")))
            print(f"{remote.repository} at {remote.revision}\n{len(remote.files)} files, {readable(remote.size)}, "
                  f"to {target}\nlicence: {terms}")
            check_room(remote, work)
            if not accepted and not _confirmed():
                raise ModelsError(f"the licence of {name} was not accepted; nothing was downloaded")
            write_record(work, remote, entry.licence)
            download(remote.without_weights, work)
            _check(work)
            download(remote, work)
            for path in work.iterdir():
                if path.name not in (RECORD_FILE, *(file.name for file in remote.files)):  # of another commit
                    path.unlink()
            work.rename(target)
        finally:
            with contextlib.suppress(OSError):  # where nothing came
                work.rmdir()
    print(f"{name} is here, every file has its hash; `model: {name if to is None else target}` loads it")


def _confirmed() -> bool:
    try:
        return input("Do you accept the licence? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _check(folder: Path) -> None:
    """Refuse a model that would not load, before its weights are downloaded."""
    from ..model.checkpoint import CheckpointError, build_empty
    try:
        build_empty(folder)
    except CheckpointError as error:
        shutil.rmtree(folder)
        raise ModelsError(f"what came is no model that this package loads, and was deleted: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
