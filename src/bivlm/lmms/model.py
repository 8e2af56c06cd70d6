"""The class that lmms-eval makes and asks: a model of bivlm with lmms-eval's interface."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

from bivlm.errors import InputError
from bivlm.eval.answer import generate, inference, prepare, texts
from bivlm.families import family_of
from bivlm.lmms.messages import Decoding, sample_of
from bivlm.loading import FROM_CHECKPOINT, load

logger = logging.getLogger(__name__)


class Bivlm(lmms):
    """A folder that `bivlm.load` reads, packed or in full precision, as a chat model of lmms-eval.

    The arguments are those of `bivlm.load`, as texts; `pruning=none` keeps all visual tokens, and since
    commas separate the arguments, a pruning has semicolons (`pruning=attention:layer=2;keep=0.25`). Raises
    InputError for an argument that is not known, and as `bivlm.load` does.
    """

    is_simple = False  # lmms-eval hands over chats with images in their places

    def __init__(
        self,
        pretrained: str,
        *,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        activations: str = "float",
        pruning: str = FROM_CHECKPOINT,
        adapter: str | None = None,
        max_pixels: int | str | None = None,
        min_pixels: int | str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise InputError(
                f"the model bivlm has no argument {', '.join(unknown)}; it has pretrained, device, dtype,"
                " activations, pruning, adapter, max_pixels and min_pixels"
            )
        if activations not in ("float", "int8"):
            raise InputError(f"activations={activations!r}; give float or int8")
        self._device = torch.device(_device(device))
        self.model, self.processor = load(
            pretrained,
            device=self._device,
            dtype=None if dtype in (None, "auto") else _dtype(str(dtype)),
            activations="int8" if activations == "int8" else "float",
            pruning=None if pruning == "none" else pruning.replace(";", ","),
            adapter=adapter,
            max_pixels=None if max_pixels is None else int(max_pixels),
            min_pixels=None if min_pixels is None else int(min_pixels),
        )
        self.family = family_of(self.model.config)
        self.batch_size = int(batch_size)

    @property
    def device(self) -> torch.device:
        return self._device

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """The answers to the requests, in their order, in batches of `batch_size` of the same settings."""
        from tqdm import tqdm

        results: list[Any] = []
        with tqdm(total=len(requests), desc="bivlm") as bar:
            for settings, group in groupby(requests, key=lambda request: request.args[2]):
                several, decoding = list(group), Decoding.of(settings)
                for start in range(0, len(several), self.batch_size):
                    results += self._answers(several[start : start + self.batch_size], decoding)
                    bar.update(len(results) - bar.n)
        return results

    def _answers(self, requests: Sequence[Any], decoding: Decoding) -> list[Any]:
        samples = [self._sample(request) for request in requests]
        with inference(self.model):
            inputs = prepare(self.model, self.processor, self.family, samples)
            answers = generate(self.model, self.processor, self.family, inputs, decoding.max_new_tokens)
            found = texts(self.model, self.processor, answers)
        counts = answers.mask.sum(1).tolist()
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), text)
        return [
            GenerationResult(text=decoding.cut(text), token_counts=TokenCounts(output_tokens=count))
            for text, count in zip(found, counts, strict=True)
        ]

    def _sample(self, request: Any) -> Any:
        _, to_messages, _, number, task, split = request.args
        return sample_of(to_messages(self.task_dict[task][split][number]), f"{task}/{split}:{number}")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise InputError("bivlm answers by generation; choose the task's variant with generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise InputError("bivlm answers one question at a time; choose a task with one turn")


def _device(name: str | None) -> str:
    """The device; by default CUDA where there is one. (lmms-eval passes its own --device, which may be
    None.)
    """
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype={name!r}; give auto, float32, bfloat16 or float16")
    return found
