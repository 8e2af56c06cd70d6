"""Asks folders in vLLM, in vLLM's own environment, one after the other: a JSON request on standard input, a
JSON answer in the file that it names. `stock_vllm.py` starts it with that environment's Python.

    {"out": FILE, "runs": [{"folder": …, "prompts": [{"text": …, "image": FILE}, {"ids": […]}], "tokens": 4,
     "top": 5, "engine": {…}, "together": 0}]}

The answer, for each run: `ready`, seconds until the engine stands; `answers`, for each prompt the ids of its
tokens and the steps of the greedy answer (log-probabilities by token, the chosen one first); `speed`, with
"together" N, the tokens per second of one prompt and of N at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

ENVIRONMENT = {  # before vLLM is imported: a small cache, no process of its own, nothing sent anywhere
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
ENGINE = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 512, "disable_log_stats": True}
LENGTH = 32  # tokens of an answer whose speed is measured


def prompt_of(asked):
    """A prompt as vLLM takes it."""
    if "ids" in asked:
        return {"prompt_token_ids": asked["ids"]}
    from PIL import Image

    image = Image.open(asked["image"]).convert("RGB")
    return {"prompt": asked["text"], "multi_modal_data": {"image": image}}


def speed(llm, prompts):
    """Tokens per second of these prompts at once, the second time."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True)
    for _ in range(2):
        began = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
    return len(prompts) * LENGTH / (time.perf_counter() - began)


def told(output):
    """What the answer file says of one prompt."""
    [answer] = output.outputs
    steps = []
    for token, found in zip(answer.token_ids, answer.logprobs, strict=True):
        steps.append(
            [[token, found[token].logprob], *([one, found[one].logprob] for one in found if one != token)]
        )
    return {"prompt": list(output.prompt_token_ids), "text": answer.text, "steps": steps}


def run(asked):
    """One folder: an engine, its answers, its speed; nothing of it stays."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    began = time.perf_counter()
    llm = LLM(asked["folder"], **{**ENGINE, **asked["engine"]})
    answer = {"ready": time.perf_counter() - began}
    params = SamplingParams(temperature=0, max_tokens=asked["tokens"], logprobs=asked["top"])
    prompts = [prompt_of(one) for one in asked["prompts"]]
    answer["answers"] = [told(one) for one in llm.generate(prompts, params, use_tqdm=False)]
    if together := asked["together"]:
        answer["speed"] = [speed(llm, (prompts * count)[:count]) for count in (1, together)]
    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
    return answer


def main():
    request = json.loads(sys.stdin.read())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import vllm  # noqa: F401 - is no part of the first engine's seconds

    Path(request["out"]).write_text(json.dumps([run(asked) for asked in request["runs"]]))


if __name__ == "__main__":
    main()
