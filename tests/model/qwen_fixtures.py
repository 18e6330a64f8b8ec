"""A tiny Qwen3-VL of random weights, in a folder as transformers writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")
_TEXTS = ["Describe region 1 in one short sentence.", "What is left of the small red mug?",
          '{"bbox_2d": [120, 345, 678, 900], "label": "region 2"}', "user assistant Regions of this picture"] * 5
PATCH, MERGE = 8, 2


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_TEXTS, trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_tokens(list(SPECIAL), special_tokens=True)
    return fast


def image_processor() -> Qwen2VLImageProcessor:
    """Of the tiny model's sizes."""
    return Qwen2VLImageProcessor(patch_size=PATCH, merge_size=MERGE, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                 size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96})


def say(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, pieces: Sequence[str]) -> None:
    """Let a model answer whatever it is asked with the same pieces, each of which becomes one token.

    Its layers hand on each token's embedding as it is, and the output layer, which is its own, names the next token.
    """
    assert not model.config.tie_word_embeddings and len(set(pieces)) == len(pieces)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    model.resize_token_embeddings(len(tokenizer) + 9)
    (asked,) = tokenizer.encode("\n")  # which a prompt ends in
    chain = [asked, *tokenizer.convert_tokens_to_ids(list(pieces)), tokenizer.eos_token_id]
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.language_model.norm.weight.fill_(1)
        model.lm_head.weight.zero_()
        embeddings = model.get_input_embeddings().weight
        for place, (token, following) in enumerate(zip(chain, chain[1:])):
            embeddings[token] = torch.eye(embeddings.shape[1])[place]
            model.lm_head.weight[following] = embeddings[token]


def build_qwen(tokenizer: PreTrainedTokenizerFast, tied: bool) -> Qwen3VLForConditionalGeneration:
    """All that a published one has: DeepStack from three layers, rotary positions of three axes, the patch merger."""
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL))))
    config = Qwen3VLConfig(
        vision_config=dict(depth=4, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=PATCH,
                           spatial_merge_size=MERGE, out_hidden_size=64, num_position_embeddings=16,
                           deepstack_visual_indexes=[0, 1, 2]),
        text_config=dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=16, vocab_size=len(tokenizer) + 9,
                         max_position_embeddings=2048,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2],
                                          "mrope_interleaved": True}),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied)
    torch.manual_seed(11)
    model = Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # spread, so that texts differ, and follow what is in the picture
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def write_qwen(folder: Path, tied: bool = True, words: bool = False, says: Sequence[str] = ()) -> Path:
    """A folder as transformers writes it.

    tied: whether the output layer has the embedding's weights. words: whether it says words only, which takes a layer
    of its own, as does `says`: what it says, in pieces that differ.
    """
    tokenizer = qwen_tokenizer()
    model = build_qwen(tokenizer, tied)
    if words:
        wordless = [i for i in range(len(tokenizer)) if not tokenizer.decode([i]).strip().isalpha()]
        model.lm_head.weight.data[[*wordless, *range(len(tokenizer), len(model.lm_head.weight))]] = 0
    if says:
        say(model, tokenizer, says)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder
