"""How things are asked about in the household: the wordings of each question, and the words of answers.

{0}, {1} and {2} stand for what is asked about: a region, a phrase that fits only one object, or "it".
"""

from __future__ import annotations

#: The answer where too little of a thing is seen, and how it begins wherever something cannot be told.
UNKNOWN = "I can't tell"
HIDDEN = f"{UNKNOWN}: too little of it can be seen."

QUESTIONS: dict[str, tuple[str, ...]] = {
    "short": ("What is {0}?", "Name {0}.", "What do you see in {0}?"),
    "kind": ("What is {0}?", "What kind of thing is {0}?", "What would you call {0}?", "What am I looking at in {0}?"),
    "colour": ("What colour is {0}?", "What color is {0}?", "Which colours does {0} have?"),
    "material": ("What is {0} made of?", "Which material is {0} made of?", "What material is {0}?"),
    "looks": ("What does {0} look like?", "How does {0} look?"),
    "posture": ("How does {0} stand?", "Is {0} standing or lying?", "Is {0} upright?", "How is {0} placed?"),
    "opening": ("Is {0} open or closed?", "Is {0} open?", "How far open is {0}?"),
    "drawers": ("Which drawers of {0} are open?", "How far open are the drawers of {0}?"),
    "contents": ("What is in {0}?", "Is there anything in {0}?", "Does {0} hold anything?"),
    "contents_on": ("What is on {0}?", "Is there anything on {0}?", "Does anything stand on {0}?"),
    "where": ("Where is {0}?", "Where does {0} stand?", "On what, or in what, is {0}?"),
    "side": ("Is {0} left or right of {1}?", "On which side of {1} is {0}, left or right?"),
    "depth": ("Is {0} in front of or behind {1}?", "Is {0} nearer to the camera than {1}, or further away?"),
    "from": ("Where is {0} from {1}?", "How does {0} stand to {1}?"),
    "nearest": ("What is nearest to {0}?", "Which region is closest to {0}?", "What stands closest to {0}?"),
    "nearer": ("Which is closer to {0}: {1} or {2}?", "Is {1} or {2} closer to {0}?"),
    "between": ("What is between {0} and {1}?", "Which region stands between {0} and {1}?"),
    "count": ("How many {0} are there?", "How many {0} do you see?", "Count the {0}."),
    "fits": ("Which region is the {0}?", "Which is the {0}?", "Find the {0}.", "Show me the {0}.", "Point at the {0}."),
    "stands": ("What is {1} {0}?", "Which region is {1} {0}?", "What do you see {1} {0}?"),
    "in_state": ("Which thing is {0}?", "Which region is {0}?", "Show me what is {0}."),
    "need": ("What would I need to {0}?", "Which region could I use to {0}?", "I want to {0}. What do I take?"),
    "use": ("What is {0} for?", "What is {0} used for?", "What would I use {0} for?", "What can I do with {0}?"),
    "describe": ("Describe {0}.", "Tell me about {0}.", "What is {0}, and where is it?", "Describe {0} in detail."),
    "scene": ("What is on the table?", "Describe the scene.", "What do you see?", "What is in the picture?"),
    "is_kind": ("Is {0} {1}?", "Would you say {0} is {1}?"),
    "is_colour": ("Is {0} {1}?", "Would you say {0} is {1}?"),
    "is_material": ("Is {0} made of {1}?", "Would you say {0} is made of {1}?"),
    "is_state": ("Is {0} {1}?",),
    "is_there": ("Is {0} {1}?", "Would you say {0} is {1}?"),
    "exists": ("Is there {0} here?", "Do you see {0}?", "Is there {0} in the picture?"),
}

#: Facts of a kind: which things it is true of, whether it is true of one, and why it is.
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "edible": (("something to eat or drink", "food or drink"),
               ("Is {0} something to eat or drink?", "Is {0} food or drink?"),
               "is something to eat or drink"),
    "drunk_from": (("something I could drink coffee from", "what I would drink coffee from"),
                   ("Could I drink coffee from {0}?", "Would you drink coffee from {0}?"),
                   "is what people drink coffee from"),
    "fragile": (("fragile", "something that would break if it fell"),
                ("Is {0} fragile?", "Would {0} break if it fell?"), "breaks where it falls"),
    "heats": (("something that heats food by itself", "what gets hot by itself"),
              ("Does {0} heat food by itself?", "Does {0} get hot by itself?"), "heats food"),
}
#: Which of some regions, or of all, such a fact is true of.
FACT_OF = ("Which of {1} is {0}?", "Which one of {1} is {0}?")
FACT_OF_ALL = ("Which region is {0}?", "Which thing here is {0}?")

#: Which of some things that are not in the picture serves a purpose.
CHOICES = ("What would I need to {0}: {1}?", "Which could I use to {0}: {1}?", "I want to {0}. Do I take {1}?")

#: How a posture is said, as an answer and in a question.
POSTURES: dict[str, tuple[str, str]] = {
    "standing": ("It stands upright.", "standing upright"), "lying": ("It lies on its side.", "lying on its side"),
    "upside down": ("It stands upside down.", "upside down"), "leaning": ("It leans on {0}.", "leaning on something"),
}
#: Follow-ups that only name what they ask for.
AND_ITS = {"colour": "And its colour?", "material": "And what is it made of?", "use": "And what is it for?",
           "where": "And where is it?"}
#: Names that are said after "the" although another kind could be meant, or that are plurals.
AMBIGUOUS = frozenset({"bottle", "dish", "rack", "drawers", "cookies", "pan", "tray", "cabinet"})
