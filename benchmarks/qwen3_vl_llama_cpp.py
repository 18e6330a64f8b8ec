"""Qwen3-VL by llama.cpp and its library for pictures (mtmd): a shared prefix, a picture in it, and a batch of rows.

An optional extra, as `llama_cpp_peer`: `pip install llama-cpp-python==0.3.36 gguf==0.19.0`.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from llama_cpp import mtmd_cpp as mtmd
from safetensors import safe_open
from transformers import AutoTokenizer

from .llama_cpp_peer import LlamaCpp, silent

mtmd.mtmd_log_set(silent, ctypes.c_void_p(0))
mtmd.mtmd_helper_log_set(silent, ctypes.c_void_p(0))
_MERGER = {"norm": "v.post_ln", "linear_fc1": "mm.0", "linear_fc2": "mm.2"}
_DEEPSTACK = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}
_WHOLE = "v.patch_embd", "v.position_embd"  # weights that stay in 32 bits, beside those of one dimension
_MROPE_SECTIONS = (24, 20, 20, 0)  # transformers' own, where a config.json has none


def write_gguf_pair(folder: Path, language: Path, encoder: Path) -> None:
    """A Qwen3-VL folder of transformers as llama.cpp's two files, with weights of 16 bits.

    Args:
        folder: The model's.
        language: File of the language model.
        encoder: File of the encoder, its merger and DeepStack's ("mmproj").
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writers = gguf.GGUFWriter(language, "qwen3vl"), gguf.GGUFWriter(encoder, "clip")
    _write_language_facts(writers[0], config, folder)
    _write_encoder_facts(writers[1], config)
    for name, weight in _weights(folder):
        writer = writers[name.startswith("model.visual.")]
        for stored, part in _stored(name, weight, config):
            whole = part.ndim < 2 or stored.startswith(_WHOLE)
            writer.add_tensor(stored, part.float().numpy() if whole else part.half().numpy())
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _write_language_facts(writer: gguf.GGUFWriter, config: dict[str, Any], folder: Path) -> None:
    text = config["text_config"]
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_parameters"]["rope_theta"])
    sections = text["rope_parameters"].get("mrope_section", _MROPE_SECTIONS)
    writer.add_rope_dimension_sections([*sections, 0][:4])
    writer.add_num_deepstack_layers(len(config["vision_config"]["deepstack_visual_indexes"]))
    # Tokens go in and out as ids; mtmd alone looks for the marks of a picture.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    special = set(tokenizer.added_tokens_decoder)
    numbers = range(text["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in numbers])
    writer.add_token_types([gguf.TokenType.UNUSED if number not in tokens else gguf.TokenType.CONTROL
                            if number in special else gguf.TokenType.NORMAL for number in numbers])
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])


