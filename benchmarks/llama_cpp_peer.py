"""llama.cpp through llama-cpp-python's low-level API, with what it has for this load: shared prefix and batch.

An optional extra that only this benchmark uses: `pip install llama-cpp-python==0.3.36 gguf==0.19.0`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from transformers import LlamaForCausalLM

VERSION = llama_cpp.__version__
FORMATS = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}
_LAYER = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
          "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


@llama_cpp.llama_log_callback
def silent(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Of what llama.cpp says, nothing is shown."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


def write_gguf(language: LlamaForCausalLM, path: Path) -> None:
    """A Llama's float weights as a GGUF file of 16 bits, without a vocabulary: tokens go in and out as ids."""
    config = language.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("no_vocab")
    for name, weight in language.state_dict().items():
        stored = _stored(name, weight.float(), config)
        if stored is not None and not (name == "lm_head.weight" and config.tie_word_embeddings):
            writer.add_tensor(stored[0], stored[1].half().numpy() if weight.ndim == 2 else stored[1].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(name: str, weight: torch.Tensor, config: Any) -> tuple[str, torch.Tensor] | None:
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
               "lm_head.weight": "output.weight"}
    if name in outside:
        return outside[name], weight
    _, _, layer, *rest = name.split(".")
    part = ".".join(rest).removesuffix(".weight")
    if part not in _LAYER:
        return None
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}.get(part)
    if heads:  # transformers rotates the halves of a head, GGUF's Llama its neighbouring pairs
        weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return f"blk.{layer}.{_LAYER[part]}.weight", weight.contiguous()


def quantise(source: Path, target: Path, number_format: str) -> None:
    """Raises RuntimeError where llama.cpp refuses."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FORMATS[number_format]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama.cpp could not convert {source} to {number_format}")


class LlamaCpp:
    """A GGUF model on the CPU.

    rows: most texts at once; context: most tokens of all of them together; never: tokens that are not chosen.
    """

    def __init__(self, path: Path, threads: int, rows: int, context: int, never: Sequence[int] = ()):
        self._never = list(never)
        model_settings = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = context
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True  # rows share the cells of their common prefix
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not make a context of {context} tokens for {path}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(context, 0, 1)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def close(self) -> None:
        """Free what llama.cpp holds."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _run(self, tokens: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Feed (id, position, row, whether its logits are wanted); the most likely next token of those wanted."""
        batch, wanted = self._batch, []
        batch.n_tokens = len(tokens)
        for i, (token, position, row, wants) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
            if wants:
                wanted.append(i)
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode ended with {status} for {len(tokens)} tokens")
        return [self._choose(i) for i in wanted]

    def _choose(self, place: int) -> int:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, place), (self._vocabulary,))
        logits[self._never] = -np.inf
        return int(logits.argmax())

    def clear(self) -> None:
        """Forget all rows."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def every_next(self, ids: Sequence[int]) -> list[int]:
        """The most likely token after each one of a text."""
        self.clear()
        return self._run([(token, i, 0, True) for i, token in enumerate(ids)])

    def texts(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Greedy texts of so many tokens each, after one prefix and several suffixes: prefix once, rows together."""
        self.clear()
        if prefix:
            self._run([(token, i, 0, False) for i, token in enumerate(prefix)])
        return self.grow(len(prefix), suffixes, tokens)

    def grow(self, position: int, suffixes: Sequence[Sequence[int]], tokens: int,
             on_first: Callable[[], None] = lambda: None) -> list[list[int]]:
        """Greedy texts of so many tokens each, after what is in row 0.

        Args:
            position: Of a suffix's first token.
            suffixes: One a row.
            tokens: Of each text.
            on_first: Called when each text has its first token.
        """
        if position:
            for row in range(1, len(suffixes)):
                llama_cpp.llama_memory_seq_cp(self._memory, 0, row, -1, -1)
        chosen = self._run([(token, position + i, row, i == len(suffix) - 1)
                            for row, suffix in enumerate(suffixes) for i, token in enumerate(suffix)])
        on_first()
        texts = [[token] for token in chosen]
        for step in range(tokens - 1):
            chosen = self._run([(token, position + len(suffixes[row]) + step, row, True)
                                for row, token in enumerate(chosen)])
            for text, token in zip(texts, chosen):
                text.append(token)
        return texts
