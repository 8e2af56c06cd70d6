"""Stock llama.cpp, as the package xllamacpp has it, on exported files, and the same questions to
transformers.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from PIL import Image
from torch import Tensor

from bivlm.families import family_of
from bivlm.types import Sample

Steps = list[dict[int, float]]  # log-probabilities by token, the chosen one first
TOP = 5  # tokens of which llama.cpp tells the log-probabilities


class LlamaCpp:
    """A server on the files of a folder, with attention and its cache in float32, and with another chat
    template if one is given.
    """

    def __init__(self, folder: Path, template: str | None = None) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(folder / "model.gguf")
        if (folder / "mmproj.gguf").exists():
            params.mmproj.path = str(folder / "mmproj.gguf")
        params.n_ctx, params.n_parallel, params.warmup, params.port = 512, 1, False, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        if template is not None:
            params.chat_template = template
        params.use_jinja, params.verbosity = True, -1
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(params)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, with what the tokenizer itself puts in front."""
        return self._posted("tokenize", {"content": text, "add_special": True, "parse_special": True})[
            "tokens"
        ]

    def rendered(self, turns: Sequence[tuple[str, Sequence[str | None]]]) -> str:
        """The prompt of a conversation: roles with their parts, None for an image."""
        image = {"type": "image_url", "image_url": {"url": _url(Image.new("RGB", (8, 8)))}}
        messages = [
            {
                "role": role,
                "content": [image if part is None else {"type": "text", "text": part} for part in parts],
            }
            for role, parts in turns
        ]
        return self._posted("apply-template", {"messages": messages})["prompt"]

    def _posted(self, path: str, content: Any) -> Any:
        kind = {"Content-Type": "application/json"}
        request = Request(f"{self.server.listening_address}/{path}", json.dumps(content).encode(), kind)
        with urlopen(request) as told:
            return json.loads(told.read())

    def answer(self, sample: Sample, tokens: int, banned: Sequence[int] = ()) -> Steps:
        """A greedy answer without `banned` tokens: the log-probabilities of the most probable tokens at each
        step, the chosen one first.
        """
        content: list[dict[str, Any]] = []
        for part in sample.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                content.append({"type": "image_url", "image_url": {"url": _url(part)}})
        messages = [{"role": "user", "content": content}]
        asked = {"messages": messages, "top_logprobs": TOP, "logprobs": True}
        return self._told(self.server.handle_chat_completions, asked, tokens, banned)

    def goes_on(self, prompt: Sequence[int], tokens: int, banned: Sequence[int] = ()) -> Steps:
        """The same for what follows some tokens."""
        return self._told(
            self.server.handle_completions, {"prompt": list(prompt), "n_probs": TOP}, tokens, banned
        )

    def _told(
        self, handle: Callable[[Any], Any], asked: dict[str, Any], tokens: int, banned: Sequence[int]
    ) -> Steps:
        bias = [[token, False] for token in banned]
        told = handle({**asked, "max_tokens": tokens, "temperature": 0, "logit_bias": bias})
        told = json.loads(told) if isinstance(told, str | bytes) else told
        assert "logprobs" in told.get("choices", [{}])[0], told
        steps = told["choices"][0]["logprobs"]["content"]
        return [{one["id"]: one["logprob"] for one in (step, *step["top_logprobs"])} for step in steps]


def _url(image: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def not_printable(tokenizer: Any) -> list[int]:
    """Tokens that are no ASCII text: halves of characters, of which the server tells nothing, and all that
    end an answer.
    """
    texts = ((token, tokenizer.decode([token])) for token in range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    return [token for token, text in texts if token in special or not (text.isascii() and text.isprintable())]


@torch.inference_mode()
def largest_difference(logits: Tensor, steps: Steps) -> float:
    """Between llama.cpp's log-probabilities and those of transformers' logits (t, vocabulary), of which the
    last but one belongs to the last step.
    """
    told = logits[-len(steps) - 1 : -1].float().log_softmax(-1)
    return max(
        abs(float(row[token]) - value)
        for row, step in zip(told, steps, strict=True)
        for token, value in step.items()
    )


@torch.inference_mode()
def logits_of(model: Any, processor: Any, sample: Sample, steps: Steps) -> Tensor:
    """transformers' logits (t, vocabulary) for a question and the answer that llama.cpp gave."""
    family = family_of(model.config)
    inputs = family.inputs(processor, [sample], [sample.images])
    answer = torch.tensor([[next(iter(step)) for step in steps]])
    return model(**family.extend(inputs, answer, torch.ones_like(answer))).logits[0]