def _write_encoder_facts(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    vision = config["vision_config"]
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN3VL)
    writer.add_vision_projection_dim(vision["out_hidden_size"])
    writer.add_vision_image_size(int(vision["num_position_embeddings"] ** 0.5) * vision["patch_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_head_count(vision["num_heads"])
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)
    writer.add_vision_use_gelu(True)
    writer.add_vision_spatial_merge_size(vision["spatial_merge_size"])
    writer.add_vision_attention_layernorm_eps(config["text_config"]["rms_norm_eps"])
    writer.add_vision_is_deepstack_layers([number in vision["deepstack_visual_indexes"]
                                           for number in range(vision["depth"])])


def _weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def _stored(name: str, weight: torch.Tensor, config: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """The names, and for the patches two tensors, that llama.cpp has for one of transformers'."""
    vision = config["vision_config"]
    kind, part = name.split(".")[-1], name.split(".")[-2]
    if name == "model.visual.patch_embed.proj.weight":  # a still picture's two frames are the same
        return [("v.patch_embd.weight", weight[:, :, 0]), ("v.patch_embd.weight.1", weight[:, :, 1])]
    if name.startswith("model.visual.merger."):
        return [(f"{_MERGER[part]}.{kind}", weight)]
    if name.startswith("model.visual.deepstack_merger_list."):
        layer = vision["deepstack_visual_indexes"][int(name.split(".")[3])]
        return [(f"v.deepstack.{layer}.{_DEEPSTACK[part]}.{kind}", weight)]
    seen = name.startswith("model.visual.")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ if seen else gguf.MODEL_ARCH.QWEN3VL,
                                     vision["depth"] if seen else config["text_config"]["num_hidden_layers"])
    plain = name.removeprefix("model.") if seen else name.replace("model.language_model.", "model.")
    stored = names.get_name(plain, try_suffixes=(".weight", ".bias"))
    if stored is None:
        raise ValueError(f"{name}: llama.cpp has no name for it")
    return [(stored, weight)]


class Qwen3VL(LlamaCpp):
    """A pair of GGUF files on the CPU.

    Args:
        language: File of the language model.
        encoder: File of the encoder.
        threads: Of both.
        rows: Most texts at once.
        context: Most tokens of all of them together.
        never: Tokens that are not chosen.
        clock: What the encoder is timed by, in seconds.

    Attributes:
        encoder_s: How long the encoder has taken for the last picture.
    """

    def __init__(self, language: Path, encoder: Path, threads: int, rows: int, context: int, never: Sequence[int],
                 clock: Callable[[], float]):
        super().__init__(language, threads, rows, context, never)
        settings = mtmd.mtmd_context_params_default()
        settings.use_gpu = settings.print_timings = settings.warmup = False
        settings.n_threads, self.encoder_s, self._clock = threads, 0.0, clock
        self._vision = mtmd.mtmd_init_from_file(str(encoder).encode(), self._model, settings)
        if not self._vision:
            raise RuntimeError(f"llama.cpp could not load {encoder}")

    def close(self) -> None:
        """See `LlamaCpp.close`."""
        mtmd.mtmd_free(self._vision)
        super().close()

    def texts_about(self, image: np.ndarray, prompts: Sequence[Sequence[int]], mark: int, tokens: int,
                    on_first: Callable[[], None] = lambda: None) -> list[list[int]]:
        """Greedy texts of so many tokens each: what the prompts have in common is computed once, rows together.

        Args:
            image: uint8 RGB, which is not resized.
            prompts: Token ids with a run of `mark` where the picture is.
            mark: The token of a picture.
            tokens: Of each text.
            on_first: Called when each text has its first token.
        """
        shared = os.path.commonprefix([list(prompt[:-1]) for prompt in prompts])
        before = shared[:shared.index(mark)]
        behind = shared[len(before) + shared.count(mark):]
        self.clear()
        self._run([(token, place, 0, False) for place, token in enumerate(before)])
        position = self._see(image, len(before), shared.count(mark))
        if behind:
            self._run([(token, position + place, 0, False) for place, token in enumerate(behind)])
        return self.grow(position + len(behind), [prompt[len(shared):] for prompt in prompts], tokens, on_first)

    def _see(self, image: np.ndarray, position: int, expected: int) -> int:
        """Encode a picture, and feed it to row 0; the position behind it."""
        height, width, _ = image.shape
        pixels = (ctypes.c_uint8 * image.size).from_buffer_copy(np.ascontiguousarray(image))
        bitmap = mtmd.mtmd_bitmap_init(width, height, pixels)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            marker = mtmd.mtmd_default_marker()
            text = mtmd.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
            if mtmd.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), (ctypes.c_void_p * 1)(bitmap), 1):
                raise RuntimeError("llama.cpp does not take the picture")
            [chunk] = [chunk for place in range(mtmd.mtmd_input_chunks_size(chunks))
                       if mtmd.mtmd_input_chunk_get_type(chunk := mtmd.mtmd_input_chunks_get(chunks, place))
                       == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE]
            if (count := mtmd.mtmd_input_chunk_get_n_tokens(chunk)) != expected:
                raise RuntimeError(f"llama.cpp makes {count} tokens of the picture, expected {expected}")
            began = self._clock()
            if mtmd.mtmd_encode_chunk(self._vision, chunk):
                raise RuntimeError("llama.cpp could not encode the picture")
            self.encoder_s = self._clock() - began
            behind = llama_cpp.llama_pos(0)
            if mtmd.mtmd_helper_decode_image_chunk(
                    self._vision, self._context, chunk, mtmd.mtmd_get_output_embd(self._vision), position, 0, expected,
                    ctypes.byref(behind), mtmd.mtmd_helper_post_decode_callback(), None):
                raise RuntimeError("llama.cpp could not read the picture's tokens")
            return int(behind.value)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)
