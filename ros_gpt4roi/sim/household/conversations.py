"""Texts about a household scene, from ground truth only: names, and conversations of questions and true answers.

Regions are written ``<regionK>``, K the 1-based place in ``scene.objects``. That place must say nothing about the
object, so shuffle the objects first (`ros_gpt4roi.sim.conversations.permuted`). A scene and a random generator fix
every text. A scene needs no pixels, but its camera's position.

    python -m ros_gpt4roi.sim.household.conversations --split test --seed 0 --scene 3

renders a scene and prints the conversation about it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ros_gpt4roi.sim.conversations import ask_why, compose, permuted
from ros_gpt4roi.sim.studio import RendererError
from ros_gpt4roi.sim.text_rounds import TextRound

from . import questions, uses, yes_no
from .catalogue import AssetsError
from .questions import Form
from .relations import HouseholdRelations
from .sampler import HouseholdSampler
from .scene import SPLITS, HouseholdScene
from .scoring import meaning
from .wordings import AND_ITS

#: The forms of question of each task; one is drawn at random, the next where the scene does not allow it.
TASKS: dict[str, tuple[Form, ...]] = {
    "kind": (questions.kind, questions.hidden),
    "colour": (questions.colour, questions.looks),
    "material": (questions.material,),
    "state": (questions.how_it_stands, questions.opening, questions.contents),
    "relations": (questions.where, questions.pair, questions.pair),
    "nearest_between": (questions.nearest, questions.between),
    "counting": (questions.counting,),
    "which_region": (questions.fits, questions.which_stands, questions.which_stands, questions.in_state),
    "yes_no": yes_no.FORMS,
    "use_trained": (uses.use, uses.need, uses.which_fact, uses.fact),
    "use_untrained": (uses.use, uses.need, uses.which_fact, uses.fact),
    "describe": (questions.short, questions.describe, questions.scene),
}
#: How often each task is drawn as the next independent question of a conversation.
WEIGHTS: dict[str, float] = {
    "kind": 1.5, "colour": 1.0, "material": 1.0, "state": 2.0, "relations": 3.0, "nearest_between": 1.5,
    "counting": 1.5, "which_region": 3.0, "yes_no": 3.0, "use_trained": 2.0, "use_untrained": 0.5, "describe": 2.0,
}
#: The tasks that `ask` knows, and that scores are given for.
SCORED_TASKS: tuple[str, ...] = tuple(WEIGHTS)

_ABOUT_IT: tuple[Form, ...] = (
    questions.colour, questions.material, uses.use, questions.where, questions.how_it_stands, questions.opening,
    questions.pair, yes_no.is_colour, yes_no.is_material, yes_no.is_state, yes_no.stands, yes_no.is_placed)


def short_rounds(scene: HouseholdScene, rng: np.random.Generator) -> list[TextRound]:
    """One short description a region, or that it can't be told: the texts of training stage 1.

    Args:
        scene: The scene.
        rng: Draws the wordings.

    Returns:
        A round an object, in the order of `scene.objects`.
    """
    sampler = HouseholdSampler(scene, rng, HouseholdRelations(scene), regions_only=True)
    rounds = []
    for i in range(sampler.count):
        sampler.it = None
        rounds.append(questions.named(sampler, i, questions.question(sampler, "short", sampler.number(i))))
    return rounds


def ask(scene: HouseholdScene, task: str, rng: np.random.Generator, *, regions_only: bool = False,
        described: frozenset[int] = frozenset(), relations: HouseholdRelations | None = None,
        ) -> tuple[TextRound, ...] | None:
    """One question of ``task`` (one of SCORED_TASKS, else KeyError).

    Args:
        scene: The scene.
        task: What is asked.
        rng: Draws the question.
        regions_only: Refer to objects by their regions and never by what they look like.
        described: 0-based objects not to ask about where others are left.
        relations: Of that scene, where they are at hand.

    Returns:
        The question alone. None where the scene allows no such question.
    """
    sampler = HouseholdSampler(scene, rng, relations or HouseholdRelations(scene), regions_only=regions_only,
                               described=described)
    if task in ("use_trained", "use_untrained"):
        sampler.among = [i for i in sampler.clear if sampler.use_task(i) == task and sampler.may_tell(i)]
    if not sampler.among:
        return None
    turn = sampler.first(TASKS[task])
    return None if turn is None else (turn,)


def about_it(scene: HouseholdScene, parent: TextRound, rng: np.random.Generator,
             relations: HouseholdRelations | None = None) -> TextRound | None:
    """A question that calls the subject of ``parent`` "it" ("And what is it for?"), or None where none fits.

    Args:
        scene: The scene.
        parent: The round before it.
        rng: Draws the question.
        relations: Of that scene, where they are at hand.
    """
    if parent.subject is None:
        return None
    sampler = HouseholdSampler(scene, rng, relations or HouseholdRelations(scene), it=parent.subject)
    if parent.subject not in sampler.clear:
        return None
    for form in sampler.shuffled(_ABOUT_IT):
        turn = form(sampler)
        if turn is None or (turn.task, turn.form) == (parent.task, parent.form):
            continue
        question = turn.question
        if turn.form in AND_ITS and turn.task != "yes_no" and sampler.coin(0.4):
            question = AND_ITS[turn.form]
        elif sampler.coin():
            question = "And " + question[0].lower() + question[1:]
        return replace(turn, question=question, follow_up=True)
    return None


def conversation(scene: HouseholdScene, rng: np.random.Generator, max_rounds: int = 8) -> list[TextRound]:
    """A conversation about one scene, in which no question comes twice (see `compose`).

    Args:
        scene: The scene.
        rng: Draws the questions.
        max_rounds: Most rounds.

    Returns:
        The rounds; none where nothing can be asked.
    """
    relations = HouseholdRelations(scene)
    return compose(WEIGHTS, lambda task, described: ask(scene, task, rng, described=described, relations=relations),
                   lambda parent: ask_why(parent, rng, meaning),
                   lambda parent: about_it(scene, parent, rng, relations), rng, max_rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Render a scene and print the conversation about it."""
    parser = argparse.ArgumentParser(prog="python -m ros_gpt4roi.sim.household.conversations",
                                     description="render a scene and print the conversation about it")
    parser.add_argument("--split", choices=tuple(SPLITS), default="test", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the scenes (default %(default)s)")
    parser.add_argument("--scene", type=int, default=0, metavar="N", help="its number (default %(default)s)")
    options = parser.parse_args(arguments)
    if min(options.seed, options.scene) < 0:
        parser.error(f"--seed {options.seed} --scene {options.scene}: expected at least 0")
    from .renderer import HouseholdRenderer  # needs MuJoCo and the models, the texts do not
    try:
        with HouseholdRenderer() as renderer:
            scene = renderer.render(options.split, options.seed, options.scene)
    except (AssetsError, RendererError) as error:
        raise SystemExit(f"error: {error}") from error
    rng = np.random.default_rng(np.random.SeedSequence([options.seed, options.scene]))
    for turn in conversation(permuted(scene, rng), rng, 20):
        print(f"{turn.question} → {turn.answer}")


if __name__ == "__main__":
    main()
