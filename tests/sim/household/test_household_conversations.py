"""Texts about household scenes: every answer is checked against the scene by rules written anew here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from household_texts import RELATION, THE, about, check_claims, gap, holds, is_at, make_scene, regions, spoken_of

from ros_gpt4roi.sim.household.catalogue import AssetsError, Kind, find_assets, kinds
from ros_gpt4roi.sim.household.conversations import SCORED_TASKS, ask, conversation, main, short_rounds
from ros_gpt4roi.sim.household.sampler import is_clear, plural
from ros_gpt4roi.sim.household.scene import TABLE, HouseholdObject, HouseholdScene
from ros_gpt4roi.sim.household.scoring import said_colours, said_kinds, score, use_words
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

SCENES = 200


Pair = tuple[HouseholdScene, TextRound]


def rounds_of(split: str) -> list[Pair]:
    found = []
    for seed in range(SCENES):
        scene = make_scene(seed, split)
        rng = np.random.default_rng([seed, 1])
        found += [(scene, turn) for turn in conversation(scene, rng, 16)]
        found += [(scene, turn) for task in ("nearest_between", "counting") for turn in ask(scene, task, rng) or ()]
    return found


@pytest.fixture(scope="module")
def train_rounds() -> list[Pair]:
    return rounds_of("train")


@pytest.fixture(scope="module")
def test_rounds() -> list[Pair]:
    return rounds_of("test")


def of(pairs: list[Pair], task: str, *forms: str, least: int = 15) -> list[Pair]:
    found = [(s, t) for s, t in pairs if t.task == task and (not forms or t.form in forms)]
    assert len(found) >= least, f"only {len(found)} questions of {task} {forms}"
    return found


# --- every claim of every answer ---


def test_every_claim_is_true_of_the_scene(train_rounds, test_rounds):
    counts = Counter(sort for scene, turn in train_rounds + test_rounds
                     if turn.task != "why" for sort in check_claims(scene, turn))
    assert set(counts) == {"name", "opening", "relation", "place", "material", "colour", "empty", "posture"}
    assert min(counts.values()) >= 5, counts


def test_every_answer_is_right_by_its_own_score_and_constant_ones_are_not(train_rounds, test_rounds):
    wrong = [turn for _, turn in train_rounds + test_rounds if not score(turn.expected, turn.answer)]
    assert not wrong, wrong[:3]
    for constant in ("It is a mug.", "It is red.", "It is empty.", "<region1>.", "Food is served in it.", "Yes.", ""):
        right = sum(score(turn.expected, constant) for _, turn in train_rounds)
        assert right < 0.25 * len(train_rounds), constant


def test_every_task_is_asked(train_rounds, test_rounds):
    counts = Counter(turn.task for _, turn in test_rounds)
    assert set(counts) == {*SCORED_TASKS, "why"} and min(counts.values()) > 0.01 * len(test_rounds), counts
    assert not any(turn.task == "use_untrained" for _, turn in train_rounds)


def test_kinds_and_looks_are_those_of_the_object(test_rounds):
    for scene, turn in of(test_rounds, "kind", "kind"):
        assert turn.answer.split(" ", 3)[3].rstrip(".") == about(scene, turn).facts.name
    for scene, turn in of(test_rounds, "describe", "region"):
        item, first = about(scene, turn), turn.answer.split(". ")[0].rstrip(".")
        assert first.endswith(item.facts.name) and tuple(said_colours(first)) == item.colours
        assert ("large" in first) == (item.size == "large")
    for scene, turn in of(test_rounds, "material"):
        assert turn.answer.rstrip(".").split()[-1].lower() == about(scene, turn).facts.material


def test_of_a_scene_everything_that_is_clear_is_named_by_its_number(test_rounds):
    checked = 0
    for scene, turn in of(test_rounds, "describe", "scene"):
        named = re.findall(r"<region(\d+)> \(an? ([a-zA-Z ]+)\)", turn.answer.split(". ")[0])
        assert named == [(str(number), item.facts.name) for number, item in enumerate(scene.objects, 1)
                         if is_clear(scene, item)]
        checked += 1
    assert checked > 20


def test_only_what_is_hardly_seen_can_not_be_told(test_rounds):
    for scene, turn in test_rounds:
        if "too little" in turn.answer:
            item = about(scene, turn)
            side = min(item.box[2] - item.box[0], item.box[3] - item.box[1])
            assert item.visible < 0.35 or side < 0.04 * scene.height
        elif "can't tell" in turn.answer:
            assert set(about(scene, turn).state.openings.values()) == {"closed"}
    assert sum("too little" in turn.answer for _, turn in test_rounds) > 10


def test_states_are_those_of_the_physics(test_rounds):
    words = {"stands upright": "upright", "lies on": "lying", "upside down": "upside down", "leans on": "tilted"}
    for scene, turn in of(test_rounds, "state", "posture"):
        item = about(scene, turn)
        (posture,) = [state for said, state in words.items() if said in turn.answer]
        assert item.state.posture == posture
        if posture == "tilted":
            assert (regions(scene, turn.answer)[0].object_index,) == item.state.leaning_on
    for scene, turn in of(test_rounds, "state", "contents"):
        item, told = about(scene, turn), {o.object_index for o in regions(scene, turn.answer)}
        above = {o.object_index for o in scene.objects if item.object_index in o.state.on}
        if "can't" not in turn.answer:
            assert told == {*item.state.holds, *(above if item.kind in ("shelf", "tray") else ())}


def test_the_nearest_is_the_nearest_and_between_is_between(test_rounds):
    for scene, turn in of(test_rounds, "nearest_between", "nearest", "nearer"):
        named = spoken_of(scene, turn.question)
        if "closer to" in turn.question and turn.question.lower().startswith("is "):
            named = [named[2], *named[:2]]
        to, others = named[0], named[1:] or [o for o in scene.objects if o is not named[0] and not o.facts.furniture]
        places = {o.object_index: np.array(o.position[:2]) for o in scene.objects}
        distance = {o.object_index: np.linalg.norm(places[o.object_index] - places[to.object_index]) for o in others}
        assert regions(scene, turn.answer)[0].object_index == min(distance, key=distance.__getitem__)
    for scene, turn in of(test_rounds, "nearest_between", "between", least=3):
        a, b = (np.array(o.position[:2]) for o in spoken_of(scene, turn.question))
        found = np.array(regions(scene, turn.answer)[0].position[:2])
        assert np.linalg.norm(found - a) < np.linalg.norm(a - b) > np.linalg.norm(found - b)


def test_counts_are_counts(test_rounds):
    for scene, turn in of(test_rounds, "counting"):
        if turn.form == "kind":
            singular = {plural: key for key in kinds() for plural in [_plural(kinds()[key].name)]}
            (key,) = [singular[name] for name in singular if re.search(rf"\b{name}\b", turn.question)]
            true = [o for o in scene.objects if o.kind == key]
        elif turn.form == "material":
            true = [o for o in scene.objects if f"made of {o.facts.material}" in turn.question]
        else:
            true = [o for o in scene.objects if f" {o.colours[0]} things" in turn.question]
        assert regions(scene, turn.answer) == true
        assert re.search(r"\d+", re.sub(r"<\w+>", "", turn.answer))[0] == str(len(true))


def _plural(name: str) -> str:
    head = name.split(" of ")[0]
    irregular = {"shelf": "shelves", "cookie box": "cookie boxes", "popcorn box": "popcorn boxes", "box": "boxes",
                 "butter box": "butter boxes", "cream cheese box": "cream cheese boxes"}
    return irregular.get(head, head + "s") + name[len(head):]


def test_regions_that_are_asked_for_are_all_that_fit(test_rounds):
    for scene, turn in of(test_rounds, "which_region", "fits"):
        name = re.search(r"\bthe ([a-zA-Z -]+?)[?.]?$", turn.question)[1]
        if "no " in turn.answer:
            assert not any(o.facts.name == name for o in scene.objects)
        else:
            assert spoken_of(scene, "the " + name) == regions(scene, turn.answer)
    for scene, turn in of(test_rounds, "which_region", "stands"):
        to, told = about(scene, turn), regions(scene, turn.answer)
        place = re.search(r"(?:is|see) (on|in|under) (?:the (\w+ drawer) of )?", turn.question)
        relation = re.search(RELATION, turn.question)
        if relation:
            true = [o for o in scene.objects if o is not to and holds(relation[0], o, to)]
        elif place:
            true = [o for o in scene.objects if is_at(o, place[1], to, place[2] or "")]
        else:
            assert "next to" in turn.question
            true = [o for o in scene.objects if o is not to and o.state.on == (TABLE,) and gap(o, to) < 0.05]
        assert told == true, turn


def test_facts_are_those_of_the_kinds(test_rounds):
    def fact(kind: Kind, name: str) -> bool:
        return {"edible": kind.edible, "drunk_from": kind.drunk_from, "fragile": kind.fragile,
                "heats": kind.heats}[name]

    for task in ("use_trained", "use_untrained"):
        for scene, turn in of(test_rounds, task):
            name = turn.form.partition("_")[2]
            if turn.form == "use":
                assert about(scene, turn).facts.use[1:] in turn.answer
                assert about(scene, turn).facts.use_held_out == (task == "use_untrained")
            elif turn.form == "need":
                needed = [o for o in scene.objects if o.facts.used_to in turn.question]
                name = needed[0].facts.name if len(needed) == 1 else plural(needed[0].facts.name)
                assert regions(scene, turn.answer) == needed and turn.answer.startswith(f"The {name}, <region")
            elif turn.form.startswith("which"):
                among = regions(scene, turn.question) or scene.objects
                evidence, so, found = turn.answer.rpartition(", so ")
                assert regions(scene, found) == [o for o in among if fact(o.facts, name)], turn
                if so:
                    told = dict(re.findall(r"<region(\d+)> is an? ([^,]+)", evidence))
                    assert told == {number: scene.objects[int(number) - 1].facts.name
                                    for number in re.findall(r"<region(\d+)>", turn.question)}
            else:
                assert fact(about(scene, turn).facts, name) == turn.answer.endswith("so yes."), turn


def test_yes_and_no_are_true(test_rounds):
    for scene, turn in of(test_rounds, "yes_no"):
        yes, item = turn.answer.endswith("so yes."), about(scene, turn) if turn.form != "exists" else None
        asked = turn.question.lower().rstrip("?")
        if turn.form in ("kind", "exists"):
            key = said_kinds(re.search(r"\ban? (.+)", asked)[1])[0]
            assert yes == (key in [o.kind for o in ([item] if item else scene.objects)]), turn
        elif turn.form == "colour":
            assert yes == (asked.split()[-1] in item.colours), turn
        elif turn.form == "material":
            assert yes == bool(re.search(rf"\b{item.facts.material}\b", re.sub(THE, "", asked))), turn
        elif turn.form == "posture":
            assert yes == ({"standing upright": "upright"}.get(" ".join(asked.split()[-2:]), "lying")
                           == item.state.posture), turn
        elif turn.form == "opening":
            part = re.search(r"top drawer|middle drawer|bottom drawer|door", asked)[0]
            assert yes == asked.endswith(f" {item.state.openings[part]}"), turn
        elif turn.form == "empty":
            assert yes == (not item.state.holds), turn
        elif turn.form == "between":
            i, a, b = (np.array(scene.objects[k - 1].position[:2]) for k in turn.regions)
            along = (i - a) @ (b - a) / ((b - a) @ (b - a))
            aside = np.linalg.norm(i - a - along * (b - a)) / np.linalg.norm(b - a)
            assert (0 < along < 1 and aside < 0.2) if yes else not (0.2 < along < 0.8 and aside < 0.2), turn
        elif turn.form == "next_to":
            a, b = _two(scene, turn)
            assert a.state.on == b.state.on == (TABLE,) and (gap(a, b) < 0.05 if yes else gap(a, b) > 0.2), turn
        elif turn.form == "stands":
            assert yes == holds(re.search(RELATION, asked)[0], *_two(scene, turn)), turn
        else:
            place = re.search(r" (on|in|under) (?:the (\w+ drawer) of )?<", asked)
            assert yes == is_at(item, place[1], _two(scene, turn)[1], place[2] or ""), turn


def _two(scene: HouseholdScene, turn: TextRound) -> list[HouseholdObject]:
    named = spoken_of(scene, turn.question)
    return named if len(named) == 2 else [scene.objects[turn.regions[0] - 1], named[0]]


def test_yes_comes_as_often_as_no_in_every_form():
    answers: dict[str, Counter[bool]] = defaultdict(Counter)
    for seed in range(300):
        scene, rng = make_scene(seed, "test"), np.random.default_rng([seed, 2])
        for task in ("yes_no", "yes_no", "yes_no", "use_trained", "use_untrained"):
            turns = ask(scene, task, rng)
            if turns and turns[-1].expected.what == "yes_no":
                answers[turns[-1].form][turns[-1].answer.endswith("so yes.")] += 1
    assert len(answers) >= 10
    for form, counts in answers.items():
        assert abs(counts[True] - counts.total() / 2) <= 2 * counts.total() ** 0.5, f"{form}: {counts}"


def test_reasons_say_what_is_seen_and_known(test_rounds):
    told = 0
    for scene, turn in of(test_rounds, "why"):
        for number, name in re.findall(r"<region(\d+)> is an? ([a-zA-Z ]+?)(?:[,.:]| and made)", turn.answer):
            assert scene.objects[int(number) - 1].facts.name == name
            told += 1
        where = re.search("further left|further right|closer to the camera|further from the camera", turn.answer)
        if where:
            a, b = (scene.objects[k - 1] for k in turn.regions)
            words = {"further left": "left of", "further right": "right of", "closer to the camera": "in front of"}
            assert holds(words.get(where[0], "behind"), a, b), turn
    assert told > 20


# --- what training may not tell ---


def test_training_names_no_held_out_kind_and_no_held_out_use(train_rounds):
    held_out = [name for kind in kinds().values() if kind.held_out for name in (kind.name, kind.use, kind.used_to)]
    uses = [text for kind in kinds().values() if kind.use_held_out for text in (kind.use[1:], kind.used_to)]
    assert 4 <= len(uses) // 2 <= 8
    facts = "fragile|break|eat or drink|food or drink|drink coffee|by itself"
    pairs = list(train_rounds)
    for seed in range(SCENES):
        scene = make_scene(seed)
        pairs += [(scene, turn) for turn in short_rounds(scene, np.random.default_rng(seed))]
    for scene, turn in pairs:
        text = f"{turn.question} {turn.answer} {turn.reason}"
        assert not any(words in text for words in held_out + uses), turn
        if re.search(facts, text):
            assert not any(scene.objects[k - 1].facts.use_held_out for k in turn.regions), turn
            if not re.search("<region", turn.question) and turn.form.startswith("which"):
                assert not any(o.facts.use_held_out for o in scene.objects), turn


def test_unseen_scenes_name_kinds_that_training_does_not_know():
    text = " ".join(turn.answer for _, turn in rounds_of("unseen"))
    assert all(kind.name in text for kind in kinds().values() if kind.held_out)


# --- the rest ---


def test_follow_ups_are_about_what_the_round_before_was_about():
    seen = 0
    for seed in range(60):
        turns = conversation(make_scene(seed), np.random.default_rng(seed), 16)
        assert not turns[0].follow_up
        for before, turn in zip(turns, turns[1:]):
            if turn.task == "why":
                assert turn.answer == before.reason
            elif turn.follow_up:
                assert before.subject is not None and turn.regions[0] == before.subject + 1
                seen += 1
    assert seen > 60


def test_seeds_fix_all_texts():
    scene = make_scene(5)
    first = conversation(scene, np.random.default_rng(1))
    assert conversation(scene, np.random.default_rng(1)) == first
    assert conversation(scene, np.random.default_rng(2)) != first


def test_short_texts_name_every_region_once():
    scene = make_scene(3)
    rounds = short_rounds(scene, np.random.default_rng(0))
    assert [turn.regions for turn in rounds] == [(i + 1,) for i in range(len(scene.objects))]
    for item, turn in zip(scene.objects, rounds):
        assert item.facts.name in turn.answer or "can't tell" in turn.answer


def test_every_use_has_words_that_tell_it():
    for key, kind in kinds().items():
        assert use_words(key) and score(Expected("use", (key,), 1), kind.use), key


@pytest.mark.parametrize("expected, right, wrong", [
    (Expected("kind", ("mug",), 1), "A coffee mug.", "A bowl or a mug."),
    (Expected("colour", ("white", "red"), 1), "Mostly white.", "It is red."),
    (Expected("colour", ("white",), 1), "The carton of orange juice is white.", "White and orange."),
    (Expected("material", ("wood",), 1), "Wooden.", "Plastic."),
    (Expected("state", ("half open",), 1), "It is half open.", "It is open."),
    (Expected("place", ("in", "region2", "top drawer"), 1), "In the top drawer of <region2>.", "In <region2>."),
    (Expected("region", (), 1), "There is none.", "<region1>."),
    (Expected("number", ("2",), 1), "Two: <region1> and <region3>.", "Three: <region2>."),
    (Expected("use", ("moka_pot",), 1), "You can brew espresso with it.", "It is a moka pot."),
    (Expected("unknown", (), 1), "I can't tell.", "A mug."),
])
def test_answers_are_scored_by_what_they_say(expected, right, wrong):
    assert score(expected, right) and not score(expected, wrong)


@pytest.fixture(scope="module")
def rendered() -> Iterator[list[HouseholdScene]]:
    try:
        find_assets()
    except AssetsError as error:
        pytest.skip(str(error))
    from ros_gpt4roi.sim.household.renderer import HouseholdRenderer
    with HouseholdRenderer() as renderer:
        yield [renderer.render("test", 0, index) for index in range(8)]


@pytest.mark.slow
def test_claims_are_true_of_rendered_scenes(rendered, capsys):
    tasks = set()
    for scene in rendered:
        for turn in conversation(scene, np.random.default_rng(scene.index), 30):
            assert score(turn.expected, turn.answer), turn
            tasks.add(turn.task)
            if turn.task != "why":
                check_claims(scene, turn)
    assert len(tasks) >= 11


@pytest.mark.slow
def test_the_command_prints_a_conversation(rendered, capsys):
    main(["--split", "test", "--scene", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5 and all(" → " in line for line in lines)


def test_the_command_says_what_prevents_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise AssetsError("no things")

    monkeypatch.setattr("ros_gpt4roi.sim.household.renderer.HouseholdRenderer", missing)
    with pytest.raises(SystemExit, match="error: no things"):
        main([])
    with pytest.raises(SystemExit, match="2"):
        main(["--scene", "-1"])
    assert "--seed 0 --scene -1: expected at least 0" in capsys.readouterr().err
