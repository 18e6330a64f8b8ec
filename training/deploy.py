"""Make the folder a robot loads from a finished run.

    python -m training.deploy RECIPE.yaml --run FOLDER --out MODEL

MODEL gets the last stage's weights in half precision, config and tokenizer, the recipe, the training curve of every
stage, a model card, and probes for `load_model`: questions of the validation data with short answers. With
`--quantise int8` it gets also the language model in that format, which the node then loads instead
(`pipeline.language_format: int8`), with `--export-vision` the vision stage's ONNX graph, which the node then need not
export at its first start (`pipeline.vision.backend: auto`).

With `--without-base PART`, MODEL gets all but the language model, which was PART before the recipe's last stage trained
it by `lora`, and that with which `python -m ros_gpt4roi.model complete` makes the whole of both.

With `--adapter`, MODEL gets the low-rank adapter of a recipe whose only stage trains nothing else, for the node's
`pipeline.adapters` or for `load_model`: its weights and configuration as peft writes them, and all but the model's of
the above.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import safe_open
from torch.utils.data import DataLoader

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.cache import EngineCache
from ros_gpt4roi.engine.export import GRAPH_FOLDER, network_of, provide_onnx
from ros_gpt4roi.engine.profiles import find_profile
from ros_gpt4roi.model.checkpoint import (
    CONFIG_FILE,
    CheckpointError,
    LoadedModel,
    LoadedQwen3VL,
    load_any,
    read_any_config,
    save_checkpoint,
)
from ros_gpt4roi.model.checkpoint_files import ADAPTER_CONFIG_FILE
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.pretrained import PARTS
from ros_gpt4roi.model.qwen3_vl import Qwen3VLConfig
from ros_gpt4roi.model.without_base import complete, save_without_base
from ros_gpt4roi.runtime.adapter_folder import WEIGHTS_FILE as ADAPTER_WEIGHTS_FILE
from ros_gpt4roi.runtime.adapter_folder import read_adapter
from ros_gpt4roi.runtime.awq import record_inputs, scale_for_int4
from ros_gpt4roi.runtime.language_format import (
    FLOAT_FORMATS,
    FORMATS,
    quantise_language,
    quantised_file,
    save_quantised,
)
from ros_gpt4roi.runtime.probes import PROBES_FILE
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.studio import RendererError

from .collate import ConversationCollator
from .data import DataError, open_dataset
from .data.mixture import MixtureDataset
from .errors import tells_errors
from .evaluation import household_probes, tabletop_probes
from .evaluation.probes import dataset_probes, write_probes
from .recipe import Recipe, RecipeError, read_recipe
from .trainer import ADAPTER_FOLDER, CURVE_FILE, FINAL_FOLDER

logger = logging.getLogger(__name__)
_CALIBRATION = 64  # conversations
_PROBES = 8  # pictures
_SAME = 1e-3  # relative distance of weights that are the same but for half precision
CARD_FILE, RECIPE_FILE = "README.md", "recipe.yaml"
QUANTISED = [name for name in FORMATS if name not in FLOAT_FORMATS]


def read_curves(recipe: Recipe, run: Path) -> dict[str, list[dict[str, float]]]:
    """What every stage logged: stage name → entries with step, loss, eval_loss, …; numbers rounded to 4 digits."""
    curves = {}
    for stage in recipe.stages:
        path = run / stage.name / CURVE_FILE
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: {error}, expected what a finished stage wrote") from error
        wanted = [{k: v for k, v in e.items() if k in ("step", "loss", "eval_loss") or k.startswith("accuracy")}
                  for e in entries if "loss" in e or "eval_loss" in e]
        curves[stage.name] = [{k: round(v, 4) for k, v in e.items()} for e in wanted]
    return curves


def model_card(recipe: Recipe, parameters: dict[str, int], curves: dict[str, list[dict[str, float]]]) -> str:
    """The model card, Markdown: what it is, how it was made, where its scores are."""
    from_nothing = isinstance(recipe.model, ModelConfig)
    start = "nothing, all weights random" if from_nothing else f"`{recipe.model}`"
    # Weights and data of others bring their own terms.
    ours = from_nothing and recipe.train.get("kind") == "tabletop"
    licence = "Apache-2.0" if ours else "those of the model it was trained from and of its data"
    lines = ["# Model card: a GPT4RoI model", "",
             f"Made by `python -m training.train` and `python -m training.deploy` of ros_gpt4roi. Licence: {licence}.",
             "",
             "| part | parameters |", "|---|---|",
             *(f"| {part} | {count / 1e6:.2f} M |" for part, count in parameters.items()), "",
             f"Trained from {start}. Training data: `{json.dumps(recipe.train)}`, seed {recipe.seed}.", "",
             "| stage | learns | steps | batch | first loss | last loss | last validation loss |",
             "|---|---|---|---|---|---|---|"]
    for stage in recipe.stages:
        train = [e for e in curves[stage.name] if "loss" in e]  # none where a stage ends before anything is logged
        held = [e["eval_loss"] for e in curves[stage.name] if "eval_loss" in e]
        learns = [*stage.trainable, *["language by LoRA"] * bool(stage.lora)]
        lines.append(
            f"| {stage.name} ({stage.objective.kind}) | {', '.join(learns)} | {train[-1]['step'] if train else ''} | "
            f"{stage.arguments.get('per_device_train_batch_size', 8)} | {train[0]['loss'] if train else ''} | "
            f"{train[-1]['loss'] if train else ''} | {held[-1] if held else ''} |")
    lines += ["", f"The recipe is `{RECIPE_FILE}`, every logged value is in `{CURVE_FILE}`, scores (if measured) are "
              "in `scores.json`, written by `python -m training.evaluate`."]
    return "\n".join(lines) + "\n"


def export_vision(model_folder: Path) -> None:
    """Writes the vision stage's ONNX graph into a checkpoint folder, for the weights as they are there.

    Raises EngineError, CheckpointError.
    """
    network = network_of(load_any(model_folder).model)
    with tempfile.TemporaryDirectory(dir=model_folder, prefix=".export-") as scratch:
        graph = provide_onnx(network, "model", EngineCache(Path(scratch)), find_profile("auto", None).limits)
        shutil.move(graph.path.parent, model_folder / GRAPH_FOLDER)


def read_inputs(recipe: Recipe, run: Path, loaded: LoadedModel | LoadedQwen3VL) -> dict[str, torch.Tensor]:
    """What the language model's layers are given in validation conversations of the last stage (runtime/awq.py)."""
    section = {**recipe.validation, **recipe.stages[-1].data}
    samples = open_dataset(section, run, recipe.seed, loaded.config)
    batches = DataLoader(samples, collate_fn=ConversationCollator(loaded.prompts))

    def read() -> None:
        for batch in islice(batches, _CALIBRATION):
            loaded.model(**batch)

    return record_inputs(loaded.model.language, read)


