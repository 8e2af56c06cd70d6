"""Asks a folder in vLLM, in vLLM's own environment: a JSON request on standard input, a JSON answer in the file
that it names. benchmarks/bench_vllm.py and tests/vllm_plugin/ start it with that environment's Python.

    {"folder": …, "out": …, "prompts": [{"text": …, "image": FILE or null}], "max_tokens": 3, "logprobs": 5,
     "engine": {…}, "repeat": 0}

The answer: seconds until the engine is ready; for every prompt its token ids, the text, and the log-probabilities
of the first token by token id; with "repeat" N, the tokens per second of N prompts answered together, and of one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

ENVIRONMENT = {  # before vLLM is imported: a small cache, no threads bound, nothing sent anywhere
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
SMALL = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 512, "disable_log_stats": True}


def prompt_of(asked):
    if asked.get("image") is None:
        return {"prompt": asked["text"]}
    from PIL import Image

    return {
        "prompt": asked["text"],
        "multi_modal_data": {"image": Image.open(asked["image"]).convert("RGB")},
    }


def speed(llm, prompts, tokens):
    """Generated tokens per second of these prompts together."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    llm.generate(prompts, params, use_tqdm=False)
    began = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return len(prompts) * tokens / (time.perf_counter() - began)


def main():
    request = json.loads(sys.stdin.read())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    began = time.perf_counter()
    llm = LLM(request["folder"], **{**SMALL, **request.get("engine", {})})
    answer = {"ready": time.perf_counter() - began, "answers": []}
    params = SamplingParams(
        temperature=0, max_tokens=request.get("max_tokens", 3), logprobs=request.get("logprobs", 5)
    )
    prompts = [prompt_of(asked) for asked in request["prompts"]]
    for output in llm.generate(prompts, params, use_tqdm=False):
        [told] = output.outputs
        first = {str(token): one.logprob for token, one in told.logprobs[0].items()}
        answer["answers"].append(
            {"prompt": list(output.prompt_token_ids), "text": told.text, "tokens": list(told.token_ids), "first": first}
        )
    if count := request.get("repeat"):
        answer["speed"] = {str(n): speed(llm, (prompts * n)[:n], 32) for n in (1, count)}
    Path(request["out"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
