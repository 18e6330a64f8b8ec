"""Checkpoints of the published layout become ours: values, deltas, special tokens, interruption, what does not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from model_fixtures import sentencepiece_like, tiny_config
from published import (
    clip_shapes,
    draw,
    llama_shapes,
    region_shapes,
    run_published,
    write_folder,
)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, CLIPConfig, CLIPModel

from ros_gpt4roi.model import convert, shard_writer
from ros_gpt4roi.model.__main__ import main
from ros_gpt4roi.model.checkpoint import CheckpointError, load_checkpoint
from ros_gpt4roi.model.config import PreprocessConfig, preset
from ros_gpt4roi.model.convert import plan_assembly, plan_published
from ros_gpt4roi.model.prompt import SPECIAL_TOKENS
from ros_gpt4roi.model.weights_io import WeightFileError, WeightSource
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.types import Frame, Region, Status
from ros_gpt4roi.runtime.vision_stage import VisionOptions


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin"])
def test_every_weight_arrives(folders, kind, words):
    folder, config, published, encoder = folders
    for file in (folder / "published").glob("pytorch_model*"):
        file.unlink()
    write_folder(folder / "published", published, kind, count=3)
    model = run_published(folder, config).model
    assert torch.equal(model.regions.pyramid.rounds[1].norm.weight,
                       published["model.spi_module.mlvl_fuse.fuse_convs.1.gn.weight"].float())
    assert torch.equal(model.regions.position.layers[3].weight,
                       published["model.spi_module.roi_align.pos_embedd.3.weight"].float())
    state = model.state_dict()
    ours = {convert.published_key(k).replace("vision.model.", "vision_model."): v for k, v in state.items()}
    for key, value in {**published, **encoder}.items():
        if "inv_freq" not in key:
            assert torch.equal(ours.pop(key), value.to(torch.float16).float()), key
    assert not ours
    assert model.config.language.model["vocab_size"] == len(words)


def test_converted_model_describes_and_answers(folders):
    folder, config, *_ = folders
    plan_published(folder / "published", folder / "clip", config=config).run(folder / "ours", progress=False)
    pipeline = Pipeline.open(folder / "ours", PipelineConfig(
        vision=VisionOptions(backend="torch"), description_tokens=5, answer_tokens=5))
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    frame = Frame(image, (Region("1", (2, 2, 20, 20)), Region("2", (30, 10, 60, 40))), 0, "camera")
    described = pipeline.describe(frame)
    assert described.status is Status.OK, described.error
    assert [d.region.id for d in described.descriptions] == ["1", "2"]
    assert pipeline.ask(Conversation("", frame), Question("What is region 2?", "")).status is Status.OK


def test_special_tokens_come_in_the_published_order(folders):
    folder, config, published, _ = folders
    bare = sentencepiece_like(added=())
    bare.save_pretrained(folder / "published")
    tokenizer = run_published(folder, config).tokenizer
    first = len(bare)
    assert tokenizer.convert_tokens_to_ids(
        ["<im_patch>", "<bbox>", "<point>", "<im_start>", "<im_end>"]) == list(range(first, first + 5))
    # The published training adds a padding token first: one row more, and all of them one further.
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        published[key] = torch.cat([published[key], torch.zeros(1, 32, dtype=torch.float16)])
    write_folder(folder / "published", published, "bin")
    tokenizer = run_published(folder, config).tokenizer
    assert tokenizer.pad_token == "[PAD]" and tokenizer.pad_token_id == first
    assert tokenizer.convert_tokens_to_ids("<im_patch>") == first + 1
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        published[key] = published[key][:-7]
    write_folder(folder / "published", published, "bin")
    with pytest.raises(CheckpointError, match=rf"embed_tokens.weight: {first - 1} rows, expected {first + 5}"):
        run_published(folder, config)


def test_all_mismatches_are_listed_at_once(folders, words):
    folder, config, published, encoder = folders
    published["model.norm.weight"] = torch.zeros(31, dtype=torch.float16)
    published["model.spi_module.extra"] = torch.zeros(2, 3)
    del published["model.mm_projector.bias"]
    write_folder(folder / "published", published, "bin")
    del encoder["vision_model.pre_layrnorm.bias"]
    encoder["vision_model.post_layernorm.weight"] = torch.zeros(17)
    write_folder(folder / "clip", encoder, count=1)
    base = draw(llama_shapes(len(words) - 5, 32, 48, 2, 16), 9)
    base["model.layers.1.mlp.up_proj.weight"] = torch.zeros(48, 33)
    base["model.layers.2.mlp.up_proj.weight"] = torch.zeros(48, 32)
    del base["model.layers.0.mlp.up_proj.weight"]
    write_folder(folder / "base", base)
    with pytest.raises(CheckpointError) as caught:
        plan_published(folder / "published", folder / "clip", base=folder / "base", config=config)
    text = str(caught.value)
    assert "8 weights do not fit" in text
    for line in ("model.norm.weight: [31], expected [32]", "model.spi_module.extra: [2, 3], not part of this model",
                 "model.mm_projector.bias: missing, expected [32]", "pre_layrnorm.bias", "expected [16]",
                 "vision_model.post_layernorm.weight: [17], expected [16]",
                 "model.layers.1.mlp.up_proj.weight: [48, 32] in the delta, [48, 33] in the base model",
                 "model.layers.2.mlp.up_proj.weight: [48, 32] in the base model, not part of this model",
                 "model.layers.0.mlp.up_proj.weight: [48, 32] in the delta, missing in the base model"):
        assert line in text


def test_resumes_behind_the_last_finished_shard(folders, monkeypatch):
    folder, config, *_ = folders
    plan = plan_published(folder / "published", folder / "clip", config=config)
    written = []
    write = shard_writer.write_shard

    def interrupted(file, header, tensors):
        if len(written) == 2:
            next(tensors)
            raise KeyboardInterrupt
        written.append(file.name)
        return write(file, header, tensors)

    monkeypatch.setattr(shard_writer, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.run(folder / "ours", shard_bytes=20_000, progress=False)
    with pytest.raises(CheckpointError, match="config.json"):
        load_checkpoint(folder / "ours")
    before = {name: (folder / "ours" / name).stat().st_mtime_ns for name in written}
    # One of the two finished shards is damaged meanwhile: it is written again, the other is not.
    damaged = folder / "ours" / written[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x55")
    monkeypatch.setattr(shard_writer, "write_shard", write)
    plan_published(folder / "published", folder / "clip", config=config).run(
        folder / "ours", shard_bytes=20_000, progress=False)
    assert (folder / "ours" / written[0]).stat().st_mtime_ns == before[written[0]]
    sums = dict(reversed(line.split()) for line in (folder / "ours" / "SHA256SUMS").read_text().splitlines())
    assert len(sums) > 3
    for name, digest in sums.items():
        assert hashlib.sha256((folder / "ours" / name).read_bytes()).hexdigest() == digest
    whole = {}
    for name in sums:
        whole |= load_file(folder / "ours" / name)
    plan.run(folder / "again", progress=False)
    once = load_checkpoint(folder / "again", dtype=None).model.state_dict()
    assert all(torch.equal(once[key], value) for key, value in whole.items())


@pytest.mark.parametrize("name", ["published", "clip", "another", "a file"])
def test_a_folder_of_others_is_not_written_to(folders, name):
    folder, config, *_ = folders
    write_folder(folder / "another", {"a": torch.zeros(1)}, config={"model_type": "llama"})
    (folder / "a file").touch()
    (folder / "link").symlink_to(folder / name)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    plan = plan_published(folder / "published", folder / "clip", config=config)
    with pytest.raises(CheckpointError, match="link.*(would be lost|Not a directory)"):
        plan.run(folder / "link", progress=False)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


def test_another_plan_does_not_resume(folders, monkeypatch):
    folder, config, *_ = folders
    (folder / "ours").mkdir()
    (folder / "ours" / "conversion.json").write_text(
        '{"plan": "other", "shards": {"model-00001-of-00001.safetensors": "0"}}')
    (folder / "ours" / "model-00001-of-00009.safetensors").write_bytes(b"stale")
    run_published(folder, config)
    assert [f.name for f in sorted((folder / "ours").glob("model*"))] == ["model-00001-of-00001.safetensors"]


def test_damaged_source_is_refused_by_its_checksums(folders):
    folder, config, *_ = folders
    file = next((folder / "clip").glob("*.safetensors"))
    (folder / "clip" / "SHA256SUMS").write_text(f"{'0' * 64}  {file.name}\n")
    with pytest.raises(CheckpointError, match=f"{file.name}: SHA-256 .*expected 000"):
        run_published(folder, config)


def test_truncated_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    for cut in (data[:-1], data[:20], data[:3], b""):
        (tmp_path / "model.safetensors").write_bytes(cut)
        with pytest.raises(WeightFileError, match="truncated"):
            WeightSource(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightFileError, match="no weights"):
        WeightSource(tmp_path)
    torch.save({"a": torch.zeros(100)}, tmp_path / "pytorch_model.bin")
    data = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(data[:-200])
    with pytest.raises(WeightFileError, match="truncated"):
        WeightSource(tmp_path)


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("header", [
    b"[" * 100_000, b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}',
])
def test_headers_that_no_program_writes_are_refused(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(WeightFileError, match="model.safetensors: truncated or not a safetensors file"):
        WeightSource(tmp_path)


def test_bin_files_run_no_code(tmp_path):
    torch.save({"a": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightFileError, match="other than tensors"):
        WeightSource(tmp_path)


def test_numbers_too_large_for_the_format_are_refused(folders):
    folder, config, published, _ = folders
    published["model.norm.weight"] = torch.full((32,), 1e6)
    write_folder(folder / "published", published, "bin")
    with pytest.raises(CheckpointError, match="model.norm.weight: infinite.*wider --dtype"):
        run_published(folder, config, dtype="float16")


def test_command_line(folders, capsys):
    folder, config, *_ = folders
    facts = {k: v for k, v in config.to_dict().items() if k in ("regions", "vision", "language", "preprocess")}
    (folder / "small.json").write_text(json.dumps(facts))
    arguments = ["convert", str(folder / "published"), str(folder / "ours"), "--vision", str(folder / "clip"),
                 "--config", str(folder / "small.json"), "--dtype", "float32", "--shard-mib", "1"]
    assert main(arguments) == 0
    assert "converting: 100%" in capsys.readouterr().err
    assert load_checkpoint(folder / "ours").config.prompt == preset("gpt4roi-7b").prompt
    assert main([*arguments[:2], "/proc/nowhere", *arguments[3:]]) == 1
    assert "/proc/nowhere: cannot be written (No such file" in capsys.readouterr().err
    arguments[4] = str(folder / "nowhere")
    assert main(arguments) == 1
    assert "nowhere: no weights" in capsys.readouterr().err


def sparse_shard(file: Path, shapes, dtype: torch.dtype) -> None:
    """A safetensors file of its true size whose tensors are a hole: no disk, no memory."""
    header = shard_writer.header_bytes([(key, shape, dtype) for key, shape in shapes.items()], {})
    size = sum(shard_writer.byte_count(shape, dtype) for shape in shapes.values())
    with open(file, "wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + size)


def test_full_size_shape_by_shape(tmp_path, words):
    """The published 7B as a delta, its base and its CLIP, without their bytes: every key and shape finds its place."""
    rows = len(words)
    published = llama_shapes(rows, 4096, 11008, 32)
    published |= {"model.mm_projector.weight": (4096, 1024), "model.mm_projector.bias": (4096,)}
    regions = region_shapes(1024, 1024, 1024, 256, 4096, 14, 5)
    assert 298e6 < sum(torch.Size(s).numel() for s in regions.values()) < 300e6
    published |= regions
    clip = clip_shapes(1024, 4096, 24, 14, 224)
    keys = list(published)
    for name in ("delta", "base", "clip"):
        (tmp_path / name).mkdir()
    for i in range(2):
        sparse_shard(tmp_path / "delta" / f"model-0000{i + 1}-of-00002.safetensors",
                     {key: published[key] for key in keys[i::2]}, torch.float16)
    sparse_shard(tmp_path / "base" / "model.safetensors", llama_shapes(rows - 5, 4096, 11008, 32), torch.float16)
    norm = WeightSource(tmp_path / "base").entries["model.norm.weight"]
    with norm.file.open("r+b") as stream:
        stream.seek(norm.offset)
        stream.write(torch.ones(4096, dtype=torch.float16).numpy().tobytes())
    sparse_shard(tmp_path / "clip" / "model.safetensors", clip, torch.float32)
    words.save_pretrained(tmp_path / "delta")
    plan = plan_published(tmp_path / "delta", tmp_path / "clip", base=tmp_path / "base")
    assert sorted(convert.published_key(p.key).replace("vision.model.", "vision_model.") for p in plan.parts) \
        == sorted([*published, *clip])
    written = {convert.published_key(p.key).replace("vision.model.", "vision_model."): p.shape for p in plan.parts}
    assert written == published | clip
    assert plan.config.regions == preset("gpt4roi-7b").regions
    assert plan.config.language.model["vocab_size"] == rows


@pytest.mark.slow
def test_memory_stays_under_two_shards(tmp_path):
    """Anonymous memory, watched from within a process that adds a delta of 4 shards of 32 MiB to a base."""
    code = textwrap.dedent("""
        import sys, threading, pathlib, torch
        from safetensors.torch import save_file
        from ros_gpt4roi.model.shard_writer import write_parts
        from ros_gpt4roi.model.weights_io import WeightSource
        from ros_gpt4roi.model import convert_parts
        torch.set_num_threads(1)
        root = pathlib.Path(sys.argv[1])
        shard = 32 << 20
        for name in ("delta", "base"):
            (root / name).mkdir()
            for i in range(4):
                weight = torch.ones(4096, shard // 8192, dtype=torch.float16)
                save_file({f"w{i}": weight}, root / name / f"m{i}.safetensors")
        delta, base = WeightSource(root / "delta"), WeightSource(root / "base")
        problems, parts = [], []
        for key, entry in delta.entries.items():
            wanted = torch.empty(entry.shape, device="meta")
            parts += convert_parts.tensor_part(key, wanted, delta, key, torch.float16, problems, base)
        assert not problems
        del weight
        def anonymous():
            with open("/proc/self/status") as f:
                return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) << 10
        list(convert_parts._sum(torch.ones(2, 2), torch.ones(2, 2), torch.float16))
        start, peak, done = anonymous(), 0, threading.Event()
        def watch():
            global peak
            while not done.wait(0.001):
                peak = max(peak, anonymous())
        thread = threading.Thread(target=watch); thread.start()
        write_parts(parts, [delta, base], root / "out", {}, shard, False)
        done.set(); thread.join()
        out = WeightSource(root / "out")
        assert len(out.files) == 4 and float(out.read("w3").min()) == 2
        print((peak - start) / shard)
    """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2


def test_freed_positions_keep_the_configs_image_size(folders):
    folder, config, *_ = folders
    freed = dataclasses.replace(config, vision=dataclasses.replace(config.vision, interpolate_positions=True),
                                preprocess=PreprocessConfig(image_size=48))
    assert run_published(folder, freed).prompts.image_tokens == 36


def test_assembly_of_pretrained_parts(tmp_path):
    bare = sentencepiece_like(added=())
    language = AutoModelForCausalLM.from_config(AutoConfig.for_model(
        "qwen3", hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, vocab_size=len(bare) + 3, tie_word_embeddings=True))
    language.save_pretrained(tmp_path / "qwen")
    bare.save_pretrained(tmp_path / "qwen")
    clip = CLIPModel(CLIPConfig(
        text_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                         vocab_size=99),
        vision_config=tiny_config(0).vision.encoder, projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 32}}))
    config = tiny_config(0, preprocess=PreprocessConfig(image_size=48, interpolation="cubic"))
    config = dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, number_regions=True))
    plan_assembly(tmp_path / "qwen", tmp_path / "clip", config, seed=3).run(tmp_path / "ours", progress=False)
    loaded = load_checkpoint(tmp_path / "ours")
    assert loaded.config.preprocess == PreprocessConfig(32, "cubic", (0.5,) * 3, (0.25,) * 3), "the encoder's own"
    model, tokenizer = loaded.model, loaded.tokenizer
    assert model.config.language.model["model_type"] == "qwen3"
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert tokenizer.pad_token_id == len(bare) and ids == list(range(len(bare) + 1, len(bare) + 6))
    trained = language.get_input_embeddings().weight
    known = len(bare)
    embeddings = model.language.get_input_embeddings().weight
    assert torch.equal(embeddings[:known], trained[:known])
    assert torch.allclose(embeddings[known:known + 6], trained[:known].mean(0).expand(6, -1), atol=1e-6)
    numbers = model.numbers.weight
    assert numbers.shape == (config.prompt.max_regions, 32) and 0.04 < numbers.std() < 0.06
    pixels = torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8)
    clip.eval()
    with torch.no_grad():
        states = clip.vision_model(model.vision.normalise(pixels), output_hidden_states=True).hidden_states
        tokens, _ = model.vision(pixels)
    assert torch.allclose(tokens, states[-2][:, 1:], atol=1e-5)
