"""Region captioning on Visual Genome and RefCOCOg: CIDEr-D, BLEU-4 and ROUGE-L; METEOR and SPICE where Java is wanted.

The scorers are pycocoevalcap's. Its tokeniser needs Java, so texts are tokenised here by the same rules: Penn Treebank
words in lower case, without punctuation.
"""

from __future__ import annotations

import re
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from typing_extensions import override

from training.data.record import Record, Round
from training.data.refcoco import RefCoco, RefCocoOptions
from training.data.source import Shared, boxes_array
from training.data.visual_genome import VisualGenome, VisualGenomeOptions
from training.evaluation.base import Benchmark, Item, Scores

QUESTION = "Describe <region1> in detail."
_WORD = re.compile(r"\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W_]+(?:[-./&][^\W_]+)*|[()]")
# The reference tokeniser leaves these in, as it strikes out punctuation in upper case only.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-"}


def tokenise(text: str) -> str:
    """``text`` as space-separated tokens. A text without words becomes one token that matches nothing."""
    words = (_BRACKETS.get(word, word) for word in _WORD.findall(text.lower()))
    return " ".join(words) or "<empty>"


def caption_scores(references: Sequence[Sequence[str]], texts: Sequence[str]) -> tuple[dict[str, float], np.ndarray]:
    """Corpus scores × 100, as papers print them, and each text's CIDEr-D (0 to 10).

    references: for every text its right captions. CIDEr-D weighs words by how rare they are among these references, so
    it means little for a handful of items, and nothing for one.
    """
    truth = {place: [tokenise(caption) for caption in captions] for place, captions in enumerate(references)}
    said = {place: [tokenise(text)] for place, text in enumerate(texts)}
    cider, each = Cider().compute_score(truth, said)
    bleu, _ = Bleu(4).compute_score(truth, said, verbose=0)
    rouge, _ = Rouge().compute_score(truth, said)
    return {"CIDEr-D": 100 * float(cider), "BLEU-4": 100 * float(bleu[3]), "ROUGE-L": 100 * float(rouge)}, each


def java_scores(references: Sequence[Sequence[str]], texts: Sequence[str], spice: bool) -> dict[str, float]:
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
    truth = {place: [tokenise(caption) for caption in captions] for place, captions in enumerate(references)}
    said = {place: [tokenise(text)] for place, text in enumerate(texts)}
    scores = {"METEOR": 100 * float(Meteor().compute_score(truth, said)[0])}
    if spice:
        scores["SPICE"] = 100 * float(spice_scorer.Spice().compute_score(truth, said)[0])
    return scores


class _Captioning(Benchmark):
    """Regions of a data set, each asked about by itself."""

    def __init__(self, question: str, java: bool, spice: bool):
        self.question, self.java, self.spice = question, java, spice

    @abstractmethod
    def regions(self) -> Iterator[tuple[str, list[float], list[str]]]:
        """(image, box, its captions) of every region."""

    @override
    def items(self) -> Iterator[Item]:
        for image, box, captions in self.regions():
            turn = Round(self.question, captions[0], "description")
            yield Item(Record(image, boxes_array([box]), (turn,), f"{self.name} {image}"), tuple(captions))

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        references = [item.references for item in items]
        metrics: dict[str, float | None] = {"METEOR": None, "SPICE": None}
        scores, each = caption_scores(references, texts)
        metrics |= scores
        if self.java:
            metrics |= java_scores(references, texts, self.spice)
        return metrics, each / 10


class VisualGenomeCaptioning(_Captioning):
    """Validation regions of Visual Genome with their one phrase each."""

    name = "vg_captioning"
    protocol = ("Visual Genome validation, ground-truth boxes, one region a question, its one phrase as reference; "
                "CIDEr-D, BLEU-4, ROUGE-L (and METEOR) of pycocoevalcap")

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path, question: str = QUESTION,
                 java: bool = False, spice: bool = False):
        super().__init__(question, java, spice)
        self.source = VisualGenome(VisualGenomeOptions(annotations, images), Shared(cache))

    @override
    def regions(self) -> Iterator[tuple[str, list[float], list[str]]]:
        for place in range(len(self.source)):
            entry = self.source.index[place]
            for box, phrase in entry["pairs"]:
                yield entry["image"], box, [phrase]


class RefCocogCaptioning(_Captioning):
    """Objects of RefCOCOg's validation split; all expressions of an object are its references."""

    name = "refcocog_captioning"
    protocol = ("RefCOCOg validation (UMD), ground-truth boxes, one object a question, all its expressions as "
                "references; CIDEr-D, BLEU-4, ROUGE-L (and METEOR) of pycocoevalcap")

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path, question: str = QUESTION,
                 java: bool = False, spice: bool = False):
        super().__init__(question, java, spice)
        # Short expressions are references too.
        self.source = RefCoco(RefCocoOptions(annotations, images, "refcocog", min_words=1), Shared(cache))

    @override
    def regions(self) -> Iterator[tuple[str, list[float], list[str]]]:
        for place in range(len(self.source)):
            entry = self.source.index[place]
            captions: dict[tuple[float, ...], list[str]] = {}
            for box, sentence in entry["pairs"]:
                captions.setdefault(tuple(box), []).append(sentence)
            for box, sentences in captions.items():
                yield entry["image"], list(box), sentences
