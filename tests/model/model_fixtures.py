"""Small real parts for the model's tests: tokenizers of the three families and configs of tiny networks."""

from __future__ import annotations

import dataclasses

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ros_gpt4roi.model.config import (
    LanguageConfig,
    ModelConfig,
    PreprocessConfig,
    PromptConfig,
    RoIAlignConfig,
    VisionConfig,
)
from ros_gpt4roi.model.prompt import SPECIAL_TOKENS
from ros_gpt4roi.model.templates import template
from training.from_scratch.tokenizer import train_tokenizer

TEXTS = ["What is region1? A small red mug.",
         "### Human: Describe region2 and region13.\n### Assistant: the left of it",
         "USER: How many mugs are there? ASSISTANT: Two, left of the box.", "The picture provides an overview."] * 5


def sentencepiece_like(added: tuple[str, ...] = SPECIAL_TOKENS) -> PreTrainedTokenizerFast:
    """A tokenizer built as Llama's own: spaces become "▁" and lead their word, unknown bytes fall back, `<s>` in front.

    added: special tokens behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False))
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.add_tokens(list(added), special_tokens=True)
    return fast


def gpt_like(template_name: str) -> PreTrainedTokenizerFast:
    """Byte-level, as Qwen's and Llama 3's: words split by a pattern, white space trimmed from offsets."""
    tokenizer = train_tokenizer(TEXTS, 420, template_name)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


TOKENIZERS = {
    "bytes": lambda name: train_tokenizer(TEXTS, 420, name),
    "gpt": gpt_like,
    "sentencepiece": lambda name: sentencepiece_like((*SPECIAL_TOKENS, *template(name).tokens)),
}


CLIP = dict(model_type="clip_vision_model", hidden_size=16, intermediate_size=32, num_hidden_layers=4,
            num_attention_heads=2, image_size=32, patch_size=8)
LLAMA = dict(model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512)


def tiny_config(vocabulary: int, pad: int | None = None, **changes) -> ModelConfig:
    """A CLIP and a Llama of a few thousand parameters at 32 pixels. changes: sections to replace."""
    config = ModelConfig(
        vision=VisionConfig(encoder=CLIP, levels=(-4, -3, -2, -1), tokens=-2),
        regions=RoIAlignConfig(channels=16, scales=(2, 2, 1, 1), fusion_rounds=2, groups=4, roi_size=3, hidden=16,
                               position_hidden=8),
        language=LanguageConfig(model={**LLAMA, "vocab_size": vocabulary, "pad_token_id": pad}),
        prompt=PromptConfig(template="gpt4roi", context=512),
        preprocess=PreprocessConfig(image_size=32))
    return dataclasses.replace(config, **changes)