def _write_probes(recipe: Recipe, run: Path, out: Path, config: ModelConfig | Qwen3VLConfig) -> None:
    section, folder = {**recipe.validation, **recipe.stages[-1].data}, out / PROBES_FILE.parent
    worlds = {"tabletop": tabletop_probes.write_probes, "household": household_probes.write_probes}
    if section["kind"] in worlds:
        worlds[section["kind"]](folder, _PROBES)
        return
    samples = open_dataset(section, run, recipe.seed, config)
    assert isinstance(samples, MixtureDataset)
    if not write_probes(folder, dataset_probes(samples, _PROBES)):
        logger.warning("the first pictures of the validation data have no question with a short answer: no probes")
        shutil.rmtree(folder)


def deploy_without_base(recipe_file: Path, run: Path, out: Path, base: str) -> None:
    """Writes the folder of a model without its language model.

    Args:
        recipe_file: The recipe; its last stage alone trains the language model, by `lora`.
        run: The run's folder.
        out: The folder to write.
        base: What the language model was before, a name in `PARTS`.

    Raises:
        CheckpointError: the run's last stage is not finished, or the language model is another one than what is made of
            `base` and what that stage has learned.
        RecipeError, DataError, AssetsError, RendererError, OSError: something else prevents it.
    """
    recipe = read_recipe(recipe_file)
    stage = run / recipe.stages[-1].name
    loaded = load_any(stage / FINAL_FOLDER)
    if not isinstance(loaded, LoadedModel):
        raise CheckpointError(f"{stage}: a Qwen3-VL, expected a model of this package")
    language = loaded.model.language
    adapter = read_adapter(stage / ADAPTER_FOLDER, language.base_model, torch.float32, torch.device("cpu"))
    changes = {f"{language.base_model_prefix}.{name}.weight": (change.down, change.up)
               for name, change in adapter.weights.items()}
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in loaded.model.named_children()}
    _tell(recipe_file, recipe, run, out, loaded.config, parts)  # first: the whole model has copies of these files
    save_without_base(loaded.model, base, changes, out)
    whole = complete(out)
    made = load_any(whole).model.language.state_dict()
    for name, value in language.state_dict().items():
        if torch.linalg.norm(made[name] - value) > _SAME * torch.linalg.norm(value):
            (out / CONFIG_FILE).unlink()
            shutil.rmtree(whole)
            raise CheckpointError(f"{stage}: {name} is not that of {base} with what the stage has learned, expected a "
                                  "start that `unpack` has made of it, and no earlier stage that trains it")


