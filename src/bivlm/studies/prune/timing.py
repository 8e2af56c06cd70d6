"""How long a prompt takes to read and how many bytes of keys and values it leaves, pruned and whole."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from bivlm.eval.answer import inference
from bivlm.families.last_logits import keeping
from bivlm.pruning.apply import prune
from bivlm.pruning.dropping.cache import cache_argument, cache_bytes
from bivlm.pruning.settings import Pruning

ROUNDS, SECONDS = 5, 1.0  # a prefill is timed this often at least, and for this long


def prefill(model: Any, inputs: dict[str, Tensor]) -> tuple[float, int]:
    """Seconds to the first token's logits, image encoding included, and the bytes of the cache that they
    leave.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    with inference(model):
        start = time.perf_counter()
        model(**inputs, **cache_argument(model, cache), use_cache=True, **keeping(model, 1))
        return time.perf_counter() - start, cache_bytes(cache)


def whole_prefill(model: Any, inputs: dict[str, Tensor]) -> tuple[float, int]:
    """Seconds (the median of ROUNDS) and bytes of the model as it is."""
    seconds = median(prefill(model, inputs)[0] for _ in range(ROUNDS))
    return seconds, prefill(model, inputs)[1]


def prefill_ratios(model: Any, inputs: dict[str, Tensor], pruning: Pruning) -> tuple[float, float]:
    """Time to first token and bytes of the cache, as ratios to no pruning, measured in turns: medians of at
    least ROUNDS. The model is left with the pruning on.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    sizes: dict[bool, int] = {}
    started = time.perf_counter()
    while len(times[True]) < ROUNDS or time.perf_counter() - started < SECONDS:
        for cut in (False, True):
            prune(model, pruning if cut else None)
            seconds, sizes[cut] = prefill(model, inputs)
            times[cut].append(seconds)
    return median(times[True]) / median(times[False]), sizes[True] / sizes[False]
