"""ros2 run ros_gpt4roi build_engine: builds, checks and lists engines of the vision stage."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..configuration import ConfigError
from ..model.checkpoint import CheckpointError, load_any
from ..model.qwen3_vl import MAX_PIXELS
from ..paths import find_model
from . import EngineError
from .build_process import Progress
from .cache import CacheError, EngineCache, model_entry, verify
from .export import network_of, verify_graph
from .gate import read_report
from .profiles import PRECISIONS, EngineOptions, fallback_precisions
from .tensorrt.engine import EngineRequest, first_that_works, open_tensorrt, provide_engine
from .tensorrt.library import choose_library, this_gpu


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 where everything asked for was done or found in order."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.INFO, format="%(levelname)s %(message)s")
    engine_options = EngineOptions(profile=options.profile, precision=options.precision, cache=options.cache,
                                   frames=options.frames)
    try:
        if options.list or options.check:
            return _show(engine_options.open_cache(), verify_all=options.check)
        return _build(find_model(options.model), engine_options, options.max_pixels)
    except (ConfigError, EngineError, CheckpointError, OSError) as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    defaults = EngineOptions()
    parser = argparse.ArgumentParser(prog="build_engine", description=__doc__)
    parser.add_argument("--model", default="tabletop",
                        help="checkpoint folder, or name of an installed model (default: %(default)s)")
    parser.add_argument("--profile", default=defaults.profile,
                        help="name of a profile in engines/, a .yaml file, or auto: by GPU (default: %(default)s)")
    parser.add_argument("--precision", default=defaults.precision, choices=PRECISIONS, help="instead of the profile's")
    parser.add_argument("--frames", default=defaults.frames, help="folder of recorded frames for calibration and gate")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS,
                        help="of a picture, as pipeline.vision.max_pixels, for a model that takes pictures of any size "
                             "(default: %(default)s)")
    parser.add_argument("--cache", default=defaults.cache, help="folder of engines")
    parser.add_argument("--check", action="store_true", help="verify every file of the cache, build nothing")
    parser.add_argument("--list", action="store_true", help="show the cache, build nothing")
    parser.add_argument("--verbose", action="store_true", help="TensorRT's own messages too")
    return parser


def _build(folder: Path, options: EngineOptions, max_pixels: int) -> int:
    gpu = this_gpu()
    loaded = load_any(folder, "cuda" if gpu else "cpu")
    network = network_of(loaded.model, max_pixels)
    if gpu is not None:
        runner = open_tensorrt(loaded, network, model_entry(folder), options, _print_progress)
        print(f"\nready: {runner.precision} engine on {gpu.name}")
        return 0
    profile, cache = options.find_profile(None), options.open_cache()
    library = choose_library(profile.library, None)
    request = EngineRequest(network, model_entry(folder), profile, library, None, options.frames_folder)
    engine, _ = first_that_works(fallback_precisions(profile.precision, None), lambda precision: provide_engine(
        request, precision, cache, progress=_print_progress))
    print(f"\nbuilt ahead of time, not run (no GPU here; the gate runs at first use): {engine.path}")
    return 0


def _print_progress(progress: Progress) -> None:
    end = "\n" if not sys.stderr.isatty() and progress.fraction >= 1 else "\r"
    if sys.stderr.isatty() or progress.fraction >= 1:
        print(f"\x1b[K{100 * progress.fraction:3.0f} % {progress.step}", end=end, file=sys.stderr, flush=True)


def _show(cache: EngineCache, verify_all: bool) -> int:
    files, bad = cache.files(), 0
    print(f"{cache.folder}: {len(files)} engines")
    for path in files:
        try:
            header = verify(path).header
        except CacheError as error:
            bad += 1
            print(f"  BAD   {error}")
            continue
        key, report = header["key"], read_report(path.with_suffix(".gate.json"))
        if report is None or report.engine != header["sha256"]:
            verdict = "gate not run"
        else:
            verdict = "passed" if report.passed else f"refused: {report.reason}"
        print(f"  ok    {path.name}: {key['precision']}, {key['library']} {key['version']}, GPU {key['gpu']}, "
              f"{header['size'] >> 20} MiB, built in {header['seconds']} s with {header['peak_mib']} MiB, {verdict}")
    for folder in cache.graph_folders():
        try:
            verify_graph(folder)
            print(f"  ok    {folder.name}: exported graph")
        except EngineError as error:
            bad += 1
            print(f"  BAD   {error}")
    return 1 if bad and verify_all else 0


if __name__ == "__main__":
    sys.exit(main())
