"""Command line of the data sets.

``python -m training.data check`` looks at a recipe's data, ``from_bag`` makes pictures and records of bags, ``select``
chooses those that a person should look at, ``index`` lets them be found by region embedding, ``export`` and ``import``
exchange records with other programs, ``convert`` turns a detector's pickle into npz, ``shard`` writes a recipe's
training data as webdataset tar files.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import CheckpointError
from ros_gpt4roi.runtime.evidence import EvidenceError
from training.data.check import check
from training.data.detections import load_class_names, load_pickle, save_detections
from training.data.evidence import build_index
from training.data.exchange.coco import export_coco, import_coco
from training.data.exchange.label_studio_export import export_label_studio
from training.data.exchange.label_studio_import import import_label_studio
from training.data.exchange.lerobot_export import export_lerobot
from training.data.exchange.lerobot_import import import_lerobot
from training.data.mixture import open_mixture
from training.data.record import RecordError
from training.data.report import Report
from training.data.selection import select_for_review
from training.data.shards import write_shards
from training.errors import tells_errors
from training.recipe import read_recipe

_EXPORTS = {"coco": export_coco, "label_studio": export_label_studio, "lerobot": export_lerobot}
_IMPORTS = {"coco": import_coco, "label_studio": import_label_studio}  # lerobot needs no folder of pictures

@tells_errors(RecordError, ConfigError, CheckpointError, EvidenceError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 where all is well, 1 where data cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    commands = parser.add_subparsers(required=True)
    look = commands.add_parser("check", help="counts, first errors, and samples rendered as pictures")
    look.add_argument("--config", type=Path, required=True, help="a recipe (YAML)")
    look.add_argument("--out", type=Path, default=Path("data_check"), help="folder for the pictures")
    look.add_argument("--samples", type=int, default=4, help="visits of every source to look at")
    look.set_defaults(run=_check)
    split = commands.add_parser("shard", help="write a recipe's training mixture as webdataset tar files")
    split.add_argument("--config", type=Path, required=True, help="a recipe (YAML)")
    split.add_argument("--out", type=Path, required=True, help="folder for the tar files")
    split.add_argument("--epochs", type=int, default=1, help="epochs to write, each with its own texts")
    split.add_argument("--per-shard", type=int, default=2000, help="visits in a file (default %(default)s)")
    split.set_defaults(run=_shard)
    bags = commands.add_parser("from_bag", help="make a folder of pictures and records.jsonl of a robot's bags")
    bags.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="a folder of a bag, or its .mcap or .db3 file")
    bags.add_argument("--out", type=Path, required=True, help="folder for the pictures and records.jsonl")
    bags.add_argument("--image-topic", default="", help="default: the topic whose frames have most boxes and texts")
    bags.add_argument("--slop", type=float, default=0.05, metavar="SECONDS",
                      help="how far stamps of boxes may be from their frame's (default %(default)s)")
    bags.add_argument("--similar", type=int, default=4, metavar="BITS", help="of the 64 bits of a picture's hash, how "
                      "many may differ from one before for it to be left out (default %(default)s)")
    bags.add_argument("--review", type=int, default=0, metavar="N", help="choose pictures for a review, as select does")
    bags.set_defaults(run=_from_bag)
    choose = commands.add_parser("select", help="choose the pictures of a folder that a person should look at first")
    choose.add_argument("folder", type=Path, help="with records.jsonl")
    choose.add_argument("--review", type=int, required=True, metavar="N", help="pictures for each reason, at most")
    choose.set_defaults(run=lambda options: _select(options.folder, options.review))
    find = commands.add_parser("index", help="make the index of a folder's records by the region embeddings of a model")
    find.add_argument("folder", type=Path, help="with records.jsonl")
    find.add_argument("--model", required=True, help="a checkpoint folder, or the name of an installed model")
    find.set_defaults(run=_index)
    give = commands.add_parser("export", help="write the records of a folder in another format")
    give.add_argument("format", choices=[*_EXPORTS])
    give.add_argument("folder", type=Path, help="with records.jsonl")
    give.add_argument("out", type=Path, help="file to write; of lerobot a folder")
    give.set_defaults(run=_export)
    take = commands.add_parser("import", help="make a folder of pictures and records.jsonl of another format")
    take.add_argument("format", choices=[*_IMPORTS, "lerobot"])
    take.add_argument("annotations", type=Path, help="the file; of lerobot the folder")
    take.add_argument("--images", type=Path, help="folder of its pictures, which are copied; lerobot has its own")
    take.add_argument("--out", type=Path, required=True, help="folder for the pictures and records.jsonl")
    take.set_defaults(run=_import)
    turn = commands.add_parser("convert", help="turn a detector's pickle into npz or JSON")
    turn.add_argument("pickle", type=Path)
    turn.add_argument("out", type=Path)
    turn.add_argument("--class-names", type=Path, help="a name a line, or the categories of a COCO or LVIS file")
    turn.set_defaults(run=_convert)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    # What is malformed is printed in the table; a line each would bury it.
    logging.getLogger("training.data.report").setLevel(logging.ERROR)
    return options.run(options)


def _check(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.config)
    failures = 0
    for name, section in (("train", recipe.train), ("validation", recipe.validation)):
        values = dict(section)
        if values.pop("kind", None) != "mixture":
            print(f"{name}: {section.get('kind')}, made by this program; nothing to check")
            continue
        text, failed = check(open_mixture(values, recipe.seed), options.samples, options.out / name)
        print(f"{name}\n{text}")
        failures += failed
    return 1 if failures else 0


def _shard(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.config)
    values = dict(recipe.train)
    if values.pop("kind", None) != "mixture":
        raise RecordError(f"{options.config}: train is no mixture")
    files = write_shards(open_mixture(values, recipe.seed), options.out, options.epochs, options.per_shard)
    print(f"{options.out}: {len(files)} files")
    return 0


def _from_bag(options: argparse.Namespace) -> int:
    # Imported late: it needs the messages of ROS.
    from training.data.bags.convert import BagOptions, convert_bags

    report = Report(sys.maxsize)
    try:
        convert_bags(options.bags, options.out, BagOptions(options.image_topic, options.slop, options.similar), report)
    finally:
        print("\n".join([f"{options.out}: {report.kept} pictures of {report.read} messages", *report.lines()]))
    return _select(options.out, options.review) if options.review else 0


def _export(options: argparse.Namespace) -> int:
    report = Report(sys.maxsize)
    _EXPORTS[options.format](options.folder, options.out, report)
    return _told(options.out, report)


def _import(options: argparse.Namespace) -> int:
    report = Report(sys.maxsize)
    if options.format == "lerobot":
        import_lerobot(options.annotations, options.out, report)
    elif options.images is None:
        raise RecordError(f"--images is missing: the folder of the pictures of {options.annotations}")
    else:
        _IMPORTS[options.format](options.annotations, options.images, options.out, report)
    return _told(options.out, report)


def _index(options: argparse.Namespace) -> int:
    report = Report(sys.maxsize)
    build_index(options.folder, options.model, report)
    return _told(options.folder, report)


def _told(out: Path, report: Report) -> int:
    print("\n".join([f"{out}: {report.kept} pictures of {report.read}", *report.lines()]))
    return 1 if report.malformed else 0


def _select(folder: Path, budget: int) -> int:
    if budget < 0:
        raise RecordError(f"--review is {budget}, expected at least 0")
    for reason, count in select_for_review(folder, budget).items():
        print(f"review {count}: {reason}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    detections = load_pickle(options.pickle)
    if options.class_names:
        detections = detections.named(load_class_names(options.class_names))
    save_detections(detections, options.out)
    print(f"{options.out}: {len(detections.filenames)} images, {len(detections.boxes)} boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
