"""Texts about scenes: every answer is checked against the scene by rules written anew here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.tabletop.conversations import SCORED_TASKS, ask, conversation, recall_rounds, short_rounds, why
from ros_gpt4roi.sim.tabletop.question_sampler import long_text, short_text
from ros_gpt4roi.sim.tabletop.scene import COLOURS, HELD_OUT, KINDS, MATERIALS, SIZES, Scene, SceneObject
from ros_gpt4roi.sim.tabletop.scoring import score
from ros_gpt4roi.sim.text_rounds import Expected, TextRound, chance_level

SCENES = 400
_WORDS = {"kind": KINDS, "colour": tuple(COLOURS), "size": tuple(SIZES), "material": MATERIALS}
_LOOKS, _THINGS = "|".join((*SIZES, *MATERIALS, *COLOURS)), "|".join((*KINDS, "thing", "object"))
_REFERENCE = re.compile(rf"<region(\d+)>|the ((?:(?:{_LOOKS}) )*(?:{_THINGS}))\b")


def make_scene(seed: int, split: str = "train", count: int | None = None) -> Scene:
    """Boxes on a flat picture: what is lower is nearer, what is large is wider."""
    rng = np.random.default_rng(seed)
    objects = []
    for number in range(rng.integers(3, 11) if count is None else count):
        kind, colour = KINDS[rng.integers(8)], list(COLOURS)[rng.integers(10)]
        while split != "test" and (kind, colour) in HELD_OUT:
            kind, colour = KINDS[rng.integers(8)], list(COLOURS)[rng.integers(10)]
        size = tuple(SIZES)[rng.integers(2)]
        half = 11 if size == "small" else 20
        x, y = rng.uniform(20, 300), rng.uniform(60, 220)
        distance = 1.6 - y / 240
        box = (int(x - half), int(y - half), int(x + half), int(y + half))
        objects.append(SceneObject(kind, colour, size, MATERIALS[rng.integers(2)], box, 1.0,
                                   (distance, (160 - x) / 300, 0.0), distance, number))
    return Scene(split, seed, 0, 320, 240, np.zeros((240, 320, 3), np.uint8), np.zeros((240, 320), np.int8),
                 tuple(objects), (0.0, 0.0, 1.0), 0)


def rounds(split: str = "train") -> list[tuple[Scene, TextRound]]:
    found = []
    for seed in range(SCENES):
        scene, rng = make_scene(seed, split), np.random.default_rng([seed, 1])
        found += [(scene, turn) for turn in conversation(scene, rng)]
    return found


@pytest.fixture(scope="module")
def train_rounds() -> list[tuple[Scene, TextRound]]:
    return rounds()


def matching(scene: Scene, phrase: str) -> list[int]:
    """0-based objects that fit a phrase like "small red things"."""
    words = phrase.split()
    singular = [w[:-2] if w == "boxes" else w[:-1] if w[:-1] in (*KINDS, "thing", "object") else w for w in words]
    return [i for i, o in enumerate(scene.objects)
            if all(getattr(o, name) in singular or not set(values) & set(singular) for name, values in _WORDS.items())]


def spoken_of(scene: Scene, text: str) -> list[int]:
    """The 0-based objects a text refers to, in order; a phrase must fit exactly one."""
    found = []
    for number, phrase in _REFERENCE.findall(text):
        fitting = [int(number) - 1] if number else matching(scene, phrase)
        assert len(fitting) == 1, f"{phrase!r} in {text!r} fits {len(fitting)} objects"
        found += fitting
    return found


def centre(obj: SceneObject) -> float:
    return (obj.box[0] + obj.box[2]) / 2


def holds(relation: str, a: SceneObject, b: SceneObject) -> bool:
    return {"left of": centre(a) < centre(b), "right of": centre(a) > centre(b),
            "in front of": a.distance < b.distance, "behind": a.distance > b.distance}[relation]


def of_form(pairs: list[tuple[Scene, TextRound]], task: str, *forms: str) -> list[tuple[Scene, TextRound]]:
    found = [(s, t) for s, t in pairs if t.task == task and (not forms or t.form in forms) and not t.follow_up]
    assert len(found) >= 15, f"only {len(found)} questions of {task} {forms}"
    return found


def test_short_text_names_size_material_colour_and_kind():
    obj = SceneObject("mug", "orange", "small", "shiny", (0, 0, 9, 9), 1.0, (0.0, 0.0, 0.0), 1.0, 0)
    assert short_text(obj) == "a small shiny orange mug"


def test_every_answer_is_right_by_its_own_score(train_rounds):
    wrong = [turn for _, turn in train_rounds if not score(turn.expected, turn.answer)]
    assert not wrong, wrong[:3]


def test_every_task_is_asked(train_rounds):
    counts = Counter(turn.task for _, turn in train_rounds)
    assert set(counts) == set(SCORED_TASKS)
    assert min(counts.values()) > 0.02 * len(train_rounds), counts


def test_attributes_are_those_of_the_object(train_rounds):
    for task in ("kind", "colour", "size", "material"):
        for scene, turn in of_form(train_rounds, task):
            (i,) = spoken_of(scene, turn.question)
            assert getattr(scene.objects[i], task) in re.findall(r"\w+", turn.answer.lower())


def assert_seen_from(scene: Scene, text: str, *pairs: tuple[int, int]) -> None:
    """Asserts that what a text says in the form "from <region2>, <region3> is left" is true, and of which pairs."""
    told = re.findall(r"[Ff]rom <region(\d+)>, <region(\d+)> is ((?:left|right|in front|behind| and (?!from))+)", text)
    assert told and (not pairs or tuple((int(j) - 1, int(i) - 1) for j, i, _ in told) == pairs), text
    words = {"left": "left of", "right": "right of", "in front": "in front of", "behind": "behind"}
    for j, i, said in told:
        for word in said.split(" and "):
            assert holds(words[word], scene.objects[int(i) - 1], scene.objects[int(j) - 1]), text


def test_pairs_stand_as_the_answer_says(train_rounds):
    for scene, turn in of_form(train_rounds, "relations", "side", "depth", "where"):
        objects = spoken_of(scene, turn.question)
        if turn.question.lower().startswith("on which side of"):
            objects.reverse()
        a, b = (scene.objects[i] for i in objects)
        assert_seen_from(scene, turn.answer, (scene.objects.index(b), scene.objects.index(a)))


def test_the_extreme_is_the_extreme(train_rounds):
    keys = {"left": lambda o: centre(o), "right": lambda o: -centre(o), "close": lambda o: o.distance,
            "back": lambda o: -o.distance}
    for scene, turn in of_form(train_rounds, "relations", "extreme"):
        key = next(keys[word] for word in keys if word in turn.question)
        group = [scene.objects[i] for i in spoken_of(scene, turn.question)]
        evidence, _, conclusion = turn.answer.partition(", so ")
        assert spoken_of(scene, conclusion)[:1] == [scene.objects.index(min(group, key=key))], turn
        assert_seen_from(scene, evidence)
        assert evidence.lower().count("from") == len(group) - 1


def test_counts_are_counts(train_rounds):
    for scene, turn in of_form(train_rounds, "counting", "kind", "colour", "other", "two"):
        phrase = re.search(r"(?:how many|count the) (.+?)(?: are there| do you see|$)",
                           turn.question.lower().rstrip("?."))
        fitting = matching(scene, phrase[1])
        assert int(re.search(r"so (\d+)", turn.answer)[1]) == len(fitting), turn
        assert [int(k) - 1 for k in re.findall(r"<region(\d+)>", turn.answer)] == fitting


def test_which_region_fits_alone_or_not_at_all(train_rounds):
    answers = Counter()
    for scene, turn in of_form(train_rounds, "which_region", "fits"):
        fitting = matching(scene, re.search(r"the (.+?)[?.]?$", turn.question)[1])
        assert [int(k) - 1 for k in re.findall(r"<region(\d+)>", turn.answer)] == fitting, turn
        answers[len(fitting)] += 1
    assert set(answers) == {0, 1} and answers[1] > answers[0]


def test_which_stands_where_is_asked(train_rounds):
    for scene, turn in of_form(train_rounds, "which_region", "stands"):
        relation = re.search("left of|right of|in front of|behind", turn.question)[0]
        (other,) = spoken_of(scene, turn.question)
        found = spoken_of(scene, re.match(r"<region\d+>", turn.answer)[0])[0]
        there = [i for i, o in enumerate(scene.objects) if i != other and holds(relation, o, scene.objects[other])]
        assert found in there
        if "next" not in turn.question and "nearest" not in turn.question:
            assert there == [found], f"{turn.question} has {len(there)} answers"


def said_yes(turn: TextRound) -> bool:
    """Whether an answer to a yes/no question says yes; what it is taken from stands before it."""
    (verdict,) = re.findall(r".+, so (yes|no)\.$", turn.answer)
    return verdict == "yes"


def test_larger_and_same(train_rounds):
    for scene, turn in of_form(train_rounds, "comparing", "larger"):
        *told, i = spoken_of(scene, turn.answer)
        assert told == spoken_of(scene, turn.question)
        assert re.findall("small|large", turn.answer) == [scene.objects[j].size for j in told]
        assert scene.objects[i].size == ("large" if "larger" in turn.question else "small")
    for scene, turn in of_form(train_rounds, "comparing", "same"):
        name = next(name for name in _WORDS if name in turn.question)
        a, b = (scene.objects[i] for i in spoken_of(scene, turn.question.replace(f"the {name} of", "")))
        assert (getattr(a, name) == getattr(b, name)) == said_yes(turn), turn


def test_yes_and_no_are_true(train_rounds):
    for scene, turn in of_form(train_rounds, "yes_no", "exists"):
        phrase = re.search(r"(?:there|see) an? (.+?)(?: in the picture| on the table|\?|$)", turn.question)[1]
        assert bool(matching(scene, phrase)) == said_yes(turn), turn
    for scene, turn in of_form(train_rounds, "yes_no", "is_kind", "is_colour", "is_size", "is_material", "is_a"):
        (i,) = spoken_of(scene, turn.question)
        claim = re.sub(_REFERENCE, "", turn.question).rstrip("?")
        assert (i in matching(scene, claim)) == said_yes(turn), turn
    for scene, turn in of_form(train_rounds, "yes_no", "stands"):
        a, b = (scene.objects[i] for i in spoken_of(scene, turn.question))
        relation = re.search("left of|right of|in front of|behind", turn.question)[0]
        assert holds(relation, a, b) == said_yes(turn), turn


def test_recall_rounds_look_up_regions_by_name_and_names_by_looks():
    forms = Counter()
    for seed in range(40):
        scene = make_scene(seed)
        for turn in recall_rounds(scene, np.random.default_rng(seed), 12):
            nearest = turn.question.startswith("Closest to")
            forms["nearest" if nearest else turn.task] += 1
            if turn.task == "which_region":
                assert matching(scene, turn.question.rstrip("?")) == spoken_of(scene, turn.answer)
            elif nearest:
                (to,), (found,) = spoken_of(scene, turn.question), spoken_of(scene, turn.answer)
                places = [np.array(o.position[:2]) for o in scene.objects]
                others = (i for i in range(len(places)) if i != to)
                assert found == min(others, key=lambda i: np.linalg.norm(places[i] - places[to]))
            elif turn.task == "relations":
                assert_seen_from(scene, turn.answer, tuple(reversed(spoken_of(scene, turn.question))))
            else:
                (i,) = spoken_of(scene, turn.question)
                assert i in matching(scene, turn.answer.rstrip("."))
            assert score(turn.expected, turn.answer)
    assert forms.total() == 40 * 12 and forms.pop("nearest") > 15 and min(forms.values()) > 80, forms


def test_yes_comes_as_often_as_no_in_every_form():
    answers: dict[str, Counter] = defaultdict(Counter)
    for seed in range(600):
        scene, rng = make_scene(seed), np.random.default_rng([seed, 2])
        for task in ("yes_no", "yes_no", "comparing"):
            turns = ask(scene, task, rng)
            if turns and turns[-1].expected.what == "yes_no":
                answers[turns[-1].form][said_yes(turns[-1])] += 1
    total = sum(answers.values(), Counter())
    for form, counts in {**answers, "all": total}.items():
        n = sum(counts.values())
        # Four standard deviations of a fair coin.
        assert abs(counts[True] - n / 2) <= 2 * n**0.5, f"{form}: {counts}"


def test_reasons_name_what_is_true(train_rounds):
    checked = 0
    for scene, turn in train_rounds:
        for number, words in re.findall(r"<region(\d+)> is (?:an? )?([a-z ]+?)(?: and |\.|$)", turn.answer):
            named = set(words.split()) & {w for values in _WORDS.values() for w in values}
            if turn.task == "why" and named:
                assert int(number) - 1 in matching(scene, words), turn
                checked += 1
    assert checked > 50


def test_follow_ups_come_right_after_what_they_refer_to():
    seen = Counter()
    for seed in range(150):
        turns = conversation(make_scene(seed), np.random.default_rng(seed))
        assert not turns[0].follow_up
        for before, turn in zip(turns, turns[1:]):
            if turn.task == "why":
                assert turn.answer == before.reason
                seen["why"] += 1
            elif turn.follow_up:
                assert before.subject is not None and turn.regions[0] == before.subject + 1
                seen["it"] += 1
    assert min(seen["why"], seen["it"]) > 30


def test_same_generator_same_texts_and_another_other_texts():
    scene = make_scene(5)
    first = conversation(scene, np.random.default_rng(1))
    assert conversation(scene, np.random.default_rng(1)) == first
    assert conversation(scene, np.random.default_rng(2)) != first


def test_region_numbers_say_nothing():
    scene = make_scene(3, count=8)
    nearest_place = Counter()
    for seed in range(800):
        mixed = permuted(scene, np.random.default_rng(seed))
        assert sorted(o.object_index for o in mixed.objects) == list(range(8))
        nearest_place[min(range(8), key=lambda i: mixed.objects[i].distance)] += 1
    assert max(nearest_place.values()) < 150 and min(nearest_place.values()) > 60


def test_training_texts_never_speak_of_held_out_pairs(train_rounds):
    for _, turn in train_rounds:
        for colour, kind in re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})", turn.question + turn.answer):
            assert (kind, colour) not in HELD_OUT, turn


def test_test_scenes_may_speak_of_held_out_pairs():
    text = " ".join(turn.question for _, turn in rounds("test"))
    assert any(f"{colour} {kind}" in text for kind, colour in HELD_OUT)


def test_long_text_tells_the_object_and_where_it_stands():
    checked = 0
    for seed in range(100):
        scene = make_scene(seed)
        for i, obj in enumerate(scene.objects):
            text = long_text(scene, i, 2)
            assert text.lower().startswith(short_text(obj) + ".")
            for number, what, relation in re.findall(
                    r"<region(\d+)>, (an? [a-z ]+\w), is (left of|right of|in front of|behind) it\.", text):
                other = scene.objects[int(number) - 1]
                assert holds(relation, other, obj)
                assert what == short_text(other)
                checked += 1
    assert checked > 500


def test_short_rounds_cover_every_region():
    scene = make_scene(1)
    turns = short_rounds(scene)
    assert [turn.question for turn in turns] == [f"What is <region{k}>?" for k in range(1, len(scene.objects) + 1)]
    assert all(score(turn.expected, short_text(obj)) for turn, obj in zip(turns, scene.objects))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_scenes_with_hardly_anything_in_them(count):
    scene = make_scene(4, count=count)
    for seed in range(20):
        turns = conversation(scene, np.random.default_rng(seed))
        assert bool(turns) == (count > 0)
        assert all(score(turn.expected, turn.answer) for turn in turns)
    for task in SCORED_TASKS:
        assert count or ask(scene, task, np.random.default_rng(0)) is None


@pytest.mark.parametrize(("what", "values", "answer", "right"), [
    ("colour", ("red",), "Red.", True),
    ("colour", ("red",), "It is red and blue.", False),
    ("colour", ("red",), "A small red mug.", True),
    ("colour", ("red",), "", False),
    ("kind", ("box",), "Both are boxes.", True),
    ("kind", ("mug",), "A smug answer.", False),
    ("attributes", ("small", "shiny", "red", "mug"), "This is a small shiny red mug, left of region2, a box.", True),
    ("attributes", ("small", "shiny", "red", "mug"), "This is a small red mug, left of region2.", False),
    ("relation", ("left", "front"), "It is in front of and left of region3.", True),
    ("relation", ("left",), "It is left of or right of region3.", False),
    ("region", ("region3",), "region3, a small matte red mug.", True),
    ("region", ("region3",), "region 3", True),
    ("region", ("region3",), "From region1, region3 is left, so region3, a small matte red mug.", True),
    ("region", ("region1",), "From region1, region3 is left, so region3.", False),
    ("region", ("region3",), "region3 or region1", False),
    ("region", ("region1",), "region10", False),
    ("region", (), "There is no red mug.", True),
    ("region", (), "Red.", False),
    ("number", ("2",), "region1 and region4, so 2.", True),
    ("number", ("2",), "Two.", True),
    ("number", ("2",), "region2, so 1.", False),
    ("number", ("0",), "None, so 0.", True),
    ("yes_no", ("yes",), "Yes.", True),
    ("yes_no", ("yes",), "Yes and no.", False),
    ("yes_no", ("no",), "Not at all.", False),
    ("statement", ("region2", "blue"), "Because region2 is blue.", True),
    ("statement", ("region2", "blue"), "Because region2 is blue and region3 is red.", False),
])
def test_score(what, values, answer, right):
    assert score(Expected(what, values, 2), answer) is right


def test_score_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="weather"):
        score(Expected("weather", ("sunny",), 2), "Sunny.")


def test_chance_is_what_the_best_blind_guess_gets():
    def turn(form: str, value: str, options: int) -> TextRound:
        return TextRound("?", value, "yes_no", form, Expected("yes_no", (value,), options))

    fair = [turn("a", "yes", 2), turn("a", "no", 2)]
    assert chance_level(fair) == 0.5
    assert chance_level([turn("a", "yes", 2)] * 3 + [turn("a", "no", 2)]) == 0.75
    assert chance_level([*fair, turn("b", "yes", 1), turn("b", "no", 1)]) == 0.75
    assert np.isnan(chance_level([]))


def test_why_is_only_asked_where_there_is_a_reason():
    scene, rng = make_scene(2), np.random.default_rng(0)
    assert why(ask(scene, "colour", rng)[-1], rng) is None
    parent, turn = ask(scene, "why", rng)
    assert turn.answer == parent.reason and turn.follow_up
