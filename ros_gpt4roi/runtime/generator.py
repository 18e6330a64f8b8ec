"""The generator: token ids in, token ids out.

Read `Generator.step` first; what follows it is in the order of a token's way.

What makes it fast, each by its name:
- prefix caching: what a prompt has in common with one that is being decoded is shared with it, and with one that was
  decoded earlier is copied from the prefix cache, not computed (`_join`, `_keep_prefixes`, `_keep`);
- one forward a step: the tokens of all rows, prompts too, run as one sequence, each at its own position and seeing its
  own text alone (`_forward_all`, see SlotCache);
- continuous batching: sequences join and leave between two steps, nobody waits for the longest (`_join`, `_leave`);
- prompt lookup decoding: tokens of an earlier text are tried as a draft, several a step, and kept where greedy decoding
  would have chosen the same (`_draft`, `_accept`);
- fixed shapes on a GPU: a step is one CUDA graph (see FixedForward);
- one readback a step: chosen tokens and their probabilities come from the device together (see Choice).
"""
from __future__ import annotations

import functools
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch

from ..model.picture import AXES
from .adapted_forward import AdaptedForward
from .adapter_folder import Adapter
from .device import free_memory
from .forward import FixedForward, Forward
from .kv_cache import PrefixCache, Prompt, SlotCache
from .language_backend import choose_body, choose_head
from .language_model import Body, Choice
from .request import Sampling, Sequence, TokenChoice
from .types import Status

# No more prompts join a step once these have this many tokens to compute: all of a step's tokens meet in one attention.
_JOINING_TOKENS = 2048
# As many as the scheduler remembers conversations and the pipeline frames, by default.
_CACHED_CONTEXTS = 40
_PART_OF_FREE = 8
_TRIED_TOKENS = 6  # from all over the vocabulary: on them the ways to run the model are compared


