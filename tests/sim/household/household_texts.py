"""Household scenes made without rendering, and what a text says about one, read by rules that no question uses."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.household.catalogue import kinds
from ros_gpt4roi.sim.household.scene import TABLE, HouseholdObject, HouseholdScene, State
from ros_gpt4roi.sim.household.scoring import said_colours
from ros_gpt4roi.sim.text_rounds import TextRound

_NAMES = {name.lower(): key for key, kind in kinds().items() for name in (kind.name, *kind.synonyms)}
THE = re.compile(r"<region(\d+)>|\bthe ((?:(?:red|orange|yellow|green|blue|brown|beige|white|grey|black) )?(?:"
                  + "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True)) + r"))\b", re.I)
RELATION = r"left of|right of|in front of|behind"
FROM_ANOTHER = {"left": "left of", "right": "right of", "in front": "in front of", "behind": "behind"}


def make_scene(seed: int, split: str = "train") -> HouseholdScene:
    """Things in rows on a table, some of them in, on or leaning on others, seen from behind one of its ends."""
    rng = np.random.default_rng(seed)
    allowed = [key for key, kind in kinds().items() if split == "unseen" or not kind.held_out]
    movable = [key for key in allowed if not kinds()[key].furniture]
    chosen = [str(rng.choice([key for key in allowed if kinds()[key].furniture]))] if rng.uniform() < 0.6 else []
    chosen += [str(rng.choice(movable)) for _ in range(rng.integers(4, 11))]
    objects: list[HouseholdObject] = []
    for number, key in enumerate(chosen):
        kind = kinds()[key]
        looked = kind.models[rng.integers(len(kind.models))]
        x, y = rng.uniform(-0.45, 0.45), rng.uniform(-0.4, 0.4)
        wide, high = (0.3, 0.25) if kind.furniture else (rng.uniform(0.06, 0.12), rng.uniform(0.06, 0.16))
        posture = str(rng.choice(["upright", "upright", "lying"]))
        state = State("upright" if kind.furniture or kind.contains else posture, on=(TABLE,))
        parts = {"cabinet": ("top drawer", "middle drawer", "bottom drawer"), "microwave": ("door",)}.get(key, ())
        state = replace(state, openings={part: str(rng.choice(["closed", "half open", "open"])) for part in parts})
        carriers = [o for o in objects if (o.facts.contains or o.facts.furniture or o.kind == "plate")
                    and o.state.on == (TABLE,)]
        if carriers and not kind.furniture and not kind.contains and rng.uniform() < 0.5:
            other = carriers[rng.integers(len(carriers))]
            x, y = other.position[0] + rng.uniform(-0.02, 0.02), other.position[1] + rng.uniform(-0.02, 0.02)
            part = next((part for part, how in other.state.openings.items() if how == "open"), None)
            if other.facts.contains and (part or not other.state.openings):
                state = replace(state, on=(), inside=(other.object_index, part if part and part != "door" else ""))
                held = replace(other.state, holds=(*other.state.holds, number))
                objects[other.object_index] = replace(other, state=held)
            else:
                state = replace(state, on=(other.object_index,))
        elif objects and state.posture == "lying" and not kind.contains and rng.uniform() < 0.3:
            state = replace(state, posture="tilted", leaning_on=(objects[-1].object_index,))
        distance = float(np.hypot(x + 1.2, y))
        scale = 400 / (x + 1.2)
        column, row = 320 - y * scale, 120 + 240 / (x + 1.2) * 0.8
        box = (int(column - wide * scale / 2), int(row - high * scale), int(column + wide * scale / 2) + 1,
               int(row) + 1)
        visible = 1.0 if rng.uniform() < 0.85 else float(rng.uniform(0.25, 0.6))
        objects.append(HouseholdObject(key, looked.colours, looked.size, box, visible, (x, y, high / 2),
                                       (wide, wide, high), distance, number, state))
    scene = HouseholdScene(split, seed, 0, 640, 480, np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.int8),
                           tuple(objects), (-1.2, 0.0, 0.8), 0)
    return permuted(scene, rng)


def spoken_of(scene: HouseholdScene, text: str) -> list[HouseholdObject]:
    """The objects that a text refers to, in order; a phrase must fit exactly one."""
    found = []
    for number, phrase in THE.findall(re.sub(r"(<region\d+>), the [a-z ]+", r"\1 ", text)):
        words = phrase.lower()
        name = max((n for n in _NAMES if words.endswith(n)), key=len, default="")
        colour = words.removesuffix(name).strip()
        fitting = [scene.objects[int(number) - 1]] if number else [
            o for o in scene.objects if o.kind == _NAMES[name] and (not colour or colour in o.colours)]
        assert len(fitting) == 1, f"{phrase!r} in {text!r} fits {len(fitting)} objects"
        found += fitting
    return found


def about(scene: HouseholdScene, turn: TextRound) -> HouseholdObject:
    """What a question about one thing is about."""
    if turn.follow_up:
        return scene.objects[turn.regions[0] - 1]  # that it is what the round before was about has a test of its own
    return spoken_of(scene, re.sub(r"the (top|middle|bottom) drawer of |the door of ", "", turn.question))[0]


def regions(scene: HouseholdScene, text: str) -> list[HouseholdObject]:
    return [scene.objects[int(number) - 1] for number in re.findall(r"<region(\d+)>", text)]


def holds(relation: str, a: HouseholdObject, b: HouseholdObject) -> bool:
    middle_a, middle_b = a.box[0] + a.box[2], b.box[0] + b.box[2]
    return {"left of": middle_a < middle_b, "right of": middle_a > middle_b,
            "in front of": a.distance < b.distance and a.box[3] > b.box[3],
            "behind": a.distance > b.distance and a.box[3] < b.box[3]}[relation]


def is_at(item: HouseholdObject, word: str, other: HouseholdObject | None, part: str = "") -> bool:
    """Whether something is on, in or under another thing (None: the table)."""
    state = item.state
    if other is None:
        return word == "on" and state.on == (TABLE,) and state.inside is None
    inside = state.inside is not None and state.inside[0] == other.object_index and part in ("", state.inside[1])
    if word == "in" or word == "on" and other.kind in ("shelf", "tray") and inside:
        return inside
    return other.object_index in (state.on if word == "on" else state.under)


def gap(a: HouseholdObject, b: HouseholdObject) -> float:
    apart = [max(0.0, abs(a.position[k] - b.position[k]) - (a.extent[k] + b.extent[k]) / 2) for k in (0, 1)]
    return (apart[0] ** 2 + apart[1] ** 2) ** 0.5


def check_claims(scene: HouseholdScene, turn: TextRound) -> set[str]:
    """Re-derives each claim "<regionK> is …" and "It is …" of an answer; returns which sorts it has found."""
    found: set[str] = set()
    body = re.sub(r", so (yes|no)\.$", ".", turn.answer)
    for number, name in re.findall(r"<region(\d+)>(?:, the | \((?:an?|the) )([a-zA-Z ]+?)(?:[,.:)]| and <)", body):
        assert name == scene.objects[int(number) - 1].facts.name, turn
        found.add("name")
    for part in re.split(r"(?<=[.])\s+", body):
        if compared := re.match(r"From (<region\d+>), (it|<region\d+>) is (.+?)\.?$", part):
            item = about(scene, turn) if compared[2] == "it" else regions(scene, compared[2])[0]
            for said in compared[3].split(" and "):
                assert holds(FROM_ANOTHER[said], item, regions(scene, compared[1])[0]), turn
            found.add("relation")
            continue
        if beside := re.match(rf"(<region\d+>)(?:, the [a-zA-Z ]+,)? is ({RELATION}) it\.$", part):
            assert holds(beside[2], regions(scene, beside[1])[0], about(scene, turn)), turn
            found.add("relation")
            continue
        subject = part.split(" is ")[0]
        if not subject.startswith(("It", "The ", "<region")):
            continue
        item = regions(scene, subject)[0] if "<region" in subject else about(scene, turn)
        opened = re.findall(r"(top drawer|middle drawer|bottom drawer|door)(?: of <region\d+>)? is "
                            r"(half open|open|closed)", part)
        for piece, how in opened:
            assert item.state.openings[piece] == how or piece not in item.state.openings, turn
            owner = regions(scene, part)[-1] if "of <region" in part else item
            assert owner.state.openings[piece] == how, turn
            found.add("opening")
        claim = re.match(r"(?:It|<region\d+>(?: \(the [a-z ]+\))?) is (.+?)\.?$", part)
        if not claim or opened:
            continue
        said = claim[1]
        for relation in re.findall(RELATION, said):
            assert holds(relation, item, regions(scene, said)[0]), turn
            found.add("relation")
        place = re.match(r"(on|in|under) (?:the (\w+ drawer) of )?(the table|<region\d+>)", said)
        if place:
            other = None if place[3] == "the table" else regions(scene, said)[0]
            assert is_at(item, place[1], other, place[2] or ""), turn
            found.add("place")
        if re.match(r"an? ", said):
            name = re.split(r"[,:]", said.partition(" ")[2])[0]
            assert name == item.facts.name, turn
            found.add("name")
        made = re.search(r"made of (\w+)", said)
        if made:
            assert made[1] == item.facts.material, turn
            found.add("material")
        colours = re.match(r"(?:mostly )?((?:\w+)(?:, with some \w+| and \w+)?)(?: and made of \w+)?$", said)
        if colours and (named := said_colours(colours[1])):
            assert tuple(named) == item.colours, turn
            found.add("colour")
        for how in ("half open", "open", "closed"):
            if said == how:
                assert set(item.state.openings.values()) == {how}, turn
                found.add("opening")
                break
        if said == "empty":
            assert not item.state.holds, turn
            found.add("empty")
        if said == "lying on its side":
            assert item.state.posture == "lying", turn
            found.add("posture")
        if said == "standing upright":
            assert item.state.posture == "upright", turn
            found.add("posture")
    return found
