"""A tokenizer for a model trained from nothing: byte-level BPE, so that no text is unknown to it."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ros_gpt4roi.model.prompt import SPECIAL_TOKENS
from ros_gpt4roi.model.templates import template

PAD = "<pad>"


def train_tokenizer(texts: Iterable[str], vocabulary: int, template_name: str) -> PreTrainedTokenizerFast:
    """Learns a tokenizer from texts.

    Args:
        texts: What it is learned from.
        vocabulary: Most tokens; the template's markers and the model's special tokens are among them.
        template_name: The conversation format.
    """
    tokenizer = Tokenizer(models.BPE())
    # Digits one by one: numbers of regions and counts then share their tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    markers = [PAD, *SPECIAL_TOKENS, *template(template_name).tokens]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=markers, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD)
