"""Teach a model what people corrected.

    python -m training.retrain --model models/NAME --data FOLDER --out runs/NAME

FOLDER is one of one's own pictures (docs/your_data.md), such as `python -m training.data from_bag` makes of a robot's
recordings. What it will cost is printed before it starts. runs/NAME becomes a folder that a robot loads, or that the
service `load_model` takes, or an adapter of the model (`--result`), with probes, `card.json` and `report.html`: right
texts before and after, on what is new and on what was known. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.model.checkpoint import (
    CheckpointError,
    build_empty,
    folder_version,
    load_checkpoint,
    read_config,
    save_checkpoint,
    untrained_parts,
)
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.regular_file import read_json, write_whole
from ros_gpt4roi.runtime.pipeline import PipelineConfig
from ros_gpt4roi.runtime.probes import PROBES_FILE
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.studio import RendererError

from .data import DataError
from .data.record_file import FILE, PictureRecord
from .data.report import Report
from .deploy import QUANTISED, RECIPE_FILE, deploy, deploy_adapter
from .errors import RecipeError, tells_errors
from .evaluation.model import open_fitted
from .evaluation.probes import Picture, write_probes
from .recipe import read_recipe
from .retraining.card import Case, as_fields, compare, known_phrase, make_card, read_cases, taught_phrase, write_card
from .retraining.corrections import Corrected, find_corrections, is_short, split, write_lessons
from .retraining.plan import SMALL, STAGE, WHOLE, Effort, estimate, language_parameters, make_recipe
from .retraining.replay import earlier_sources, render_replay, say_again
from .retraining.vocabulary import new_words, with_words
from .retraining.worlds import WORLDS
from .train import train
from .trainer import CURVE_FILE

# But without building an engine of the vision stage, whose results are the same.
_AS_THE_NODE = PipelineConfig(vision=VisionOptions(backend="torch"))
_HELD_OUT = 0.1  # of the corrected pictures
_SCENES = 200  # of a rendered replay, at least
_VISITS = 2  # of each of them
_HELD_SCENES = 60
_PICTURES = 100  # that the card looks at of what was known
_PROBES = 12  # pictures, of what is new and of what was known each
_MALFORMED = 1000


class Retraining:
    """One retraining and its folders.

    Args:
        model: Folder of the model it begins with.
        data: Folders of one's own pictures.
        out: The folder to write.
        seed: Of everything random.
        effort: How much it is trained.
        formats: Number formats in which the language model is stored besides.
        adapter: Whether an adapter is what learns and what is written, not a model.
    """

    def __init__(self, model: Path, data: Sequence[Path], out: Path, seed: int, effort: Effort,
                 formats: Sequence[str], adapter: bool) -> None:
        self._model, self._data, self._out, self._seed = model.resolve(), data, out, seed
        self._effort, self._formats, self._adapter = effort, formats, adapter
        self._run = out / "run"
        self._recipe_file = self._run / RECIPE_FILE
        self._describe = read_config(model).prompt.describe

    def run(self) -> dict[str, Any]:
        """Do all of it. Returns the card."""
        began = time.monotonic()
        stamps = [_stamp(folder / FILE) for folder in self._data]  # first: a review may be written while they are read
        corrected = find_corrections(self._data, report := Report(_MALFORMED), build_empty(self._model).prompts)
        print("\n".join((*corrected.lines(), *(f"  {line}" for line in report.lines()
                          if report.malformed or report.filtered))))
        self._prepare(corrected, stamps)
        recipe = read_recipe(self._recipe_file)
        if not (self._run / STAGE / "final").is_dir():
            cost = estimate(recipe, self._run)
            print(f"Cost: {cost}", flush=True)
            if cost.disk > cost.free:
                raise RecipeError(f"{self._out}: {cost}")
        train(recipe, self._run)
        if self._adapter:
            deploy_adapter(self._recipe_file, self._run, self._out)
        else:
            deploy(self._recipe_file, self._run, self._out, self._formats)
        for path in (self._run / STAGE).glob("checkpoint-*"):
            shutil.rmtree(path)
        card, cases = self._compare(corrected, time.monotonic() - began)
        write_card(self._out, card, cases)
        return card

    # The data

    def _prepare(self, corrected: Corrected, stamps: list[list[Any]]) -> None:
        """Writes data and recipe, unless they are there; then they must be of the same command."""
        wanted = {"model": folder_version(self._model), "data": stamps, "seed": self._seed,
                  "effort": as_fields(self._effort), "adapter": self._adapter}
        manifest = self._run / "manifest.json"
        if manifest.exists():
            if (found := read_json(manifest)) != wanted:
                raise RecipeError(f"{self._out} is of another retraining ({found}), expected the same model, data and "
                                  "options, or another folder")
            return
        for folder in ("lessons", "held_out", "replay", "replay_held_out"):
            shutil.rmtree(self._run / folder, ignore_errors=True)
        learned, held_out = split(corrected.pictures, _HELD_OUT, self._seed)
        write_lessons(learned, self._run / "lessons", self._describe)
        write_lessons(held_out, self._run / "held_out", self._describe)
        masks = any(region.mask is not None for _, record in corrected.pictures for region in record.regions)
        replay, validation = self._replay(corrected, len(learned))
        start = self._start([record for _, record in learned])
        recipe = make_recipe(
            start, self._run, self._seed, self._effort, len(learned),
            [self._source("lessons", masks=masks, augment=True)], replay,
            [self._source("held_out", masks=masks), *validation], self._adapter)
        self._recipe_file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        write_whole(manifest, (json.dumps(wanted, indent=1) + "\n").encode())

    def _start(self, records: Sequence[PictureRecord]) -> Path:
        """What training begins with: the model, with words that it has no tokens for, where it learns as a whole."""
        if self._adapter or language_parameters(self._model) > WHOLE:
            return self._model
        loaded = load_checkpoint(self._model)
        words = new_words(records, loaded)
        if not words:
            return self._model
        print(f"New words: {', '.join(words)}")
        loaded = with_words(loaded, words)
        save_checkpoint(loaded.model, loaded.tokenizer, self._run / "start", untrained=sorted(
            untrained_parts(self._model)))
        return self._run / "start"

    def _source(self, folder: str, ratio: float = 1.0, **options: Any) -> dict[str, Any]:
        return {"type": "records", "form": "conversations", "context": True, "ratio": ratio,
                "annotations": str(self._run / folder / FILE), **options}

    def _replay(self, corrected: Corrected, lessons: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The sources of replay beside so many pictures to learn from, to train on and to validate on."""
        visits = lessons * self._effort.replay
        earlier = read_recipe(self._model / RECIPE_FILE) if (self._model / RECIPE_FILE).is_file() else None
        if earlier is not None and (world := WORLDS.get(earlier.train.get("kind", ""))):
            # A scene that is seen again and again is learned by heart, and says no more of what must not be forgotten.
            scenes = max(_SCENES, round(self._effort.visits(lessons) * self._effort.replay / _VISITS))
            for folder, part, count in (("replay", "train", scenes), ("replay_held_out", "validation", _HELD_SCENES)):
                render_replay(self._run / folder, world, part, count, self._seed, self._describe)
        elif earlier is not None and (sources := earlier_sources(earlier.train)):
            from .data.mixture import open_mixture
            total = len(open_mixture({"cache": self._run / "index", "sources": sources}, self._seed))
            return ([{**source, "ratio": source.get("ratio", 1.0) * visits / total} for source in sources],
                    earlier_sources(earlier.validation))
        else:
            learned, held_out = split([*corrected.pictures, *corrected.others], _HELD_OUT, self._seed)
            pipeline = open_fitted(self._model, _AS_THE_NODE)
            say_again(self._run / "replay", learned, pipeline, self._describe)
            say_again(self._run / "replay_held_out", held_out, pipeline, self._describe)
        pictures, held_out_pictures = (_lines(self._run / folder / FILE) for folder in ("replay", "replay_held_out"))
        return ([self._source("replay", visits / pictures, augment=True)] * bool(pictures),
                [self._source("replay_held_out")] * bool(held_out_pictures))

    # The comparison

    def _compare(self, corrected: Corrected, seconds: float) -> tuple[dict[str, Any], list[Case]]:
        before = open_fitted(self._model, _AS_THE_NODE)
        after = open_fitted(self._model, replace(_AS_THE_NODE, adapters=(self._out,), adapter=self._out.resolve().name)
                            ) if self._adapter else open_fitted(self._out, _AS_THE_NODE)
        known = [Path(source["annotations"])
                 for source in read_recipe(self._recipe_file).validation["sources"][1:] if source["type"] == "records"]
        new_pictures = read_cases([self._run / "held_out" / FILE], taught_phrase, sys.maxsize)
        old_pictures = read_cases(known, known_phrase, _PICTURES)
        new = compare(before, after, new_pictures, taught_phrase)
        old = compare(before, after, old_pictures, known_phrase)
        lessons = read_cases([self._run / "lessons" / FILE], taught_phrase, sys.maxsize)
        learned = compare(before, after, lessons, taught_phrase)
        write_probes(self._out / PROBES_FILE.parent, [*self._probes(new, _PROBES), *self._probes(old, _PROBES)])
        facts = {"corrections": {"regions": corrected.regions, "conversations": corrected.conversations,
                                 "contradictions": corrected.contradictions, "rejected": corrected.rejected},
                 "minutes": round(seconds / 60, 2), "steps": self._steps(), "seed": self._seed,
                 "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        versions = before.version, after.version_of(after.adapters.serving)
        return make_card(versions, new, old, learned, facts), [*learned, *new]

    def _steps(self) -> int:
        """How many steps were made, after early stopping."""
        return max(entry["step"] for entry in read_json(self._run / STAGE / CURVE_FILE))

    def _probes(self, cases: Sequence[Case], pictures: int) -> list[Picture]:
        found: dict[Path, list[Case]] = {}
        for case in cases:
            if is_short(case.phrase):
                found.setdefault(case.picture, []).append(case)
        probes: list[Picture] = []
        for path, about in list(found.items())[:pictures]:
            ids = [region.id for region in about[0].record.regions]
            questions = [(self._describe.replace("{region}", f"region {ids.index(case.region.id) + 1}"), [case.phrase])
                         for case in about]
            probes.append((read_image(path), [region.box for region in about[0].record.regions], questions))
        return probes


def _lines(path: Path) -> int:
    with path.open(encoding="utf-8") as file:
        return sum(1 for _ in file)


def _stamp(path: Path) -> list[Any]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a folder of one's own pictures") from error
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


@tells_errors(RecipeError, DataError, CheckpointError, ConfigError, EngineError, RendererError, AssetsError, OSError,
              interrupted="interrupted; the same command goes on where it was")
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m training.retrain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or name of the model to begin with")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FOLDER", help="with records.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write; give it again to go on")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    parser.add_argument("--epochs", type=float, metavar="N",
                        help="how often each corrected picture is seen, at most (default: 80 times of up to 50, "
                             "down to 5 times of 800 and more)")
    parser.add_argument("--replay", type=float, default=2.0, metavar="N",
                        help="visits of what the model knew, for each of a corrected picture (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="samples a step (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, metavar="RATE",
                        help="the highest (default %(default)s)")
    parser.add_argument("--result", choices=("model", "adapter"),
                        help="what learns and is written: a model, whose region extractor learns as well, or an "
                             "adapter of the language model, for pipeline.adapters (default: an adapter where that has "
                             f"more than {SMALL // 10**6} million parameters)")
    parser.add_argument("--quantise", nargs="+", default=[], choices=QUANTISED, metavar="FORMAT",
                        help=f"also store the language model as {', '.join(QUANTISED)}")
    options = parser.parse_args(arguments)
    for name, least in (("epochs", 0), ("batch", 0), ("learning_rate", 0), ("replay", -1e-9), ("seed", -1)):
        if (value := getattr(options, name)) is not None and not value > least:
            parser.error(f"--{name.replace('_', '-')} {value}, expected more")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    effort = Effort(options.epochs, options.replay, options.batch, options.learning_rate)
    model = find_model(options.model)
    adapter = options.result == "adapter" or not options.result and language_parameters(model) > SMALL
    if adapter and options.quantise:
        raise RecipeError("--quantise stores a model's language model, but an adapter is the result; expected "
                          "--result model, or no --quantise: an adapter goes on any format of the model")
    card = Retraining(model, options.data, options.out, options.seed, effort, options.quantise, adapter).run()
    for group, title in (("new", "corrections that were held out"), ("old", "what it knew")):
        figures = card[group]
        if figures["count"]:
            print(f"{title}: {figures['before']:.1%} right before, {figures['after']:.1%} after, of {figures['count']}")
    print(f"{len(card['doubtful'])} corrections are still answered otherwise; see {options.out}/report.html")
    print(f"{options.out}: ready, in {card['minutes']} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
