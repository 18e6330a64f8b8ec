"""Conversation formats of language models, as data: which texts surround a round and which end an answer."""

from __future__ import annotations

from dataclasses import dataclass

from .config import ConfigError

_CURIOUS = ("A chat between a curious {human} and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the {human}'s questions.")


@dataclass(frozen=True)
class Template:
    """The texts around a conversation's parts.

    A conversation is `before_system + system + after_system`, then for every round
    `before_question + question + before_answer + opening + answer + end`.

    Attributes:
        before_system: Text before the system message.
        after_system: Text behind the system message.
        before_question: Text before a question.
        before_answer: Text between a question and its answer.
        end: What the model learns to write when an answer is over.
        between: Stands between two rounds, not learned.
        close: Stands behind the last round, not learned.
        opening: A space that the model has to write itself. A prompt must not end in one: tokenizers join it with the
            word that follows, so a prompt's tokens would not be the beginning of the whole conversation's.
        tokens: Markers that the tokenizer must know as one token each.
        default_system: System message where the model's config has none.
    """

    before_system: str
    after_system: str
    before_question: str
    before_answer: str
    end: str
    between: str = ""
    close: str = ""
    opening: str = ""
    tokens: tuple[str, ...] = ()
    default_system: str = ""


TEMPLATES = {
    # Vicuna v0 as LLaVA v0 and GPT4RoI use it: "### " opens every turn and ends the text.
    "gpt4roi": Template(
        before_system="", after_system="\n\n### ", before_question="Human: ", before_answer="\n### Assistant:",
        opening=" ", end="\n###", between=" ", close=" ", default_system=_CURIOUS.format(human="human")),
    "vicuna_v1": Template(
        before_system="", after_system=" ", before_question="USER: ", before_answer=" ASSISTANT:", opening=" ",
        end="</s>", tokens=("</s>",), default_system=_CURIOUS.format(human="user")),
    "chatml": Template(
        before_system="<|im_start|>system\n", after_system="<|im_end|>\n", before_question="<|im_start|>user\n",
        before_answer="<|im_end|>\n<|im_start|>assistant\n", end="<|im_end|>", between="\n",
        tokens=("<|im_start|>", "<|im_end|>")),
    # For models trained from nothing: every mark is one token.
    "compact": Template(
        before_system="", after_system="\n", before_question="<|user|>", before_answer="<|assistant|>", end="<|end|>",
        tokens=("<|user|>", "<|assistant|>", "<|end|>")),
    "llama3": Template(
        before_system="<|start_header_id|>system<|end_header_id|>\n\n", after_system="<|eot_id|>",
        before_question="<|start_header_id|>user<|end_header_id|>\n\n",
        before_answer="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", end="<|eot_id|>",
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
}


def template(name: str) -> Template:
    """Find a format by its name. Raises ConfigError for an unknown one."""
    try:
        return TEMPLATES[name]
    except KeyError:
        raise ConfigError(f"prompt.template is {name!r}, expected one of {sorted(TEMPLATES)}") from None
