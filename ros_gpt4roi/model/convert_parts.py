"""Tensors of other checkpoints → the parts of ours (see `convert.py`).

A tensor that is missing or of another shape is added to a list of problems, so that all are told at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .checkpoint import CheckpointError
from .focal import build_focal_crop
from .gpt4roi import GPT4RoI
from .regions import build_region_extractor
from .shard_writer import Part
from .weights_io import WeightSource

# Numbers converted at a time.
_BLOCK = 1 << 20
# Matrices with a row for each token, as transformers names them.
_VOCABULARY = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "lm_head.weight")


def tensor_part(key: str, value: torch.Tensor, source: WeightSource, theirs: str, dtype: torch.dtype,
                problems: list[str], base: WeightSource | None = None, known: int | None = None) -> list[Part]:
    """The part for one tensor.

    Args:
        key: Its name in our checkpoint.
        value: A tensor of its shape there.
        source: Where it is read from.
        theirs: Its name in there.
        dtype: Number format to write, of floating-point tensors.
        problems: Gets what does not fit.
        base: A checkpoint whose tensor of the same name is added to it.
        known: Tokens whose embeddings count; the rest of a longer matrix gets their mean.

    Returns:
        The part; nothing where it does not fit.
    """
    entry, expected = source.entries[theirs], tuple(value.shape)
    vocabulary = theirs in _VOCABULARY
    if entry.shape != expected and not (known is not None and vocabulary and _longer(expected, entry.shape)):
        problems.append(f"{theirs}: {list(entry.shape)}, expected {list(expected)}")
        return []
    other = None if base is None else base.entries.get(theirs)
    if base is not None and other is None and not theirs.startswith(("model.spi_module.", "model.mm_projector.")):
        problems.append(f"{theirs}: {list(entry.shape)} in the delta, missing in the base model")
        return []
    if other is not None and other.shape != entry.shape and not (vocabulary and _longer(entry.shape, other.shape)):
        problems.append(f"{theirs}: {list(entry.shape)} in the delta, {list(other.shape)} in the base model")
        return []
    dtype = dtype if value.is_floating_point() else value.dtype
    rows = min(known, entry.shape[0]) if vocabulary and known is not None else None

    def blocks() -> Iterator[torch.Tensor]:
        tensor = source.read(theirs)
        if base is not None and other is not None:
            made = _sum(tensor, base.read(theirs), dtype)
        elif rows is not None and rows < expected[0]:
            made = _extended(tensor[:rows], expected[0], dtype)
        else:
            made = (block.to(dtype) for block in _rows(tensor))
        for block in made:
            yield _checked(block, theirs)

    return [Part(key, expected, dtype, str(entry.file), blocks)]


def change_keys(key: str) -> tuple[str, str]:
    """The names under which the two factors of a weight's change are stored: `down` [rank, in] and `up` [out, rank]."""
    return f"change.{key}.down", f"change.{key}.up"


def changed_part(part: Part, source: WeightSource, problems: list[str]) -> Part:
    """A part with what a source says that training has added to it; the part itself where that is nothing.

    Args:
        part: A whole matrix.
        source: May hold the two factors of its change, as `change_keys` names them.
        problems: Gets what does not fit.
    """
    down, up = change_keys(part.key)
    shapes = [source.entries[key].shape for key in (down, up) if key in source.entries]
    if not shapes:
        return part
    if len(shapes) < 2 or [*shapes[1][:1], *shapes[0][1:]] != [*part.shape] or shapes[1][1:] != shapes[0][:1]:
        problems.append(f"{down} and up: {[*map(list, shapes)]}, expected factors of {list(part.shape)}")
        return part

    def blocks() -> Iterator[torch.Tensor]:
        before = torch.cat([*part.blocks()]).float()
        yield _checked((before + source.read(up).float() @ source.read(down).float()).to(part.dtype), part.key)

    return part._replace(blocks=blocks)


