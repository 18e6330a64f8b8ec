"""Streams tensors into numbered safetensors shards, so that models larger than the memory can be converted.

Finished shards are recorded with their checksums; an interrupted run takes up behind the last of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from ..regular_file import file_digest, read_json, write_whole
from .weights_io import DTYPE_NAMES, SUMS_FILE, WeightSource

PROGRESS_FILE = "conversion.json"


class Part(NamedTuple):
    """Where one tensor of our checkpoint comes from.

    Attributes:
        blocks: Makes it, a run of its first rows after the other, so that none need be held whole.
        source: File it lies in, to visit files one after the other.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: str
    blocks: Callable[[], Iterator[torch.Tensor]]


def write_parts(parts: Sequence[Part], sources: Sequence[WeightSource], output: Path, metadata: dict[str, str],
                shard_bytes: int, progress: bool, salt: str = "") -> None:
    """Writes `model-00001-of-….safetensors`, those that an interrupted run has not, and SHA256SUMS.

    Args:
        parts: All tensors of the checkpoint.
        sources: What the parts read; checked against their own SHA256SUMS.
        output: The folder, made where it is missing.
        metadata: Goes into every file's header.
        shard_bytes: Most bytes of weights in one file (a larger tensor has one for itself).
        progress: Whether to show a bar on stderr.
        salt: What else decides the parts' values.

    Raises:
        WeightFileError: A source can not be read, or is not what its SHA256SUMS say.
    """
    for source in sources:
        source.check_sums()
    output.mkdir(parents=True, exist_ok=True)
    # One source file after the other; names break ties, so that a second run cuts the same shards.
    parts = sorted(parts, key=lambda part: (part.source, part.key))
    shards = list(_cut(parts, shard_bytes))
    plan = _fingerprint(parts, sources, shard_bytes, salt)
    finished = _finished(output, plan)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for stale in {*output.glob("model*.safetensors")} - {output / name for name in finished}:
        stale.unlink()
    total = sum(byte_count(part.shape, part.dtype) for part in parts)
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting", disable=not progress) as bar:
        for name, shard in zip(names, shards):
            size = sum(byte_count(part.shape, part.dtype) for part in shard)
            if name in finished:
                bar.update(size)
                continue
            header = header_bytes([(part.key, part.shape, part.dtype) for part in shard], metadata)
            finished[name] = write_shard(output / name, header, _blocks(shard, bar))
            write_whole(output / PROGRESS_FILE, json.dumps({"plan": plan, "shards": finished}).encode())
    (output / SUMS_FILE).write_text("".join(f"{finished[name]}  {name}\n" for name in names), encoding="utf-8")
    (output / PROGRESS_FILE).unlink()


def _cut(parts: Sequence[Part], shard_bytes: int) -> Iterator[list[Part]]:
    shard: list[Part] = []
    size = 0
    for part in parts:
        more = byte_count(part.shape, part.dtype)
        if shard and size + more > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(part)
        size += more
    if shard:
        yield shard


def _blocks(shard: list[Part], bar: tqdm) -> Iterator[torch.Tensor]:
    for part in shard:
        for block in part.blocks():
            yield block
            bar.update(block.nbytes)


def _fingerprint(parts: Sequence[Part], sources: Sequence[WeightSource], shard_bytes: int, salt: str) -> str:
    """Tells whether an interrupted conversion was this one: same files, same weights, same shards."""
    files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for s in sources for f in s.files]
    identity = [files, [(p.key, p.shape, str(p.dtype)) for p in parts], shard_bytes, salt]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _finished(output: Path, plan: str) -> dict[str, str]:
    """Shards that an interrupted run of the same plan has written and that are whole: name → SHA-256."""
    try:
        record = read_json(output / PROGRESS_FILE)
        shards = dict(record["shards"]) if record["plan"] == plan else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: digest for name, digest in shards.items()
            if (output / name).is_file() and file_digest(output / name) == digest}


def byte_count(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor."""
    return torch.Size(shape).numel() * dtype.itemsize


def header_bytes(entries: Iterable[tuple[str, tuple[int, ...], torch.dtype]], metadata: dict[str, str]) -> bytes:
    """A safetensors file's beginning for tensors in this order: (key, shape, number format) each."""
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for key, shape, dtype in entries:
        end = at + byte_count(shape, dtype)
        header[key] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_shard(file: Path, header: bytes, blocks: Iterator[torch.Tensor]) -> str:
    """Writes a safetensors file block by block; it appears under its name when it is whole. Returns its SHA-256."""
    digest = hashlib.sha256(header)
    partial = file.with_name(file.name + ".partial")
    try:
        with open(partial, "wb") as stream:
            stream.write(header)
            for block in blocks:
                data = block.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
                digest.update(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk would stay full
        raise
    return digest.hexdigest()
