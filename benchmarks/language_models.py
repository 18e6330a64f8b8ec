"""Models and frames of the language benchmarks, and the published procedure over them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model, read_config
from ros_gpt4roi.model.config import LanguageConfig
from ros_gpt4roi.model.preprocess import normalise_boxes, preprocess_frame
from ros_gpt4roi.model.prompt import IMAGE_END, IMAGE_PATCH, IMAGE_START
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.language_format import FLOAT_FORMATS, quantise_language
from ros_gpt4roi.runtime.language_stage import DecodingConfig
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.request import DescriptionRequest
from ros_gpt4roi.runtime.types import Frame, Region
from training.from_scratch.tokenizer import train_tokenizer

_WORDS = ["What is region 1? Describe it. It is a small matte red mug to the left of the large shiny blue bowl."] * 4


def random_model() -> LoadedModel:
    """A Llama of 0.48 B parameters behind the tabletop model's vision stage, with 196 image tokens; random weights.

    Speed does not depend on what the weights are.
    """
    config = read_config(find_model("tabletop"))
    tokenizer = train_tokenizer(_WORDS, 512, config.prompt.template)
    config = dataclasses.replace(
        config, vision=dataclasses.replace(config.vision, tokens="stage3"),
        language=LanguageConfig(dict(
            model_type="llama", hidden_size=2048, intermediate_size=5632, num_hidden_layers=8, num_attention_heads=16,
            num_key_value_heads=16, vocab_size=32000, max_position_embeddings=1024, tie_word_embeddings=True)))
    torch.manual_seed(0)
    loaded = build_model(config, tokenizer)
    loaded.model.eval().requires_grad_(False)
    return loaded


def in_format(loaded: LoadedModel, number_format: str) -> LoadedModel:
    """A copy of an fp32 model with its language model in another number format."""
    model = copy.copy(loaded.model)
    model._modules = {**loaded.model._modules, "language": copy.deepcopy(loaded.model.language)}
    if number_format in FLOAT_FORMATS:
        model.language.to(FLOAT_FORMATS[number_format])
    else:
        quantise_language(model.language, number_format)
    return loaded._replace(model=model)


def noise_frame(regions: int, seed: int = 0) -> Frame:
    """An image of noise, 320×240, with random boxes."""
    random = np.random.default_rng(seed)
    corners = random.uniform((0, 0), (220, 160), (regions, 2))
    sizes = random.uniform(25, 75, (regions, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1).tolist()
    return Frame(random.integers(0, 256, (240, 320, 3), np.uint8),
                 tuple(Region(str(i + 1), tuple(box)) for i, box in enumerate(boxes)), 0, "camera")


def open_pipeline(loaded: LoadedModel, tokens: int, **decoding: int) -> Pipeline:
    """A pipeline that keeps no text and, unless told otherwise, takes no draft: every token is decoded."""
    return Pipeline(loaded, PipelineConfig(description_tokens=tokens, answer_tokens=tokens, reuse_distance=0.0,
                                           decoding=DecodingConfig(**{"draft_tokens": 0, **decoding})))


def describe(pipeline: Pipeline, frame: Frame) -> list[list[int]]:
    """The token ids of every region's description; the frame counts as a new one."""
    request = DescriptionRequest(frame=dataclasses.replace(frame))
    pipeline.begin(request)
    while not request.result:
        pipeline.step()
    return [sequence.generated for sequence in request.sequences]


@torch.inference_mode()
def published_procedure(loaded: LoadedModel, frame: Frame, places: Sequence[int], tokens: int) -> list[list[int]]:
    """Describe regions the published way.

    Each region (1-based places) has a conversation of its own, with the image encoded and the whole prompt computed
    again, decoded by transformers' `generate` at batch 1.

    Returns:
        Token ids of the descriptions.
    """
    model, config = loaded.model, loaded.config
    height, width = frame.image.shape[:2]
    boxes = normalise_boxes(np.array([region.box for region in frame.regions], np.float32), width, height)
    pipeline = open_pipeline(loaded, tokens)
    stops = sorted(pipeline.language.generator.stop_ids)
    texts = []
    for place in places:
        image = preprocess_frame(frame.image, config.preprocess)
        vision = model.encode(torch.from_numpy(image)[None], torch.from_numpy(boxes)[None])
        question = config.prompt.describe.replace("{region}", f"<region{place}>")
        prompt = loaded.prompts.encode([(question, None)], len(frame.regions), list_regions=True)
        embeddings = model.embed(torch.tensor([prompt.input_ids]), vision, torch.tensor([prompt.region_index]))
        ids = model.language.generate(
            inputs_embeds=embeddings, attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            max_new_tokens=tokens, do_sample=False, eos_token_id=stops or None,
            pad_token_id=loaded.tokenizer.pad_token_id,
            suppress_tokens=loaded.tokenizer.convert_tokens_to_ids([IMAGE_PATCH, IMAGE_START, IMAGE_END]))[0].tolist()
        texts.append(ids[:-1] if ids and ids[-1] in stops else ids)
    return texts
