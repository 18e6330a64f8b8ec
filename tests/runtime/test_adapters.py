"""Adapters on this package's pipeline against peft's own generate, on tiny models of random weights."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fixtures import write_adapter
from qwen_fixtures import write_qwen
from test_qwen3_vl import check as check_qwen
from test_qwen3_vl import frame_of
from transformers import Qwen3VLForConditionalGeneration

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import LoadedModel
from ros_gpt4roi.runtime.generator import Generator
from ros_gpt4roi.runtime.language_format import load_model
from ros_gpt4roi.runtime.language_model import LlamaBody, TransformersBody
from ros_gpt4roi.runtime.onnx_language_model import OnnxBody
from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.quantised_linear import Int4Linear, QuantisedLinear
from ros_gpt4roi.runtime.request import Conversation, Question, Sequence
from ros_gpt4roi.runtime.types import Frame, Status
from ros_gpt4roi.runtime.vision_stage import VisionOptions

TOKENS = 12
Check = Callable[[Pipeline, Frame, Sequence, Any], None]


@dataclasses.dataclass
class Case:
    """A model's folder, its adapters' folders, what peft makes of it with each ("": without), and the comparison."""

    folder: Path
    adapters: dict[str, Path]
    networks: dict[str, Any]
    check: Check
    frame: Frame

    def open(self, names: tuple[str, ...] = ("a", "b"), **settings: Any) -> Pipeline:
        usual = {"device": "cpu", "language_format": "fp32", "description_tokens": TOKENS, "answer_tokens": TOKENS,
                 "vision": VisionOptions("torch"), "adapters": [self.adapters[name] for name in names]}
        return Pipeline.open(self.folder, PipelineConfig(**{**usual, **settings}))


def check_llama(pipeline: Pipeline, frame: Frame, sequence: Sequence, network: Any) -> None:
    """Compare a greedy text and its probabilities with transformers' own."""
    never, stops = pipeline.language.prompts.never, pipeline.language.generator.stop_ids
    with torch.inference_mode():
        embeddings = sequence.embed()[None]
        expected = network.generate(
            inputs_embeds=embeddings, attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            do_sample=False, max_new_tokens=TOKENS, output_logits=True, return_dict_in_generate=True,
            suppress_tokens=never, eos_token_id=sorted(stops), pad_token_id=0)
    ids = [token for token in expected.sequences[0].tolist() if token not in stops]
    assert sequence.status is Status.OK and sequence.generated == ids
    for choice, logits in zip(sequence.choices, expected.logits, strict=True):
        logits = logits.clone()
        logits[0, never] = -torch.inf
        mine = torch.tensor([probability for _, probability in choice.likeliest]).log()
        theirs = logits[0].log_softmax(-1)[[token for token, _ in choice.likeliest]]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


