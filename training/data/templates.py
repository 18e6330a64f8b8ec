"""The wording of questions, several ways each, so that a model learns what is asked and not one sentence.

`{regions}` stands for a list of region references, `{name}` for a class name with its article.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Stage 1 tells the task once, then asks with nothing but the region token.
CATEGORY_TASK = (
    "Every question below is one region of the image. Answer it with the name of the category that fits the object "
    "in that region and with nothing else. The categories are {names}.\n"
)
NAME_TASK = (
    "Every question below is one region of the image. Answer it with the name of the object in that region and with "
    "nothing else.\n"
)
EXPRESSION_TASK = (
    "Every question below is one region of the image that holds one object. Answer with a short expression that "
    "singles the object out: what it is, how it looks, where it is in the image and next to which other objects.\n"
)
APPEARANCE_TASK = (
    "Every question below is one region of the image that holds one object. Answer with a short expression that "
    "singles the object out: what it is, how it looks and what it is next to, but not where in the image it is.\n"
)

DESCRIBE_ONE = (
    "Describe {regions} in detail.",
    "What can be seen in {regions}?",
    "Tell me about {regions}.",
    "What is in {regions}? Please be specific.",
    "Give a detailed description of {regions}.",
    "Look at {regions}. What do you see there?",
    "How would you describe {regions}?",
    "Please describe what {regions} shows.",
    "What does {regions} contain? Describe it with its details.",
    "I want to know more about {regions}. What is it like?",
    "Could you describe {regions} for me?",
    "Say in a sentence what {regions} shows.",
    "What is going on in {regions}?",
    "Explain what is shown at {regions}.",
    "Put {regions} into words, please.",
    "What details can you make out in {regions}?",
    "Could you tell me what {regions} is and what it looks like?",
    "Please write a description that fits {regions}.",
    "What would you say about the part of the image marked {regions}?",
    "Take a close look at {regions} and describe it.",
)
NAME_ONE = (
    "What is {regions}?",
    "What is the object in {regions}?",
    "Which thing is {regions}?",
    "What do you call what is in {regions}?",
    "Name {regions}.",
    "Say what {regions} is.",
)
ATTRIBUTE_OF_ONE = (
    "What is the {name} of {regions}?",
    "Tell me the {name} of {regions}.",
    "Which {name} does {regions} have?",
    "What {name} has {regions}?",
)
DESCRIBE_MANY = (
    "Describe the image with everything in {regions}.",
    "What do {regions} show together? Describe it in detail.",
    "Give a description of the scene that covers {regions}.",
    "Please describe {regions} in one text.",
    "How would you describe what is in {regions}?",
    "Tell me what is happening with {regions}.",
    "Look at {regions}. What do you see?",
    "Write a caption that mentions what is in {regions}.",
    "What is going on in the areas {regions}?",
    "Explain what {regions} show and how they belong together.",
    "Could you describe the marked areas {regions}?",
    "I marked {regions}. Please describe what they show.",
    "Put what is in {regions} into words.",
    "Describe the scene. Pay attention to {regions}.",
    "What can you tell me about {regions}?",
    "Say in a sentence or two what {regions} show.",
    "Please summarise what can be seen in {regions}.",
    "What would a caption say that covers {regions}?",
    "Give me the details of {regions}.",
    "Which scene do {regions} make up?",
)
WHICH_PHRASE = (
    "Which words of your description stand for {regions}?",
    "Which part of your description is about {regions}?",
    "What did you call {regions} in your description?",
    "Where in your description do you speak of {regions}?",
    "Which phrase of yours belongs to {regions}?",
    "In your description, what is {regions}?",
    "Name the part of your description that fits {regions}.",
    "Which of your words describe {regions}?",
    "What does your description say {regions} is?",
    "Quote the words of your description that mean {regions}.",
)
WHY = (
    "Why?",
    "Why do you think so?",
    "How do you know?",
    "What makes you say that?",
    "What is your reason?",
    "Can you explain why?",
    "How did you come to that answer?",
    "What in the image tells you so?",
    "Please give your reasons.",
    "What supports this?",
    "What do you base that on?",
    "Why is that?",
    "What is the evidence for it?",
    "Could you justify your answer?",
    "Tell me why you believe this.",
    "What leads you to that conclusion?",
    "And why?",
    "Explain your answer, please.",
)
LISTED = (
    "The image shows {regions}. ",
    "There are {regions}. ",
    "Given {regions}: ",
    "Consider {regions}. ",
    "Look at {regions}. ",
    "{regions} are marked in the image. ",
)
IS_THERE = (
    "Is there {name} in the image?",
    "Can you see {name}?",
    "Does the image show {name}?",
    "Is {name} visible here?",
    "Is {name} part of this scene?",
    "Do you see {name} in this picture?",
    "Would you say there is {name} in this photo?",
    "Tell me whether the image contains {name}.",
    "Is {name} anywhere in the picture?",
    "Could you check for {name} in the image?",
)
THERE_IS = (
    "Yes, there is {name} in the image.",
    "Yes, the image shows {name}.",
    "Yes, {name} can be seen.",
    "Yes, I see {name}.",
    "Yes, {name} is visible.",
    "Yes, the picture contains {name}.",
)
THERE_IS_NOT = (
    "No, there is no {bare} in the image.",
    "No, the image does not show {name}.",
    "No, I don't see {name}.",
    "No, there is no {bare} to be seen.",
    "No, the picture contains no {bare}.",
    "No, no {bare} is visible here.",
)
# The multiple-choice form of VCR and Visual-7W; letters are answered in brackets.
CHOOSE_ANSWER = (
    "{regions} are the marked areas of the image. Choose the right answer to the question from the four options and "
    "reply with its letter only.\n{question}\n{options}"
)
CHOOSE_RATIONALE = (
    "{regions} are the marked areas of the image. A question and its right answer are given. Choose from the four "
    "options the rationale that explains the answer and reply with its letter only.\n"
    "Question: {question}\nAnswer: {answer}\n{options}"
)
LETTERS = "ABCD"


def pick(rng: np.random.Generator, wordings: Sequence[str], **values: str) -> str:
    """One of ``wordings``, filled in."""
    return wordings[int(rng.integers(len(wordings)))].format(**values)


def region_list(numbers: Sequence[int]) -> str:
    """"<region1>, <region2>" for 1-based region numbers."""
    return ", ".join(f"<region{number}>" for number in numbers)


def with_article(name: str) -> str:
    """"a dog", "an owl": by the first letter, which is what class names need."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def options_text(options: Sequence[str]) -> str:
    """"(A) …" to "(D) …", a line each."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))