class Generator:
    """Generates texts on one language model. Not thread-safe.

    Args:
        language: A causal language model of transformers.
        stop_ids: Tokens that end a text.
        suppress_tokens: Tokens that are never chosen: placeholders that mean nothing in a text.
        context: Most tokens of a prompt and its text together.
        max_rows: Sequences that are decoded together.
        priority_rows: So many of these stay free for sequences with priority, which join at the next step whatever else
            is going on.
        draft_tokens: Most draft tokens tried a step.
        cache_bytes: Limit of the prefix cache; None: by the model and the memory that is free.
        fixed_shapes: Whether steps run in few fixed shapes (see FixedForward); None: on a GPU.
        compiler: Name of the backend of `torch.compile` for these shapes, "" for none.
        onnxruntime: Whether a small model's steps may run in ONNX Runtime on a CPU.
    """

    def __init__(self, language: Any, *, stop_ids: frozenset[int], suppress_tokens: Iterable[int],
                 context: int, max_rows: int, priority_rows: int, draft_tokens: int, cache_bytes: int | None,
                 fixed_shapes: bool | None = None, compiler: str = "", onnxruntime: bool = True):
        config = language.config
        self._embedding = language.get_input_embeddings()
        weight = self._embedding.weight
        self.device = weight.device
        self.stop_ids, self.context, self.draft_tokens = stop_ids, context, draft_tokens
        self.max_rows, self.priority_rows = max_rows, priority_rows
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype, width = weight.dtype, weight.shape[1]

        def make_cache(slots: int) -> SlotCache:
            return SlotCache(config.num_hidden_layers, heads, head_size, slots, dtype, self.device)

        self.cache = make_cache(max_rows * (context + draft_tokens))
        fixed = self.device.type == "cuda" if fixed_shapes is None else fixed_shapes
        onnxruntime = onnxruntime and not fixed
        tried = torch.linspace(0, len(weight) - 1, _TRIED_TOKENS, device=self.device).long()
        choose = functools.partial(choose_body, make_cache=make_cache, embeddings=self._embedding(tried).detach(),
                                   context=context)
        self.body = choose(language.base_model, onnxruntime=onnxruntime)
        suppressed = torch.tensor(list(suppress_tokens), dtype=torch.long, device=self.device)
        self.head = choose_head(language.get_output_embeddings(), suppressed, dtype, onnxruntime)

        def make_forward(body: Body) -> Forward:
            return FixedForward(body, self.cache, self.device, dtype, width, compiler) if fixed \
                else Forward(body, self.cache, self.device)

        self._forward = make_forward(self.body)
        # ONNX Runtime's graphs have their weights fixed in them: steps with an adapter run in PyTorch.
        self.adapted = AdaptedForward(language.base_model, functools.partial(choose, onnxruntime=False), make_forward)
        self.prefixes = PrefixCache(self._usual_cache_bytes() if cache_bytes is None else cache_bytes)
        self._rows: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._priority: deque[Sequence] = deque()
        self.counters = {"steps": 0, "prefilled_tokens": 0, "reused_tokens": 0, "generated_tokens": 0,
                         "draft_tokens": 0, "accepted_draft_tokens": 0}

    def _usual_cache_bytes(self) -> int:
        """What so many full contexts take, within a part of the memory that is free."""
        return min(_CACHED_CONTEXTS * self.context * self.cache.bytes // self.cache.capacity,
                   free_memory(self.device) // _PART_OF_FREE)

    @property
    def busy(self) -> bool:
        """Whether anything is being decoded or waits for it."""
        return bool(self._rows or self._waiting or self._priority)

    @property
    def live_rows(self) -> int:
        """How many sequences are being decoded."""
        return len(self._rows)

    def add(self, sequences: list[Sequence], priority: bool = False) -> None:
        """Let sequences join, in this order, as soon as there is room. Those with priority go first.

        Raises:
            ValueError: A prompt leaves no room for one token in the context. None of the sequences joins.
        """
        for sequence in sequences:
            if len(sequence.prompt) >= self.context:
                raise ValueError(f"the prompt has {len(sequence.prompt)} tokens, expected fewer than the context's "
                                 f"{self.context}")
        (self._priority if priority else self._waiting).extend(sequences)

    def run(self, sequences: list[Sequence]) -> None:
        """Generate these texts, and whatever else is going on, to their ends."""
        self.add(sequences)
        while self.busy:
            self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """Take every text one token further, some of them several."""
        self._leave()  # what was ended from outside
        joined = self._join()
        if self._rows:
            drafts = [self._draft(row) for row in self._rows]
            choice, counts = self._forward_all(drafts)
            self._fail_what_is_not_finite(choice.finite, counts)
            for row in joined:
                row.suffix = None
            self._keep_prefixes([row for row in joined if row.status is None])
            self._accept_all(drafts, choice)
            self._leave()
        self.counters["steps"] += 1

    # --- joining -------------------------------------------------------------------------------------------------

    def _join(self) -> list[Sequence]:
        """Give sequences that wait a row, its slots and what of its prompt is still to be computed."""
        joined: list[Sequence] = []
        fed = 0
        while fed < _JOINING_TOKENS and (sequence := self._next()) is not None:
            try:
                embeddings = sequence.embed()
            except Exception as error:  # what this prompt is made of
                sequence.fail(error)
                continue
            start, sequence.slots = self._place(sequence.prompt)
            sequence.suffix = embeddings[start:]
            if sequence.sampling.temperature > 0:
                sequence.random = torch.Generator(embeddings.device).manual_seed(sequence.sampling.seed)
            self._rows.append(sequence)
            joined.append(sequence)
            fed += len(sequence.prompt) - start
            self.counters["reused_tokens"] += start
        self.counters["prefilled_tokens"] += fed
        return joined

    def _next(self) -> Sequence | None:
        """The sequence that joins next, if there is one and room for it."""
        if self._priority and len(self._rows) < self.max_rows:
            return self._priority.popleft()
        if self._waiting and len(self._rows) < self.max_rows - self.priority_rows:
            return self._waiting.popleft()
        return None

    def _place(self, prompt: Prompt) -> tuple[int, np.ndarray]:
        """How many first tokens of a prompt are there, or will be after the coming forward; and slots for all of it."""
        most = len(prompt) - 1  # the last token is always computed: its logits are wanted
        shared, row = max(((row.prompt.common_prefix(prompt), row) for row in self._rows),
                          key=lambda found: found[0], default=(0, None))
        held, kept = self.prefixes.longest(prompt)
        shared, held = min(shared, most), min(held, most)
        if row is not None and shared >= held:
            slots = row.slots[:shared]
            self.cache.share(slots)
            return shared, np.concatenate([slots, self.cache.take(len(prompt) - shared)])
        slots = self.cache.take(len(prompt))
        if kept is not None and held:
            self.cache.fill(slots[:held], kept[:, :, :, :held])
        return held, slots

    # --- the forward ---------------------------------------------------------------------------------------------

    def _draft(self, row: Sequence) -> list[int]:
        """What followed in the earlier text where it last read as the generated text does now."""
        if not row.draft or row.random is not None or row.suffix is not None:
            return []
        generated, earlier = row.generated, row.draft
        room = min(self.draft_tokens, row.max_new_tokens - len(generated) - 1,
                   self.context - len(row.prompt) - len(generated) - 1)
        at = len(generated)
        if tuple(generated[-2:]) != earlier[max(0, at - 2):at]:  # the texts have parted: find the place again
            at = next((i for i in range(len(earlier) - 1, 1, -1) if earlier[i - 2:i] == tuple(generated[-2:])), -1)
        draft = list(earlier[at:at + max(0, room)]) if at >= 0 else []
        self.counters["draft_tokens"] += len(draft)
        return draft

    def _forward_all(self, drafts: list[list[int]]) -> tuple[Choice, list[int]]:
        """One forward of all rows: what joined feeds its prompt, the others their last token and a draft.

        Rows that have just joined come last. Returns the choice at every token fed, of a prompt only at its last, and
        how many tokens each row has fed.
        """
        going = [row for row in self._rows if row.suffix is None]
        suffixes = [row.suffix for row in self._rows if row.suffix is not None]
        fed = [[row.pending, *draft] for row, draft in zip(going, drafts)]
        counts = [*map(len, fed), *map(len, suffixes)]
        ids = [token for tokens in fed for token in tokens]
        if going:
            new, end = self.cache.take(len(ids)), 0
            for row, count in zip(going, counts):
                begin, end = end, end + count
                row.slots = np.concatenate([row.slots, new[begin:end]])
            suffixes.insert(0, self._embedding(torch.tensor(ids, device=self.device)))
        embeddings = suffixes[0] if len(suffixes) == 1 else torch.cat(suffixes)
        forward = self._forward
        if any(row.prompt.adapter is not None for row in self._rows):
            forward = self.adapted.choose([row.prompt.adapter for row in self._rows], counts)
        hidden = forward(embeddings, *self._layout(counts), self._added(embeddings, counts))
        wanted = [*range(len(ids)), *(np.cumsum(counts)[len(going):] - 1).tolist()]
        return self.head(hidden, wanted), counts

    def _layout(self, counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, slots and attention mask of the last counts[i] tokens of every row."""
        total, extent = sum(counts), self.cache.extent
        positions, slots = [], np.empty(total, np.int64)
        mask = np.zeros((total, extent), np.bool_)
        end = 0
        for row, count in zip(self._rows, counts):
            begin, end = end, end + count
            old = len(row.slots) - count
            positions.append(np.arange(old, old + count) if row.picture is None
                             else row.picture.positions(old, old + count))
            slots[begin:end] = row.slots[old:]
            mask[begin:end, row.slots] = True
            if count > 1:
                mask[begin:end, row.slots[old:]] = np.tri(count, dtype=np.bool_)
        if any(part.ndim > 1 for part in positions):
            positions = [np.broadcast_to(part, (AXES, part.shape[-1])) for part in positions]
        return np.concatenate(positions, -1), slots, mask

    def _added(self, embeddings: torch.Tensor, counts: list[int]) -> torch.Tensor | None:
        """What the pictures among the last counts[i] tokens of every row add behind the first layers, if anything."""
        added, end = None, 0
        for row, count in zip(self._rows, counts):
            begin, end = end, end + count
            if row.suffix is None or row.picture is None:
                continue
            for place, features in row.picture.features(len(row.slots) - count, len(row.slots)):
                if added is None:
                    added = embeddings.new_zeros(len(features), *embeddings.shape)
                added[:, begin + place:begin + place + features.shape[1]] = features
        return added

    def _fail_what_is_not_finite(self, finite: np.ndarray, counts: list[int]) -> None:
        """End every row that stands on a token whose numbers are not finite: its own, or one it shares."""
        if finite.all():
            return
        fed = np.concatenate([row.slots[len(row.slots) - count:] for row, count in zip(self._rows, counts)])
        for row in self._rows:
            if np.isin(row.slots, fed[~finite]).any():
                row.end(Status.FAILED, "the language model gave numbers that are not finite")

    def _keep_prefixes(self, joined: list[Sequence]) -> None:
        """Keep what several arrivals over one vision output have in common, for those that come later."""
        groups: dict[tuple[Hashable, Adapter | None], list[Sequence]] = {}
        for row in joined:
            groups.setdefault((row.prompt.vision, row.prompt.adapter), []).append(row)
        for (vision, adapter), (leader, *others) in groups.items():
            prompt = leader.prompt
            common = min((prompt.common_prefix(row.prompt) for row in others), default=0)
            if common > self.prefixes.longest(prompt)[0]:
                shared = Prompt(prompt.ids[:common], prompt.region_index[:common], vision, adapter)
                self.prefixes.put(("frame", vision), shared, self.cache.copy_out(leader.slots[:common]))

    # --- choosing ------------------------------------------------------------------------------------------------

    def _accept_all(self, drafts: list[list[int]], choice: Choice) -> None:
        at = 0
        for row, draft in zip(self._rows, drafts):
            place = slice(at, at + 1 + len(draft))
            at = place.stop
            if row.status is None:
                try:
                    self._accept(row, draft, choice.tokens[place], choice.probabilities[place], choice.logits[place])
                except Exception as error:  # such as a distribution that cannot be drawn from
                    row.fail(error)

    def _accept(self, row: Sequence, draft: list[int], tokens: list[int], probabilities: list[float],
                logits: torch.Tensor) -> None:
        """Take the next token of a row, several where its draft agrees with the choice, and read them as text."""
        if row.random is not None:
            token, probability = sample(logits[0], row.sampling, row.random)
            tokens, probabilities = [token], [probability]
        taken = 1
        while taken <= len(draft) and tokens[taken - 1] == draft[taken - 1]:
            taken += 1
        self.counters["accepted_draft_tokens"] += taken - 1
        rejected = len(draft) + 1 - taken
        if rejected:
            self.cache.release(row.slots[-rejected:])
            row.slots = row.slots[:-rejected]
        for place, (token, probability) in enumerate(zip(tokens[:taken], probabilities)):
            if row.top_k:
                found = logits[place].softmax(-1).topk(min(row.top_k, logits.shape[-1]))
                row.choices.append(TokenChoice(token, probability,
                                               list(zip(found.indices.tolist(), found.values.tolist()))))
            if not self._append(row, token, probability):
                break
            row.pending = token
        if row.status is None:  # an end has read it
            row.read()

    def _append(self, row: Sequence, token: int, probability: float) -> bool:
        """Take one token; False when the text is at its end."""
        self.counters["generated_tokens"] += 1
        if token in self.stop_ids:
            row.end(Status.OK)
            return False
        row.generated.append(token)
        row.probabilities.append(probability)
        full = len(row.generated) >= row.max_new_tokens
        if full or len(row.prompt) + len(row.generated) >= self.context:
            row.end(Status.OK, cut=True)
            return False
        return True

    # --- leaving -------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Free the rows and slots of what has ended."""
        for queue in (self._priority, self._waiting):
            for sequence in [s for s in queue if s.status is not None]:
                queue.remove(sequence)
        for row in [row for row in self._rows if row.status is not None]:
            if row.cache_key is not None and row.status is Status.OK:
                self._keep(row, row.cache_key)
            self.cache.release(row.slots)
            self._rows.remove(row)
        if not self._rows and self.body.reads_all:
            self.cache.shrink()

    def _keep(self, row: Sequence, name: Hashable) -> None:
        """Keep a text with its prompt, for the next round of its conversation."""
        # A text that ended within an accepted draft has fed more than it generated.
        fed = min(len(row.slots) - len(row.prompt), len(row.generated))
        prompt = Prompt.of([*row.prompt.ids, *row.generated[:fed]], [*row.prompt.region_index, *[-1] * fed],
                           row.prompt.vision, row.prompt.adapter)
        self.prefixes.put(name, prompt, self.cache.copy_out(row.slots[:len(prompt)]))

    # --- before and after ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Prepare what can be prepared for steps over a cache of the present size; for after a first full batch."""
        self._forward.warm_up()

    def reset(self) -> None:
        """Forget everything, after a failure."""
        self._rows.clear()
        self._waiting.clear()
        self._priority.clear()
        self.prefixes.clear()
        self.cache.clear()


def sample(logits: torch.Tensor, sampling: Sampling, random: torch.Generator) -> tuple[int, float]:
    """Draw a token by temperature and top-p.

    Args:
        logits: Of the next token, [V].
        sampling: Temperature above 0, and top-p.
        random: Source of random numbers on the logits' device.

    Returns:
        The token and its probability under the model.
    """
    probabilities = (logits / sampling.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0  # the most likely token always stays
    token = int(order[torch.multinomial(ordered, 1, generator=random)])
    return token, float(logits.softmax(-1)[token])
