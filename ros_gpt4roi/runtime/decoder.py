"""The decode loop: sequences join, all of them advance a step at a time, each leaves when it has ended.

What makes it fast, each by its name:
- shared prefix: what a prompt has in common with one that decodes is shared with it, and with one that did is copied
  from the prefix store, not computed;
- one forward a step: the tokens of all rows, prompts too, run as one sequence, each at its own position and seeing its
  own text alone (see SlotCache);
- continuous batching: rows join and leave between two steps, nobody waits for the longest;
- fixed shapes on a GPU: a step is one CUDA graph (see FixedForward);
- prompt lookup: tokens of an earlier text are tried as a draft, several to a step, and kept where greedy decoding would
  have chosen the same;
- one readback a step: chosen tokens and their probabilities come from the device together.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import torch

from ..configuration import Configuration, setting
from .body import fast_body
from .forward import FixedForward, Forward
from .head import fast_head
from .kv_cache import Prompt, PrefixStore, SlotCache


# No more prompts join a step once these have this many tokens to compute: all of a step's tokens meet in one attention.
_JOINING_TOKENS = 2048


class Finish(Enum):
    """Why a sequence ended."""

    STOP = "stop"  # a stop token, or the owner found a stop text
    LENGTH = "length"  # the limit of new tokens
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    FAILED = "failed"  # the model gave numbers that are not finite


@dataclass(frozen=True)
class Sampling(Configuration):
    """How the next token is chosen."""

    temperature: float = setting(0.0, "Randomness of the choice of tokens; 0 always takes the likeliest.", at_least=0)
    top_p: float = setting(1.0, "Of the likeliest tokens, those that together have this probability are drawn from.",
                           more_than=0, at_most=1)
    seed: int = setting(0, "Seed of the choices.", at_least=0)


@dataclass(eq=False)
class Sequence:
    """One text being generated.

    embed gives the prompt's embeddings [L, D], computed when the sequence joins. draft: token ids of an earlier text,
    to be tried ahead. keep_as: name under which the prompt and the answer's cache are kept when it ends by itself.
    """

    prompt: Prompt
    embed: Callable[[], torch.Tensor]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    draft: tuple[int, ...] = ()
    keep_as: Hashable | None = None
    # Filled while decoding: what was generated (without the stop token), its probabilities, and how it ended.
    generated: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    finish: Finish | None = None
    _end: Finish | None = None

    def end(self, finish: Finish) -> None:
        """Ask for the sequence to leave before the next step. Safe from any thread."""
        if self._end is None:
            self._end = finish

    @property
    def confidence(self) -> float:
        """Mean probability of the generated tokens; 0 where there are none."""
        return sum(self.probabilities) / len(self.probabilities) if self.probabilities else 0.0


class _Row:
    """A sequence in the batch. slots: of the cache, where its tokens so far lie, in order; with a `suffix`, of the whole
    prompt. suffix: embeddings [n, D] of the prompt's tokens that are still to be fed; pending: chosen, not yet fed."""

    def __init__(self, sequence: Sequence, slots: np.ndarray, suffix: torch.Tensor):
        self.sequence, self.slots, self.suffix, self.pending = sequence, slots, suffix, -1
        self.generator: torch.Generator | None = None
        if sequence.sampling.temperature > 0:
            self.generator = torch.Generator(suffix.device).manual_seed(sequence.sampling.seed)


