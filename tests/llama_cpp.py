"""Stock llama.cpp, as the package xllamacpp has it, on exported files, and the same questions to transformers."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch

from bivlm.families import family_of
from bivlm.types import Sample

TOP = 5  # tokens of which llama.cpp tells the log-probabilities


class LlamaCpp:
    """A server on the files of a folder, with attention and its cache in float32."""

    def __init__(self, folder: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(folder / "model.gguf")
        if (folder / "mmproj.gguf").exists():
            params.mmproj.path = str(folder / "mmproj.gguf")
        params.n_ctx, params.n_parallel, params.warmup, params.port = 512, 1, False, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.use_jinja, params.verbosity = True, -1
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(params)

    def answer(self, sample: Sample, tokens: int, banned: list[int] | None = None) -> list[dict[int, float]]:
        """The log-probabilities of the most probable tokens at each step of a greedy answer without `banned`
        tokens, the chosen one first.
        """
        content: list[dict[str, Any]] = []
        for part in sample.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                file = io.BytesIO()
                part.save(file, "PNG")
                url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
                content.append({"type": "image_url", "image_url": {"url": url}})
        asked = {
            "messages": [{"role": "user", "content": content}],
            **{"max_tokens": tokens, "temperature": 0, "logprobs": True, "top_logprobs": TOP},
            "logit_bias": [[token, False] for token in banned or ()],
        }
        told = self.server.handle_chat_completions(asked)
        told = json.loads(told) if isinstance(told, str | bytes) else told
        assert "choices" in told and "logprobs" in told["choices"][0], told
        steps = told["choices"][0]["logprobs"]["content"]
        return [{one["id"]: one["logprob"] for one in (step, *step["top_logprobs"])} for step in steps]


def not_printable(tokenizer: Any) -> list[int]:
    """Tokens that are no ASCII text: halves of characters, of which the server tells nothing, and all that
    end an answer.
    """
    texts = ((token, tokenizer.decode([token])) for token in range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    return [token for token, text in texts if token in special or not (text.isascii() and text.isprintable())]


@torch.inference_mode()
def largest_difference(model: Any, processor: Any, sample: Sample, steps: list[dict[int, float]]) -> float:
    """Between llama.cpp's log-probabilities and those of a model of transformers that is given the same
    answer.
    """
    family = family_of(model.config)
    inputs = family.inputs(processor, [sample], [sample.images])
    answer = torch.tensor([[next(iter(step)) for step in steps]])
    logits = model(**family.extend(inputs, answer, torch.ones_like(answer))).logits[0].float()
    told = logits[-len(steps) - 1 : -1].log_softmax(-1)
    return max(
        abs(float(row[token]) - value)
        for row, step in zip(told, steps, strict=True)
        for token, value in step.items()
    )
