"""The decode loop: sequences join, all of them advance a step at a time, each leaves when it has ended.

What makes it fast, each by its name:
- shared prefix: what a prompt has in common with one seen before is copied from the prefix store, not computed;
- ragged batch: rows of any lengths run as one forward, each token at its own position (see RowCache);
- continuous batching: rows join and leave between two steps, nobody waits for the longest;
- prompt lookup: tokens of an earlier text are tried as a draft, several to a step, and kept where greedy decoding would
  have chosen the same;
- one readback a step: chosen tokens and their probabilities come from the device together.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import torch

from .kv_cache import Prompt, PrefixStore, RowCache


class Finish(Enum):
    """Why a sequence ended."""

    STOP = "stop"  # a stop token, or the owner found a stop text
    LENGTH = "length"  # the limit of new tokens
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    FAILED = "failed"  # the model gave numbers that are not finite


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_p in (0, 1] keeps the most likely tokens of that total probability."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature}, expected at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, expected more than 0 and at most 1")


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
    """A sequence in the batch. length: positions of its cache that are valid; pending: chosen, not yet fed."""

    def __init__(self, sequence: Sequence, length: int, device: torch.device):
        self.sequence, self.length, self.pending = sequence, length, -1
        self.generator: torch.Generator | None = None
        if sequence.sampling.temperature > 0:
            self.generator = torch.Generator(device).manual_seed(sequence.sampling.seed)


class Decoder:
    """Decodes sequences on one language model (a transformers causal language model). Not thread-safe.

    stop_ids: tokens that end a text. never_ids: tokens that are never chosen: placeholders that mean nothing in a text.
    context: most tokens of a prompt and its text. max_rows: rows that decode together; urgent_rows of them stay free
    for urgent sequences, so that these join at the next step whatever else is going on. draft_tokens: most draft tokens
    tried a step. cache_bytes: of the prefix store.
    """

    def __init__(self, language: torch.nn.Module, *, stop_ids: frozenset[int], never_ids: Iterable[int],
                 context: int, max_rows: int, urgent_rows: int, draft_tokens: int, cache_bytes: int):
        config = language.config
        embedding = language.get_input_embeddings().weight
        self._body, self._head = language.base_model, language.get_output_embeddings()
        self._embedding = language.get_input_embeddings()
        self._device = embedding.device
        self._never = torch.tensor(list(never_ids), dtype=torch.long, device=self._device)
        self.stop_ids, self.context, self.draft_tokens = stop_ids, context, draft_tokens
        self.max_rows, self.urgent_rows = max_rows, urgent_rows
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.rows_cache = RowCache(config.num_hidden_layers, heads, head_size, max_rows + 1, context,
                                   embedding.dtype, self._device)
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

    def reset(self) -> None:
        """Forget everything, after a failure."""
        self._rows.clear()
        self._waiting.clear()
        self._urgent.clear()
        self.store.clear()
        self.rows_cache.shrink()

    @torch.inference_mode()
    def step(self) -> None:
        """Let what was ended leave and what waits join, then advance every row by a token (or an accepted draft)."""
        self._leave()
        self._join()
        if self._rows:
            self._advance()
            self._leave()
        self.counters["steps"] += 1

    # --- joining -------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        arrivals: list[Sequence] = []
        while self._urgent and len(self._rows) + len(arrivals) < self.max_rows:
            arrivals.append(self._urgent.popleft())
        while self._waiting and len(self._rows) + len(arrivals) < self.max_rows - self.urgent_rows:
            arrivals.append(self._waiting.popleft())
        arrivals = [sequence for sequence in arrivals if not self._ended_before_start(sequence)]
        if not arrivals:
            return
        embeddings = [sequence.embed() for sequence in arrivals]
        self._share_prefix(arrivals, embeddings)
        first, starts = len(self._rows), []
        self.rows_cache.reserve(first + len(arrivals), max(len(s.prompt) for s in arrivals))
        for i, sequence in enumerate(arrivals):
            held, kept = self.store.longest(sequence.prompt)
            start = min(held, len(sequence.prompt) - 1)  # the last token is always computed: its logits are wanted
            if start:
                self.rows_cache.fill(first + i, 1, kept[:, :, :, :start])
            starts.append(start)
            self.counters["reused_tokens"] += start
        suffixes = [embedding[start:] for embedding, start in zip(embeddings, starts)]
        logits = self._prefill(first, suffixes, starts)
        self._rows += [_Row(sequence, len(sequence.prompt), self._device) for sequence in arrivals]
        self._accept(self._rows[first:], [[] for _ in arrivals], logits)
        self._leave()

    def _ended_before_start(self, sequence: Sequence) -> bool:
        sequence.finish = sequence._end
        return sequence.finish is not None

    def _share_prefix(self, arrivals: list[Sequence], embeddings: list[torch.Tensor]) -> None:
        """Compute once, and keep, what several arrivals over one vision output have in common."""
        groups: dict[Hashable, list[int]] = {}
        for i, sequence in enumerate(arrivals):
            groups.setdefault(sequence.prompt.vision, []).append(i)
        for vision, members in groups.items():
            leader = arrivals[members[0]].prompt
            common = min((leader.common_prefix(arrivals[i].prompt) for i in members[1:]), default=0)
            held, kept = self.store.longest(leader)
            if common <= held:
                continue
            row = len(self._rows)
            self.rows_cache.reserve(row + 1, common)
            if held:
                self.rows_cache.fill(row, 1, kept)
            self._prefill(row, [embeddings[members[0]][held:common]], [held])
            shared = Prompt(leader.ids[:common], leader.region_index[:common], vision)
            self.store.put(("frame", vision), shared, self.rows_cache.copy_out(row, common))

    def _prefill(self, first: int, suffixes: list[torch.Tensor], starts: list[int]) -> torch.Tensor:
        """Feed ragged suffixes to the rows from `first` on; the logits after each one's last token [rows, 1, V]."""
        counts = [len(suffix) for suffix in suffixes]
        batch = torch.nn.utils.rnn.pad_sequence(suffixes, batch_first=True)
        self.counters["prefilled_tokens"] += sum(counts)
        return self._forward(first, batch, starts, counts, last_only=True)

    # --- a step --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        drafts = [self._draft(row) for row in self._rows]
        fed = [[row.pending, *draft] for row, draft in zip(self._rows, drafts)]
        counts = [len(tokens) for tokens in fed]
        width = max(counts)
        ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in fed], device=self._device)
        starts = [row.length for row in self._rows]
        self.rows_cache.reserve(len(self._rows), max(s + c for s, c in zip(starts, counts)))
        logits = self._forward(0, self._embedding(ids), starts, counts)
        for row in self._rows:
            row.length += 1
        self._accept(self._rows, drafts, logits)

    def _forward(self, first: int, embeddings: torch.Tensor, starts: list[int], counts: list[int],
                 last_only: bool = False) -> torch.Tensor:
        """Run tokens [rows, q, D] of the rows from `first` on; counts[i] of row i are real, the first at starts[i].

        Returns logits [rows, q, V], or [rows, 1, V] after each row's last token.
        """
        rows, width = embeddings.shape[:2]
        length = max(start + count for start, count in zip(starts, counts))
        edges = torch.tensor([starts, counts], device=self._device)
        offsets = torch.arange(width, device=self._device)
        positions = edges[0].unsqueeze(1) + offsets
        real = offsets < edges[1].unsqueeze(1)
        mask = torch.arange(length, device=self._device) <= positions.unsqueeze(-1)
        self.rows_cache.aim(first, torch.where(real, positions, self.rows_cache.bin), length)
        hidden = self._body(inputs_embeds=embeddings, attention_mask=mask.unsqueeze(1), position_ids=positions,
                            past_key_values=self.rows_cache, use_cache=True).last_hidden_state
        if last_only:
            hidden = hidden[torch.arange(rows, device=self._device), edges[1] - 1].unsqueeze(1)
        return self._head(hidden).float().index_fill_(-1, self._never, float("-inf"))

    def _accept(self, rows: list[_Row], drafts: list[list[int]], logits: torch.Tensor) -> None:
        """Choose the next token of every row, several where its draft agrees with the choice."""
        greedy = logits.argmax(-1)
        chosen = logits.gather(-1, greedy.unsqueeze(-1)).squeeze(-1)
        # Tokens as doubles lose nothing, and one tensor is one readback.
        packed = torch.stack([greedy.double(), (chosen - logits.logsumexp(-1)).exp().double()]).tolist()
        for i, (row, draft) in enumerate(zip(rows, drafts)):
            tokens, probabilities = packed[0][i], packed[1][i]
            if row.generator is not None:
                token, probability = _sample(logits[i, 0], row.sequence.sampling, row.generator)
                tokens, probabilities = [token], [probability]
            taken = 1
            while taken <= len(draft) and int(tokens[taken - 1]) == draft[taken - 1]:
                taken += 1
            self.counters["accepted_draft_tokens"] += taken - 1
            row.length += taken - 1
            for j in range(taken):
                if not self._append(row, int(tokens[j]), probabilities[j]):
                    break

    def _append(self, row: _Row, token: int, probability: float) -> bool:
        """Take one token; False when the sequence is at its end."""
        sequence = row.sequence
        if probability != probability:  # not a number
            sequence.end(Finish.FAILED)
            return False
        self.counters["generated_tokens"] += 1
        if token in self.stop_ids:
            sequence.end(Finish.STOP)
            return False
        row.pending = token
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
        for i in reversed(range(len(self._rows))):
            row = self._rows[i]
            if row.sequence._end is None:
                continue
            self._keep(i, row)
            if row.sequence._end is Finish.FAILED:
                self.rows_cache.clear(i)  # what is not finite would spoil the next row here, masked or not
            last = self._rows.pop()
            if last is not row:
                self.rows_cache.move(len(self._rows), i, last.length)
                self._rows[i] = last
            row.sequence.finish = row.sequence._end

    def _keep(self, index: int, row: _Row) -> None:
        sequence = row.sequence
        if sequence.keep_as is None or sequence._end not in (Finish.STOP, Finish.LENGTH):
            return
        fed = min(row.length - len(sequence.prompt), len(sequence.generated))
        prompt = Prompt.of([*sequence.prompt.ids, *sequence.generated[:fed]],
                           [*sequence.prompt.region_index, *[-1] * fed], sequence.prompt.vision)
        length = len(prompt)
        self.store.put(sequence.keep_as, prompt, self.rows_cache.copy_out(index, length))


def _sample(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[int, float]:
    """A token drawn by temperature and top-p from logits [V], and its probability under the model."""
    probabilities = (logits / sampling.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0  # the most likely token always stays
    token = int(order[torch.multinomial(ordered, 1, generator=generator)])
    return token, float(logits.softmax(-1)[token])