def deploy(recipe_file: Path, run: Path, out: Path, formats: Sequence[str] = (), vision: bool = False) -> None:
    """Writes the folder.

    Args:
        recipe_file: The recipe.
        run: The run's folder.
        out: The folder to write.
        formats: Number formats in which the language model is stored besides; int4 after scaling by what its layers are
            given in conversations of the recipe's validation data.
        vision: Export the vision stage.

    Raises:
        CheckpointError: the run's last stage is not finished.
        RecipeError, DataError, EngineError, AssetsError, RendererError, OSError: something else prevents it.
    """
    recipe = read_recipe(recipe_file)
    loaded = load_any(run / recipe.stages[-1].name / FINAL_FOLDER)
    # What an earlier model has left would be loaded in place of this one's.
    for number_format in QUANTISED:
        quantised_file(out, number_format).unlink(missing_ok=True)
    shutil.rmtree(out / GRAPH_FOLDER, ignore_errors=True)
    save_checkpoint(loaded.model, loaded.tokenizer, out, dtype=torch.float16)
    for number_format in formats:
        stored = load_any(out)
        language = stored.model.language
        if number_format == "int4":
            scale_for_int4(language, read_inputs(recipe, run, stored))
        quantise_language(language, number_format)
        save_quantised(language, number_format, out)
    if vision:
        export_vision(out)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in loaded.model.named_children()}
    _tell(recipe_file, recipe, run, out, loaded.config, parts)


def deploy_adapter(recipe_file: Path, run: Path, out: Path) -> None:
    """Writes the folder of an adapter.

    Args:
        recipe_file: The recipe; its only stage trains by `lora` alone.
        run: The run's folder.
        out: The folder to write.

    Raises:
        CheckpointError: the run's stage is not finished.
        RecipeError, DataError, RendererError, OSError: something else prevents it.
    """
    recipe = read_recipe(recipe_file)
    stage = recipe.stages[0]
    if not stage.lora or stage.trainable or len(recipe.stages) > 1 or isinstance(recipe.model, ModelConfig):
        raise RecipeError(f"{recipe_file}: an adapter holds what lora alone has learned on top of a checkpoint, "
                          "expected one stage with lora and nothing that is trainable")
    files = [run / stage.name / ADAPTER_FOLDER / name for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)]
    if missing := [path for path in files if not path.is_file()]:
        raise CheckpointError(f"{missing[0]}: missing, expected what a finished stage wrote")
    config = read_any_config(recipe.model)
    out.mkdir(parents=True, exist_ok=True)
    for path in reversed(files):  # the configuration makes a folder an adapter
        shutil.copyfile(path, out / path.name)
    with safe_open(files[1], framework="pt") as weights:
        count = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    _tell(recipe_file, recipe, run, out, config, {"adapter": count})


def _tell(recipe_file: Path, recipe: Recipe, run: Path, out: Path, config: ModelConfig | Qwen3VLConfig,
          parts: dict[str, int]) -> None:
    """Writes probes, curves, card and recipe."""
    curves = read_curves(recipe, run)
    _write_probes(recipe, run, out, config)
    (out / CURVE_FILE).write_text(json.dumps(curves, separators=(",", ":")) + "\n", encoding="utf-8")
    (out / CARD_FILE).write_text(model_card(recipe, parts, curves), encoding="utf-8")
    shutil.copyfile(recipe_file, out / RECIPE_FILE)


@tells_errors(RecipeError, DataError, CheckpointError, EngineError, AssetsError, RendererError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m training.deploy", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--quantise", nargs="+", default=[], choices=QUANTISED, metavar="FORMAT",
                        help=f"also store the language model as {', '.join(QUANTISED)}")
    parser.add_argument("--export-vision", action="store_true", help="also store the vision stage as an ONNX graph")
    parser.add_argument("--adapter", action="store_true", help="write the adapter alone")
    parser.add_argument("--without-base", choices=sorted(PARTS), metavar="PART",
                        help=f"write all but the language model, which is made of {', '.join(sorted(PARTS))}")
    options = parser.parse_args(arguments)
    if (options.adapter or options.without_base) and (options.quantise or options.export_vision):
        parser.error("--adapter and --without-base write no whole model, expected neither --quantise nor "
                     "--export-vision")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.adapter:
        deploy_adapter(options.recipe, options.run, options.out)
    elif options.without_base:
        deploy_without_base(options.recipe, options.run, options.out, options.without_base)
    else:
        deploy(options.recipe, options.run, options.out, options.quantise, options.export_vision)
    print(f"{options.out}: ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