class Decoder:
    """Decodes sequences on one language model (a transformers causal language model). Not thread-safe.

    stop_ids: tokens that end a text. never_ids: tokens that are never chosen: placeholders that mean nothing in a text.
    context: most tokens of a prompt and its text. max_rows: rows that decode together; urgent_rows of them stay free
    for urgent sequences, so that these join at the next step whatever else is going on. draft_tokens: most draft tokens
    tried a step. cache_bytes: of the prefix store. fixed_shapes: see FixedForward; None: on a GPU. compiler: its own.
    onnxruntime: see fast_body.
    """

    def __init__(self, language: torch.nn.Module, *, stop_ids: frozenset[int], never_ids: Iterable[int],
                 context: int, max_rows: int, urgent_rows: int, draft_tokens: int, cache_bytes: int,
                 fixed_shapes: bool | None = None, compiler: str = "", onnxruntime: bool = True):
        config = language.config
        self._embedding = language.get_input_embeddings()
        weight = self._embedding.weight
        self._device = weight.device
        self.stop_ids, self.context, self.draft_tokens = stop_ids, context, draft_tokens
        self.max_rows, self.urgent_rows = max_rows, urgent_rows
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype, width = weight.dtype, weight.shape[1]

        def make_cache(slots: int) -> SlotCache:
            return SlotCache(config.num_hidden_layers, heads, head_size, slots, dtype, self._device)

        self.cache = make_cache(max_rows * (context + draft_tokens))
        fixed = self._device.type == "cuda" if fixed_shapes is None else fixed_shapes
        onnxruntime = onnxruntime and not fixed
        body = fast_body(language.base_model, make_cache, width, dtype, self._device, context, onnxruntime)
        self._reads_all = body.reads_all
        never = torch.tensor(list(never_ids), dtype=torch.long, device=self._device)
        self._head = fast_head(language.get_output_embeddings(), never, dtype, onnxruntime)
        self._forward = FixedForward(body, self.cache, self._device, dtype, width, compiler) if fixed \
            else Forward(body, self.cache, self._device)
        self.store = PrefixStore(cache_bytes)
        self._rows: list[_Row] = []
        self._waiting: deque[Sequence] = deque()
        self._urgent: deque[Sequence] = deque()
        self.counters = {"steps": 0, "prefilled_tokens": 0, "reused_tokens": 0, "generated_tokens": 0,
                         "draft_tokens": 0, "accepted_draft_tokens": 0}

    @property
    def busy(self) -> bool:
        return bool(self._rows or self._waiting or self._urgent)

    @property
    def live_rows(self) -> int:
        return len(self._rows)

    def add(self, sequences: list[Sequence], urgent: bool = False) -> None:
        """Let sequences join, in this order, as soon as there is room. Urgent ones go first.

        Raises ValueError where a prompt leaves no room for one token in the context.
        """
        for sequence in sequences:
            if len(sequence.prompt) >= self.context:
                raise ValueError(f"the prompt has {len(sequence.prompt)} tokens, expected fewer than the context's "
                                 f"{self.context}")
        (self._urgent if urgent else self._waiting).extend(sequences)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Prepare what can be prepared for steps over a cache of the present size."""
        self._forward.warm_up()

    def reset(self) -> None:
        """Forget everything, after a failure."""
        self._rows.clear()
        self._waiting.clear()
        self._urgent.clear()
        self.store.clear()
        self.cache.clear()

    @torch.inference_mode()
    def step(self) -> None:
        """Let what was ended leave and what waits join, then feed every row: what joined its prompt, the others a token
        and a draft."""
        self._leave()
        self._join()
        if self._rows:
            self._advance()
            self._leave()
        self.counters["steps"] += 1

    # --- joining -------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        fed = 0
        while fed < _JOINING_TOKENS and (sequence := self._next()) is not None:
            start, slots = self._begin(sequence.prompt)
            self._rows.append(_Row(sequence, slots, sequence.embed()[start:]))
            fed += len(sequence.prompt) - start
            self.counters["reused_tokens"] += start
        self.counters["prefilled_tokens"] += fed

    def _next(self) -> Sequence | None:
        """The sequence that joins next, if there is one and room for it."""
        if self._urgent and len(self._rows) < self.max_rows:
            return self._urgent.popleft()
        if self._waiting and len(self._rows) < self.max_rows - self.urgent_rows:
            return self._waiting.popleft()
        return None

    def _begin(self, prompt: Prompt) -> tuple[int, np.ndarray]:
        """How many first tokens of a prompt are there, or will be after the coming forward; and slots for all of it."""
        most = len(prompt) - 1  # the last token is always computed: its logits are wanted
        shared, row = max(((row.sequence.prompt.common_prefix(prompt), row) for row in self._rows),
                          key=lambda found: found[0], default=(0, None))
        held, kept = self.store.longest(prompt)
        shared, held = min(shared, most), min(held, most)
        if row is not None and shared >= held:
            slots = row.slots[:shared]
            self.cache.share(slots)
            return shared, np.concatenate([slots, self.cache.take(len(prompt) - shared)])
        slots = self.cache.take(len(prompt))
        if held:
            self.cache.fill(slots[:held], kept[:, :, :, :held])
        return held, slots

    def _keep_prefixes(self, joined: list[_Row]) -> None:
        """Keep what several arrivals over one vision output have in common, for those that come later."""
        groups: dict[Hashable, list[_Row]] = {}
        for row in joined:
            groups.setdefault(row.sequence.prompt.vision, []).append(row)
        for vision, (leader, *others) in groups.items():
            prompt = leader.sequence.prompt
            common = min((prompt.common_prefix(row.sequence.prompt) for row in others), default=0)
            if common > self.store.longest(prompt)[0]:
                shared = Prompt(prompt.ids[:common], prompt.region_index[:common], vision)
                self.store.put(("frame", vision), shared, self.cache.copy_out(leader.slots[:common]))

    # --- a step --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        going = [row for row in self._rows if row.suffix is None]
        joined = self._rows[len(going):]
        drafts = [self._draft(row) for row in going]
        fed = [[row.pending, *draft] for row, draft in zip(going, drafts)]
        counts = [*map(len, fed), *(len(row.suffix) for row in joined)]
        suffixes = [row.suffix for row in joined]
        ids = [token for tokens in fed for token in tokens]
        if going:
            new, end = self.cache.take(len(ids)), 0
            for row, count in zip(going, counts):
                begin, end = end, end + count
                row.slots = np.concatenate([row.slots, new[begin:end]])
            suffixes.insert(0, self._embedding(torch.tensor(ids, device=self._device)))
        hidden = self._forward(suffixes[0] if len(suffixes) == 1 else torch.cat(suffixes), *self._layout(counts))
        # Of a prompt, only what follows its last token is wanted.
        wanted = [*range(len(ids)), *(np.cumsum(counts)[len(going):] - 1).tolist()]
        tokens, probabilities, logits, finite = self._head(hidden, wanted)
        self._fail_what_is_not_finite(finite, counts)
        for row in joined:
            row.suffix = None
        if joined:
            self._keep_prefixes([row for row in joined if row.sequence._end is not Finish.FAILED])
        at = 0
        for row, draft in zip(self._rows, [*drafts, *([] for _ in joined)]):
            place = slice(at, at + 1 + len(draft))
            at = place.stop
            self._accept(row, draft, tokens[place], probabilities[place], logits[place])

    def _layout(self, counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, slots, and which slots each token sees, of the last counts[i] tokens of every row."""
        total, extent = sum(counts), self.cache.extent
        positions, slots = np.empty(total, np.int64), np.empty(total, np.int64)
        sees = np.zeros((total, extent), np.bool_)
        end = 0
        for row, count in zip(self._rows, counts):
            begin, end = end, end + count
            old = len(row.slots) - count
            positions[begin:end] = np.arange(old, old + count)
            slots[begin:end] = row.slots[old:]
            sees[begin:end, row.slots] = True
            if count > 1:
                sees[begin:end, row.slots[old:]] = np.tri(count, dtype=np.bool_)
        return positions, slots, sees

    def _fail_what_is_not_finite(self, finite: np.ndarray, counts: list[int]) -> None:
        """End every row that stands on a token whose numbers are not finite: its own, or one it shares."""
        if finite.all():
            return
        fed = np.concatenate([row.slots[len(row.slots) - count:] for row, count in zip(self._rows, counts)])
        for row in self._rows:
            if np.isin(row.slots, fed[~finite]).any():
                row.sequence._end = Finish.FAILED

    def _accept(self, row: _Row, draft: list[int], tokens: list[int], probabilities: list[float],
                logits: torch.Tensor) -> None:
        """Take the next token of a row, several where its draft agrees with the choice."""
        if row.sequence._end is Finish.FAILED:
            return
        if row.generator is not None:
            token, probability = _sample(logits[0], row.sequence.sampling, row.generator)
            tokens, probabilities = [token], [probability]
        taken = 1
        while taken <= len(draft) and tokens[taken - 1] == draft[taken - 1]:
            taken += 1
        self.counters["accepted_draft_tokens"] += taken - 1
        rejected = len(draft) + 1 - taken
        if rejected:
            self.cache.release(row.slots[-rejected:])
            row.slots = row.slots[:-rejected]
        for j in range(taken):
            if not self._append(row.sequence, tokens[j], probabilities[j]):
                break
            row.pending = tokens[j]

    def _append(self, sequence: Sequence, token: int, probability: float) -> bool:
        """Take one token; False when the sequence is at its end."""
        self.counters["generated_tokens"] += 1
        if token in self.stop_ids:
            sequence.end(Finish.STOP)
            return False
        sequence.generated.append(token)
        sequence.probabilities.append(probability)
        full = len(sequence.generated) >= sequence.max_new_tokens
        if full or len(sequence.prompt) + len(sequence.generated) >= self.context:
            sequence.end(Finish.LENGTH)
            return False
        return True

    def _draft(self, row: _Row) -> list[int]:
        """Prompt lookup: what followed in the earlier text where it last read as the generated text does now."""
        sequence = row.sequence
        if not sequence.draft or row.generator is not None:
            return []
        generated, earlier = sequence.generated, sequence.draft
        room = min(self.draft_tokens, sequence.max_new_tokens - len(generated) - 1,
                   self.context - len(sequence.prompt) - len(generated) - 1)
        at = len(generated)
        if tuple(generated[-2:]) != earlier[max(0, at - 2):at]:  # the texts have parted: find the place again
            at = next((i for i in range(len(earlier) - 1, 1, -1) if earlier[i - 2:i] == tuple(generated[-2:])), -1)
        draft = list(earlier[at:at + max(0, room)]) if at >= 0 else []
        self.counters["draft_tokens"] += len(draft)
        return draft

    # --- leaving -------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        for queue in (self._urgent, self._waiting):
            for sequence in [s for s in queue if s._end is not None]:
                sequence.finish = sequence._end
                queue.remove(sequence)
        for row in [row for row in self._rows if row.sequence._end is not None]:
            self._keep(row)
            self.cache.release(row.slots)
            self._rows.remove(row)
            row.sequence.finish = row.sequence._end
        if not self._rows and self._reads_all:
            self.cache.shrink()

    def _keep(self, row: _Row) -> None:
        sequence = row.sequence
        if sequence.keep_as is None or sequence._end not in (Finish.STOP, Finish.LENGTH):
            return
        # A text that ended within an accepted draft has fed more than it generated.
        fed = min(len(row.slots) - len(sequence.prompt), len(sequence.generated))
        prompt = Prompt.of([*sequence.prompt.ids, *sequence.generated[:fed]],
                           [*sequence.prompt.region_index, *[-1] * fed], sequence.prompt.vision)
        self.store.put(sequence.keep_as, prompt, self.cache.copy_out(row.slots[:len(prompt)]))


def _sample(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[int, float]:
    """A token drawn by temperature and top-p from logits [V], and its probability under the model."""
    probabilities = (logits / sampling.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0  # the most likely token always stays
    token = int(order[torch.multinomial(ordered, 1, generator=generator)])
    return token, float(logits.softmax(-1)[token])
