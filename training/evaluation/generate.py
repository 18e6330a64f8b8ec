"""Greedy answers to many prompts about one image, decoded as one batch on top of their common beginning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from ros_gpt4roi.model.checkpoint import LoadedModel
from ros_gpt4roi.model.gpt4roi import VisionOutput
from ros_gpt4roi.model.prompt import Encoded


def common_prefix(rows: Sequence[Encoded]) -> int:
    """How many tokens all rows begin with; at least one token of every row is left out of it."""
    ids = [list(zip(row.input_ids, row.region_index)) for row in rows]
    length = min(len(row) for row in ids) - 1
    first = ids[0]
    for row in ids[1:]:
        while row[:length] != first[:length]:
            length = next(i for i in range(length) if row[i] != first[i])
    return length


@torch.inference_mode()
def answer(loaded: LoadedModel, vision: VisionOutput, prompts: Sequence[Encoded],
           max_new_tokens: int = 80) -> list[str]:
    """The greedy answers to prompts about one image.

    vision: of that one image, batch 1. prompts: encoded with an open last round. Returns a text a prompt, regions as
    ``region3``, without the text that ends an answer.
    """
    model, language, device = loaded.model, loaded.model.language, loaded.model.device
    end = loaded.prompts.stop_text.strip()
    stop = loaded.tokenizer.encode(end, add_special_tokens=False)
    stop_id = stop[0] if len(stop) == 1 else None
    pad = loaded.tokenizer.pad_token_id
    batch, shared = len(prompts), common_prefix(prompts)
    cache = DynamicCache(config=language.config)
    if shared:
        ids = torch.tensor([prompts[0].input_ids[:shared]], device=device)
        index = torch.tensor([prompts[0].region_index[:shared]], device=device)
        language(inputs_embeds=model.embed(ids, vision, index), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(batch)
    tails = [(p.input_ids[shared:], p.region_index[shared:]) for p in prompts]
    length = max(len(ids) for ids, _ in tails)
    # Padded on the left, so that every row's next token stands in the same column.
    ids = torch.tensor([[pad] * (length - len(t)) + t for t, _ in tails], device=device)
    index = torch.tensor([[-1] * (length - len(t)) + t for _, t in tails], device=device)
    real = torch.tensor([[0] * (length - len(t)) + [1] * len(t) for t, _ in tails], device=device)
    mask = torch.cat([torch.ones(batch, shared, dtype=real.dtype, device=device), real], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    everyone = VisionOutput(*(part.expand(batch, *part.shape[1:]) for part in vision))
    # An image token among the tails would be counted from the wrong place: the image belongs to the common beginning.
    if (ids == model.image_token_id).any():
        raise ValueError("the prompts do not begin with the same image")
    embeddings = model.embed(ids, everyone, index)
    rows: list[list[int]] = [[] for _ in prompts]
    still = list(range(batch))  # which prompt each row of the batch belongs to
    ended: set[int] = set()
    for _ in range(max_new_tokens):
        out = language(inputs_embeds=embeddings, past_key_values=cache, attention_mask=mask, position_ids=positions,
                       use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1)
        for row, chosen in zip(still, token.tolist()):
            if chosen == stop_id:
                ended.add(row)
            elif row not in ended:
                rows[row].append(chosen)
        if len(ended) == batch:
            break
        mask = torch.cat([mask, mask.new_ones(len(still), 1)], dim=1)
        positions = positions[:, -1:] + 1
        keep = [place for place, row in enumerate(still) if row not in ended]
        # Most answers are a word, some are sentences. Rows that have ended leave, but not one by one: each time is a copy.
        if len(keep) <= len(still) // 2:
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            still = [still[place] for place in keep]
            token, mask, positions = token[index], mask[index], positions[index]
        embeddings = language.get_input_embeddings()(token)[:, None]
    return [loaded.tokenizer.decode(row, skip_special_tokens=True).split(end)[0].strip() for row in rows]
