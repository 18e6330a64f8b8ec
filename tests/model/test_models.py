"""Any encoder and any language model: tiny random ones learn one step and generate, and nothing knows a size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_fixtures import CLIP, TEXTS, tiny_config

from ros_gpt4roi.engine.export import VisionNetwork
from ros_gpt4roi.model.checkpoint import build_model, load_checkpoint, save_checkpoint
from ros_gpt4roi.model.config import (
    ConfigError,
    DeformableConfig,
    FocalConfig,
    LanguageConfig,
    PreprocessConfig,
    RegionConfig,
    RoIAlignConfig,
    VisionConfig,
)
from ros_gpt4roi.model.gpt4roi import VisionOutput
from training.from_scratch.tokenizer import train_tokenizer

VIT_LEVELS = dict(levels=(-4, -3, -2, -1), tokens=-2)
STAGES = dict(levels=("stage1", "stage2", "stage3", "stage4"), tokens="stage3")
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
ENCODERS = {
    "clip": (VisionConfig(encoder=CLIP, **VIT_LEVELS), 32, 16),
    "clip resized": (VisionConfig(encoder=CLIP, interpolate_positions=True, **VIT_LEVELS), 48, 36),
    "clip pooled": (VisionConfig(encoder=CLIP, token_grid=2, **VIT_LEVELS), 32, 4),
    "siglip": (VisionConfig(encoder=SIGLIP, **VIT_LEVELS), 32, 16),
    "siglip resized": (VisionConfig(encoder=SIGLIP, interpolate_positions=True, **VIT_LEVELS), 40, 25),
    "siglip2": (VisionConfig(encoder={**{k: v for k, v in CLIP.items() if k != "image_size"}, "num_patches": 16,
                                      "model_type": "siglip2_vision_model"}, **VIT_LEVELS), 48, 36),
    "resnet": (VisionConfig(encoder=dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 8, 12, 16],
                                         depths=[1, 1, 1, 1], layer_type="basic"), **STAGES), 64, 16),
    "convnext": (VisionConfig(encoder=dict(model_type="convnext", hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1]),
                              **STAGES), 64, 16),
    "swin": (VisionConfig(encoder=dict(model_type="swin", image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1],
                                       num_heads=[1, 1, 2, 2], window_size=2), **STAGES), 64, 16),
}
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=512)
LANGUAGES = {
    "llama": dict(model_type="llama", **SIZES),
    "llama tied": dict(model_type="llama", tie_word_embeddings=True, **SIZES),
    "qwen3": dict(model_type="qwen3", head_dim=8, tie_word_embeddings=True, **SIZES),
    "smollm3": dict(model_type="smollm3", bos_token_id=0, eos_token_id=0, **SIZES),
    "mistral": dict(model_type="mistral", **SIZES),
    "gemma2": dict(model_type="gemma2", head_dim=8, query_pre_attn_scalar=8, **SIZES),
    "gemma3": dict(model_type="gemma3_text", head_dim=8, query_pre_attn_scalar=8, sliding_window=512, **SIZES),
}
PAIRS = [(encoder, "llama") for encoder in ENCODERS] + [("clip", name) for name in LANGUAGES if name != "llama"] + [
    ("swin", "gemma3"), ("convnext", "qwen3"), ("siglip2", "smollm3")]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(TEXTS, 300, "chatml")


def build(words, encoder: str, language: str, kind: type[RegionConfig] = RoIAlignConfig, focal: float = 0, **regions):
    torch.manual_seed(0)
    vision, size, _ = ENCODERS[encoder]
    config = tiny_config(len(words), vision=vision, preprocess=PreprocessConfig(image_size=size))
    fields = {**LANGUAGES[language], "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    if issubclass(kind, RoIAlignConfig):
        regions["scales"] = None if vision.levels == STAGES["levels"] else (2, 2, 1, 1)
    return build_model(dataclasses.replace(
        config, language=LanguageConfig(fields), prompt=dataclasses.replace(config.prompt, template="chatml"),
        regions=config.regions.converted(kind, **regions), focal=FocalConfig(focal) if focal else None), words)


def batch(loaded, rounds=(("What is <region2>?", "a mug"), ("And <region1>?", "left of it")), **encoding):
    """Two images of noise and the same conversation about each."""
    encoded = loaded.prompts.encode(list(rounds), 2, **encoding)
    size = loaded.config.preprocess.image_size
    images = torch.randint(0, 255, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.4, 0.1, 0.9, 0.9]]] * 2)
    ids, index, labels = (torch.tensor([values] * 2)
                          for values in (encoded.input_ids, encoded.region_index, encoded.labels))
    return dict(input_ids=ids, images=images, boxes=boxes, region_index=index, labels=labels)


def logits(loaded, inputs) -> torch.Tensor:
    loaded.model.eval()
    with torch.no_grad():
        return loaded.model(**{name: value for name, value in inputs.items() if name != "labels"}).logits


@pytest.mark.parametrize(("encoder", "language"), PAIRS)
def test_learns_and_generates(words, encoder, language):
    loaded = build(words, encoder, language)
    model = loaded.model.train()
    assert loaded.prompts.image_tokens == ENCODERS[encoder][2]
    inputs = batch(loaded)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.eval()  # Batch statistics of two noise images say nothing.
    before = model(**inputs).loss
    before.backward()
    for part in (model.vision, model.projector, model.regions, model.language):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0
    optimiser.step()
    with torch.no_grad():
        assert model(**inputs).loss < before
        prompt = batch(loaded, [("What is <region2>?", None)])
        embeddings = model.embed(prompt["input_ids"], model.encode(prompt["images"], prompt["boxes"]),
                                 prompt["region_index"])
        written = model.language.generate(inputs_embeds=embeddings, max_new_tokens=4, do_sample=False,
                                          attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                                          pad_token_id=words.pad_token_id)
    assert written.shape[0] == 2 and 1 <= written.shape[1] <= 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_embedded_text_means_the_same_as_its_ids(words, language):
    """Some models scale embeddings inside, some in their embedding layer: text goes the same way as spliced vectors."""
    loaded = build(words, "clip", language)
    model = loaded.model.eval()
    ids = torch.tensor([words.encode("a small red mug, left of the box")])
    with torch.no_grad():
        vision = model.encode(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), torch.zeros(1, 0, 4))
        embeddings = model.embed(ids, vision, torch.full_like(ids, -1))
        torch.testing.assert_close(model.language(inputs_embeds=embeddings).logits, model.language(ids).logits)


@pytest.mark.parametrize("language", ["llama tied", "gemma3", "smollm3"])
def test_checkpoints_of_all_kinds_come_back(words, language, tmp_path):
    loaded = build(words, "swin", language)
    inputs = batch(loaded)
    save_checkpoint(loaded.model, words, tmp_path)
    torch.testing.assert_close(logits(load_checkpoint(tmp_path), inputs), logits(loaded, inputs))


@pytest.mark.parametrize("kind", [RoIAlignConfig, DeformableConfig])
def test_several_embeddings_a_region_and_masks(words, kind):
    loaded = build(words, "clip", "llama", kind, embeddings=3)
    inputs = batch(loaded)
    assert (inputs["region_index"] >= 0).sum() == 12
    whole = logits(loaded, inputs)
    masks = torch.ones(2, 2, 3, 3)
    torch.testing.assert_close(logits(loaded, {**inputs, "masks": masks}), whole)
    masks[0, 1, :, 0] = 0
    masked = logits(loaded, {**inputs, "masks": masks})
    torch.testing.assert_close(masked[1], whole[1])
    assert (masked[0] - whole[0]).abs().max() > 1e-5


def test_each_embedding_stands_in_its_place(words):
    loaded = build(words, "clip", "llama", embeddings=2)
    inputs = batch(loaded)
    with torch.no_grad():
        vision = loaded.model.eval().encode(inputs["images"], inputs["boxes"])
        embedded = loaded.model.embed(inputs["input_ids"], vision, inputs["region_index"])
    flat = vision.region_embeddings.flatten(1, 2)
    for image in range(2):
        places = (inputs["region_index"][image] >= 0).nonzero().squeeze(1)
        torch.testing.assert_close(embedded[image, places], flat[image, inputs["region_index"][image, places]])
        patches = inputs["input_ids"][image] == loaded.prompts.image_patch_id
        torch.testing.assert_close(embedded[image, patches], vision.image_tokens[image])


def test_focal_crop_starts_as_nothing_and_sees_the_surroundings(words):
    plain, focal = build(words, "clip", "llama"), build(words, "clip", "llama", focal=2.0)
    missing, surplus = focal.model.load_state_dict(plain.model.state_dict(), strict=False)
    assert not surplus and set(missing) == {"focal.join.weight", "focal.join.bias"}
    inputs = batch(plain)
    torch.testing.assert_close(logits(focal, inputs), logits(plain, inputs))
    torch.nn.init.normal_(focal.model.focal.join.weight, std=0.1)
    assert (logits(focal, inputs) - logits(plain, inputs)).abs().max() > 1e-4


def test_what_becomes_an_engine_has_the_focal_crop(words):
    model = build(words, "clip", "llama", focal=2.0).model.eval()
    torch.nn.init.normal_(model.focal.join.weight, std=0.1)
    images, boxes = torch.full((1, 32, 32, 3), 9, dtype=torch.uint8), torch.tensor([[[0.1, 0.2, 0.5, 0.6]]])
    with torch.no_grad():
        torch.testing.assert_close(VisionNetwork.of(model)(images, boxes), tuple(model.encode(images, boxes)))


def test_focal_crop_shows_the_box_in_its_middle(words):
    model = build(words, "clip", "llama", focal=2.0).model
    image = torch.full((1, 3, 32, 32), -1.0)
    image[..., 8:12, 16:20] = 1
    boxes = torch.tensor([[[0.5, 0.25, 0.625, 0.375], [0.9, 0.9, 1.1, 1.0]]])
    crops, inner = model.focal.crop(image, boxes)
    assert crops.shape == (2, 3, 32, 32)
    torch.testing.assert_close(inner[0, 0], torch.tensor([0.25, 0.25, 0.75, 0.75]))
    assert crops[0, :, 12:20, 12:20].min() > 0.9 and crops[0, :, :4].max() < -0.9
    assert (crops[1, :, :, 24:] == 0).all(), "grey outside the image"


def test_points_have_a_token_of_their_own(words):
    loaded = build(words, "clip", "llama")
    ids = loaded.prompts.encode([("What is <region1>?", None)], 1, points={1}).input_ids
    assert words.convert_tokens_to_ids("<point>") in ids and words.convert_tokens_to_ids("<bbox>") not in ids


def test_padding_boxes_change_nothing(words):
    loaded = build(words, "clip", "llama")
    inputs = batch(loaded)
    padded = {**inputs, "boxes": torch.cat([inputs["boxes"], torch.zeros(2, 3, 4)], 1)}
    torch.testing.assert_close(logits(loaded, padded), logits(loaded, inputs))


def test_other_image_size_needs_interpolated_positions(words):
    vision = ENCODERS["clip"][0]
    config = tiny_config(len(words), vision=vision, preprocess=PreprocessConfig(image_size=40))
    with pytest.raises(ConfigError, match="image_size is 40 and the encoder's is 32"):
        build_model(config, words)


def test_numbers_are_added_to_the_regions_that_have_one(words):
    config = tiny_config(len(words), vision=ENCODERS["clip"][0], preprocess=PreprocessConfig(image_size=32))
    plain = build_model(config, words).model
    prompt = dataclasses.replace(config.prompt, number_regions=True, max_regions=2)
    numbered = build_model(dataclasses.replace(config, prompt=prompt), words).model
    missing = numbered.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["numbers.weight"]
    width, count, each = plain.projector.out_features, 3, config.regions.embeddings
    vision = VisionOutput(torch.zeros(1, 1, width), torch.randn(1, count, each, width))
    ids, index = torch.full((1, count * each), 5), torch.arange(count * each).unsqueeze(0)
    added = numbered.embed(ids, vision, index) - plain.embed(ids, vision, index)
    wanted = torch.cat([numbered.numbers.weight, torch.zeros(1, width)]).repeat_interleave(each, 0)
    torch.testing.assert_close(added[0], wanted)
