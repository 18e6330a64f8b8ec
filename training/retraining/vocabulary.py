"""New words for a small language model, which would have to spell what its tokenizer takes apart."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model
from ros_gpt4roi.model.config import LanguageConfig
from training.data.record_file import PictureRecord

from .corrections import taught

_OFTEN = 3  # times that a word occurs before it is one to learn
_MOST = 64  # words


def new_words(records: Iterable[PictureRecord], loaded: LoadedModel) -> dict[str, list[str]]:
    """Find words of people's texts that the tokenizer takes apart.

    Args:
        records: What is learned from.
        loaded: The model.

    Returns:
        Word → the words in whose place people put it, the most frequent words first.
    """
    counts: Counter[str] = Counter()
    replaced: dict[str, list[str]] = {}
    for record in records:
        for region in record.regions:
            words = re.findall(r"[^\W\d_]+", taught(region))
            counts.update(words)
            said = set(re.findall(r"[^\W\d_]+", region.judgements[-1].said)) if region.judgements else set()
            for word in words:
                replaced.setdefault(word, []).extend(sorted(said.difference(words)))
    found = [word for word, count in counts.most_common()
             if count >= _OFTEN and len(word) > 1 and len(_pieces(loaded, word)) > 1]
    return {word: replaced[word] for word in found[:_MOST]}


def _pieces(loaded: LoadedModel, word: str) -> list[int]:
    return loaded.tokenizer.encode(f" {word}", add_special_tokens=False)


def with_words(loaded: LoadedModel, words: dict[str, list[str]]) -> LoadedModel:
    """Make a model that knows words as tokens of their own.

    A word's embedding begins as the mean of those in whose place it was put, where the tokenizer has these as one
    token, else as the mean of all.

    Args:
        loaded: The model, whose tokenizer gets the words.
        words: As `new_words` finds them.

    Returns:
        The new model, with all weights of the old one.
    """
    alike = {word: _alike(loaded, places) for word, places in words.items()}
    before, known = loaded.model.state_dict(), len(loaded.tokenizer)
    loaded.tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    rows = max(len(loaded.tokenizer), loaded.config.language.model["vocab_size"])
    config = dataclasses.replace(loaded.config, language=LanguageConfig(
        {**loaded.config.language.model, "vocab_size": rows}))
    made = build_model(config, loaded.tokenizer)
    for name, value in made.model.state_dict().items():
        if before[name].shape != value.shape:  # embeddings, and the output where it is not tied to them
            value[:len(before[name])] = before[name]
            before[name] = value
    made.model.load_state_dict(before)
    made.model.language.tie_weights()
    tables = made.model.language.get_input_embeddings(), made.model.language.get_output_embeddings()
    with torch.no_grad():  # also where there was room for them: what stood there means nothing
        for weight in {id(table.weight): table.weight for table in tables}.values():
            for place, word in zip(made.tokenizer.convert_tokens_to_ids(list(words)), words):
                weight[place] = weight[alike[word] or slice(known)].mean(0)
    return made


def _alike(loaded: LoadedModel, words: Sequence[str]) -> list[int]:
    pieces = (_pieces(loaded, word) for word in words)
    return [found[0] for found in pieces if len(found) == 1]