def _longer(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a matrix has other's columns and more rows."""
    return len(shape) == len(other) == 2 and shape[1] == other[1] and shape[0] > other[0]


def _rows(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensor in runs of whole rows, small enough that what is made of them needs little memory."""
    if tensor.ndim == 0:
        yield tensor
        return
    yield from torch.split(tensor, max(1, _BLOCK * len(tensor) // max(1, tensor.numel())))


def _sum(delta: torch.Tensor, base: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """delta, and base added to its first rows."""
    start = 0
    for block in _rows(delta):
        # In single precision, where the sum of two half-precision numbers is exact before it is rounded once.
        block, added = block.float(), base[start:start + len(block)]
        start += len(block)
        block = torch.cat([block[:len(added)] + added, block[len(added):]])
        yield block.to(dtype)


def _extended(tensor: torch.Tensor, rows: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """The matrix, filled up to `rows` with its mean row."""
    total = torch.zeros(tensor.shape[1], dtype=torch.float64)
    for block in _rows(tensor):
        total += block.sum(0, dtype=torch.float64)
        yield block.to(dtype)
    yield from _rows((total / len(tensor)).to(dtype).expand(rows - len(tensor), -1))


def _checked(value: torch.Tensor, name: str) -> torch.Tensor:
    """Raises CheckpointError where there are infinities, such as a narrower number format makes of large numbers."""
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise CheckpointError(f"{name}: infinite or not a number in {value.dtype}, expected finite weights "
                              "(a wider --dtype, if it is their format)")
    return value


def vision_parts(expected: dict[str, torch.Tensor], source: WeightSource, dtype: torch.dtype,
                 problems: list[str]) -> list[Part]:
    """The encoder's weights. In the files of a larger model, a prefix leads their keys; the rest of it is left out."""
    ours = [key for key in expected if key.startswith("vision.model.")]
    names = [key.removeprefix("vision.model.") for key in ours]
    prefixes = {""} | {key.removesuffix(names[0]) for key in source.entries if key.endswith(names[0])}
    prefix = max(sorted(prefixes), key=lambda p: sum(p + name in source.entries for name in names))
    parts = []
    for key, name in zip(ours, names):
        if prefix + name in source.entries:
            parts += tensor_part(key, expected[key], source, prefix + name, dtype, problems)
        else:
            problems.append(f"{prefix}{name} of {source.folder}: missing, expected {list(expected[key].shape)}")
    return parts


def projector_parts(expected: dict[str, torch.Tensor], source: WeightSource, dtype: torch.dtype,
                    problems: list[str]) -> list[Part]:
    """The projector's weights, from a file of LLaVA's, in which a prefix may lead their keys."""
    found = {key.rpartition("mm_projector.")[2]: key for key in source.entries if "mm_projector." in key}
    parts = []
    for key in ("projector.weight", "projector.bias"):
        name = key.removeprefix("projector.")
        if name in found:
            parts += tensor_part(key, expected[key], source, found[name], dtype, problems)
    if set(found) != {"weight", "bias"}:
        problems.append(f"mm_projector of {source.folder} has {sorted(found)}, expected weight and bias of one linear "
                        "layer (LLaVA 1.5 and later have several)")
    return parts


def random_parts(model: GPT4RoI, seed: int, dtype: torch.dtype) -> list[Part]:
    """Freshly initialised: projector, region extractor and what the config adds to it."""
    config, width = model.config, model.projector.out_features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = torch.nn.Linear(model.projector.in_features, width)
        regions = build_region_extractor(config.regions, model.vision.level_channels, width)
        fresh: dict[str, torch.nn.Module] = {"projector": projector, "regions": regions}
        focal = build_focal_crop(config, regions)
        if focal is not None:
            fresh["focal"] = focal
        if model.numbers is not None:
            fresh["numbers"] = numbers = torch.nn.Embedding(*model.numbers.weight.shape)
            # Small beside the embeddings of what a region looks like.
            torch.nn.init.normal_(numbers.weight, std=0.05)

    def part(key: str, value: torch.Tensor) -> Part:
        return Part(key, tuple(value.shape), dtype, "", lambda: iter([value.to(dtype)]))

    return [part(f"{name}.{key}", value)
            for name, module in fresh.items() for key, value in module.state_dict().items()]