@pytest.fixture(scope="module", params=["llama", "qwen"])
def case(request: pytest.FixtureRequest, checkpoint: Path, loaded: LoadedModel,
         tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("adapters")
    paths = {"a": folder / "a", "b": folder / "b"}
    options: dict[str, dict[str, Any]] = {
        "a": {}, "b": {"r": 2, "target_modules": ["q_proj", "down_proj"], "use_rslora": True,
                       "rank_pattern": {"layers.1.self_attn.q_proj": 3}, "alpha_pattern": {"down_proj": 5}}}
    if request.param == "llama":
        networks = {name: write_adapter(paths[name], loaded.model.language, seed, **options[name])
                    for seed, name in enumerate(paths)}
        frame = Frame(frame_of((48, 48), 1).image, frame_of((48, 48), 3).regions, 0, "camera")
        return Case(checkpoint, paths, {"": loaded.model.language, **networks}, check_llama, frame)
    model = write_qwen(folder / "qwen")
    network = Qwen3VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    of_language = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    options["a"] = {"target_modules": of_language}
    networks = {name: write_adapter(paths[name], network, seed, **options[name]) for seed, name in enumerate(paths)}
    return Case(model, paths, {"": network, **networks}, check_qwen, frame_of((60, 100), 3))


def ask(pipeline: Pipeline, frame: Frame, adapters: list[str], text: str = "What is region 2?") -> list[Question]:
    """Ask at the same time, each with its adapter, and keep what the tokens were chosen from."""
    questions = []
    for number, name in enumerate(adapters):
        question = Question(text, conversation=Conversation(f"{name}{number}", frame),
                            adapter=pipeline.adapters.find(name))
        pipeline.begin(question)
        question.sequences[0].top_k = 8
        questions.append(question)
    while any(question.result is None for question in questions):
        pipeline.step()
    return questions


@pytest.mark.parametrize("kind", [LlamaBody, OnnxBody, TransformersBody, "fixed shapes"])
def test_rows_of_several_adapters_and_of_none_are_each_what_peft_generates(
        case: Case, kind: type | str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "fixed shapes":  # as on a GPU, where each is a CUDA graph
        kind = LlamaBody
        monkeypatch.setattr("ros_gpt4roi.runtime.language_stage.Generator", partial(Generator, fixed_shapes=True))
    if kind is TransformersBody:
        monkeypatch.setattr("ros_gpt4roi.runtime.language_backend._AGREE", {torch.float32: -1.0})
    decoding = dataclasses.replace(PipelineConfig().decoding, onnxruntime=kind is OnnxBody)
    pipeline = case.open(decoding=decoding)
    assert isinstance(pipeline.language.generator.body, kind)
    alone: dict[str, list[int]] = {}
    for name in ("", "a", "b"):
        pipeline.reset()
        (question,) = ask(pipeline, case.frame, [name])
        case.check(pipeline, case.frame, question.sequences[0], case.networks[name])
        alone[name] = question.sequences[0].generated
    assert len(set(map(tuple, alone.values()))) == 3, "adapters make a difference"
    pipeline.reset()
    steps = pipeline.statistics()["steps"]
    together = ask(pipeline, case.frame, ["a", "", "b", "a"])
    assert pipeline.statistics()["steps"] - steps <= TOKENS + 1
    for question, name in zip(together, ["a", "", "b", "a"]):
        assert question.sequences[0].generated == alone[name]
        case.check(pipeline, case.frame, question.sequences[0], case.networks[name])


def test_descriptions_have_the_adapter_that_serves_when_they_begin(case: Case) -> None:
    pipeline = case.open(adapter="a", reuse_distance=0.1)
    described = pipeline.describe(case.frame)
    version = f"{pipeline.version}+{pipeline.adapters.find('a').version}"
    assert described.model_version == version and version.count("@") == 2
    assert all(d.reused for d in pipeline.describe(case.frame).descriptions)
    before = pipeline.language.generator.counters["reused_tokens"]
    pipeline.adapters.serving = pipeline.adapters.find("b")
    other = pipeline.describe(case.frame)
    assert other.model_version == f"{pipeline.version}+{pipeline.adapters.find('b').version}"
    assert not any(d.reused for d in other.descriptions), "these are the other adapter's words"
    first = len(pipeline.language.generator.prefixes)
    pipeline.adapters.serving = None
    plain = pipeline.describe(case.frame)
    assert plain.model_version == pipeline.version and first
    texts = [[d.text for d in result.descriptions] for result in (described, other, plain)]
    assert len(set(map(tuple, texts))) == 3
    # Within a frame rows share their prefix; nothing of it comes from another adapter.
    for name, result in (("a", described), ("b", other), ("", plain)):
        alone = case.open(adapter=name).describe(case.frame)
        assert [d.text for d in alone.descriptions] == [d.text for d in result.descriptions]
    assert pipeline.language.generator.counters["reused_tokens"] > before


def test_a_prefix_belongs_to_its_adapter(case: Case) -> None:
    pipeline = case.open()
    counters = pipeline.language.generator.counters

    def computed(name: str) -> int:
        before = counters["prefilled_tokens"]
        ask(pipeline, case.frame, [name])
        return counters["prefilled_tokens"] - before

    whole = computed("a")
    assert computed("a") == 1, "it has just been computed"
    assert computed("b") == computed("") == whole


def test_a_conversation_goes_on_with_the_adapter_it_began_with(case: Case) -> None:
    pipeline = case.open(adapter="a")
    conversation = Conversation("talk", case.frame)
    first = pipeline.ask(conversation, Question("What is region 1?"))
    pipeline.adapters.serving = pipeline.adapters.find("b")
    second = pipeline.ask(conversation, Question("And region 2?"))
    assert first.model_version == second.model_version == f"{pipeline.version}+{pipeline.adapters.find('a').version}"
    new = pipeline.ask(Conversation("new", case.frame), Question("What is region 1?"))
    assert new.model_version == f"{pipeline.version}+{pipeline.adapters.find('b').version}"


def test_steps_without_an_adapter_run_what_they_ran_before(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = case.open()

    def never(*_: object) -> None:
        raise AssertionError("no row has an adapter")

    monkeypatch.setattr(pipeline.language.generator.adapted, "choose", never)
    assert pipeline.describe(case.frame).status is Status.OK


@pytest.mark.parametrize("number_format", ["int8", "int8-dynamic", "int4"])
def test_it_is_applied_on_top_of_a_quantised_model(number_format: str, checkpoint: Path, loaded: LoadedModel,
                                                   tmp_path: Path) -> None:
    folder = tmp_path / "strong"
    write_adapter(folder, loaded.model.language, strength=0.3)
    quantised = load_model(checkpoint, number_format)
    pipeline = Pipeline(quantised, PipelineConfig(language_format=number_format))
    adapter = pipeline.language.read_adapter(folder)
    # peft's own sum, on the weights that quantisation has left.
    left = load_model(checkpoint, "fp32").model.language
    for name, layer in quantised.model.language.named_modules():
        if isinstance(layer, QuantisedLinear) and name != "lm_head":
            weight = layer.dequantised() if isinstance(layer, Int4Linear) else \
                layer.stored()["weight"].float() * layer.stored()["scale"].float().unsqueeze(1)
            left.get_submodule(name).weight.data = weight[:layer.out_features].float()
    left.get_input_embeddings().weight.data = quantised.model.language.get_input_embeddings().weight.data
    reference = write_adapter(tmp_path / "again", left, strength=0.3).base_model.model.base_model
    numbers = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    generator = pipeline.language.generator

    def run(adapters: list[object]) -> torch.Tensor:
        cache = generator.cache
        slots = cache.take(5)
        cache.map_slots(torch.from_numpy(slots), cache.extent)
        sees = torch.zeros(5, cache.extent, dtype=torch.bool)
        sees[:, slots] = torch.ones(5, 5, dtype=torch.bool).tril()
        forward = generator.adapted.choose(adapters, [5]) if adapters[0] else generator._forward
        with torch.inference_mode():
            found = forward(numbers, torch.arange(5).numpy(), slots, sees.numpy())
        cache.release(slots)
        return found

    with torch.inference_mode():
        expected = reference(inputs_embeds=numbers[None]).last_hidden_state[0]
    adapted, plain = run([adapter]), run([None])
    off, moved = ((found - expected).norm() / expected.norm() for found in (adapted, plain))
    assert off < 0.03 < 0.3 < moved, (off, moved)


def test_names_that_are_none(case: Case) -> None:
    with pytest.raises(ConfigError, match=r"adapter is 'c', expected the name of one that is loaded \(a, b\)"):
        case.open(adapter="c")
    with pytest.raises(ConfigError, match="two folders that are called 'a'"):
        case.open(("a", "a"))
    with pytest.raises(ConfigError, match="none is loaded"):
        case.open((), adapter="a")
