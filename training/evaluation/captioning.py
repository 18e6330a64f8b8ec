"""Region captioning on Visual Genome and RefCOCOg: CIDEr-D, BLEU-4 and ROUGE-L; METEOR and SPICE where Java is wanted.

The scorers are pycocoevalcap's. Its tokeniser needs Java, so texts are tokenised here by the same rules: Penn Treebank
words in lower case, without punctuation.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from training.data.record import Record, Round
from training.data.refcoco import RefCoco
from training.data.source import Shared, Source, boxes_array
from training.data.visual_genome import VisualGenome
from training.errors import training_packages
from training.evaluation.base import Benchmark, Item, Scores

with training_packages():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

QUESTION = "Describe <region1> in detail."
_WORD = re.compile(r"\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W_]+(?:[-./&][^\W_]+)*|[()]")
# The reference tokeniser leaves these in, as it strikes out punctuation in upper case only.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-"}


def tokenise(text: str) -> str:
    """``text`` as space-separated tokens. A text without words becomes one token that matches nothing."""
    words = (_BRACKETS.get(word, word) for word in _WORD.findall(text.lower()))
    return " ".join(words) or "<empty>"


def caption_scores(references: Sequence[Sequence[str]],
                   texts: Sequence[str]) -> tuple[dict[str, float | None], np.ndarray]:
    """Corpus scores × 100, as papers print them, and each text's CIDEr-D (0 to 10).

    Args:
        references: For every text its right captions. CIDEr-D weighs words by how rare they are among these references,
            so it means little for a handful of items, and nothing for one.
        texts: What was generated.
    """
    truth, said = _tokenised(references, texts)
    cider, each = Cider().compute_score(truth, said)
    bleu, _ = Bleu(4).compute_score(truth, said, verbose=0)
    rouge, _ = Rouge().compute_score(truth, said)
    return {"CIDEr-D": 100 * float(cider), "BLEU-4": 100 * float(bleu[3]), "ROUGE-L": 100 * float(rouge)}, each


def _tokenised(references: Sequence[Sequence[str]],
               texts: Sequence[str]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    truth = {place: [tokenise(caption) for caption in captions] for place, captions in enumerate(references)}
    return truth, {place: [tokenise(text)] for place, text in enumerate(texts)}


def java_scores(references: Sequence[Sequence[str]], texts: Sequence[str], spice: bool) -> dict[str, float | None]:
    """METEOR, and SPICE where asked for, × 100.

    Raises:
        RuntimeError: Java is not there, or for SPICE its parser, which its scorer would fetch over an unprotected
            connection and run.
    """
    if shutil.which("java") is None:
        raise RuntimeError("METEOR and SPICE need Java, which is not on the PATH")
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.spice import spice as spice_scorer

    parser = Path(spice_scorer.__file__).parent / "lib" / "stanford-corenlp-3.6.0.jar"
    if spice and not parser.is_file():
        raise RuntimeError(f"SPICE needs {parser.name} and stanford-corenlp-3.6.0-models.jar in {parser.parent}: they "
                           "are in stanford-corenlp-full-2015-12-09.zip from https://nlp.stanford.edu/software/")
    scorers = {"METEOR": Meteor, **({"SPICE": spice_scorer.Spice} if spice else {})}
    truth, said = _tokenised(references, texts)
    return {name: 100 * float(scorer().compute_score(truth, said)[0]) for name, scorer in scorers.items()}


class _Captioning(Benchmark):
    """Regions of a data set, each asked about by itself."""

    data_set: type[Source]  # its entries have "pairs" of a box and a caption
    options: Mapping[str, Any] = {}

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path, question: str = QUESTION,
                 java: bool = False, spice: bool = False):
        options = {"images": images, **self.options}
        self.source = self.data_set(self.data_set.options_type(annotations, **options), Shared(cache))
        self.question, self.java, self.spice = question, java, spice

    def references(self, pairs: list[Any]) -> Iterator[tuple[list[float], list[str]]]:
        """The box and the right captions of every region of an image."""
        return ((box, [caption]) for box, caption in pairs)

    @override
    def items(self) -> Iterator[Item]:
        for entry in self.source.entries():
            for box, captions in self.references(entry["pairs"]):
                turn = Round(self.question, captions[0], "description")
                record = Record(entry["image"], boxes_array([box]), (turn,), f"{self.name} {entry['image']}")
                yield Item(record, tuple(captions))

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        references = [item.references for item in items]
        scores, each = caption_scores(references, texts)
        java = java_scores(references, texts, self.spice) if self.java else {}
        return {"METEOR": None, "SPICE": None, **scores, **java}, each / 10


class VisualGenomeCaptioning(_Captioning):
    """Validation regions of Visual Genome with their one phrase each."""

    name = "vg_captioning"
    protocol = ("Visual Genome validation, ground-truth boxes, one region a question, its one phrase as reference; "
                "CIDEr-D, BLEU-4, ROUGE-L (and METEOR) of pycocoevalcap")
    data_set = VisualGenome


class RefCocogCaptioning(_Captioning):
    """Objects of RefCOCOg's validation split; all expressions of an object are its references."""

    name = "refcocog_captioning"
    protocol = ("RefCOCOg validation (UMD), ground-truth boxes, one object a question, all its expressions as "
                "references; CIDEr-D, BLEU-4, ROUGE-L (and METEOR) of pycocoevalcap")
    data_set, options = RefCoco, {"dataset": "refcocog", "min_words": 1}  # short expressions are references too

    @override
    def references(self, pairs: list[Any]) -> Iterator[tuple[list[float], list[str]]]:
        captions: dict[tuple[float, ...], list[str]] = {}
        for box, sentence in pairs:
            captions.setdefault(tuple(box), []).append(sentence)
        return ((list(box), sentences) for box, sentences in captions.items())
