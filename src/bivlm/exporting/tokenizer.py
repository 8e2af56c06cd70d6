"""The tokenizer in a GGUF file: llama.cpp has tokenizers of its own, so a model's must be one of the kinds
that it knows.

    gpt2    byte-level BPE; `pre` says how text is cut into words first     GPT-2, Llama 3, Qwen, SmolLM
    llama   SentencePiece BPE: the pair with the highest score is joined first     Llama 2, LLaVA-1.5, Gemma

What cuts the text is compared piece by piece with what llama.cpp does; anything else is refused, because
answers would get worse without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bivlm.errors import InputError
from bivlm.exporting.plan import Value

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.h: llama_token_attr
SPACE = "▁"  # of SentencePiece

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# how a byte-level tokenizer cuts words, as `_cut` describes it, and llama.cpp's name for it (llama-vocab.cpp)
PRE = {
    ("bytes and words",): "gpt-2",
    ("digits", "bytes and words"): "smollm",
    (_QWEN2, "bytes"): "qwen2",
    (_QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), "bytes"): "llama-bpe",
}


def tokenizer_metadata(
    folder: Path, tokenizer: Any, vocabulary: int, ends: Sequence[int]
) -> dict[str, Value]:
    """The metadata of a tokenizer of transformers for a model of `vocabulary` tokens; `ends` are the ids that
    end an answer. InputError for a tokenizer that llama.cpp does not have.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"{folder}: its tokenizer ({type(tokenizer).__name__}) has no tokenizer.json, so it cannot be"
            " exported"
        )
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise InputError(
            f"{folder}: its tokenizer is a {model['type']}; llama.cpp's byte-level BPE and SentencePiece BPE"
            " can be exported"
        )
    pieces, types = _vocabulary(folder, content, vocabulary)
    found: dict[str, Value] = {"tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type": types}
    merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    found |= (
        _sentence_pieces(folder, content, pieces, types, merges)
        if model.get("byte_fallback")
        else _bytes(folder, content, merges)
    )
    return found | _special(tokenizer, ends)


def _vocabulary(folder: Path, content: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The pieces and their types by id, up to the model's number of tokens."""
    pieces = [f"[PAD{index}]" for index in range(size)]
    types = [UNUSED] * size
    largest = max(content["model"]["vocab"].values())
    if largest >= size:
        raise InputError(
            f"{folder}: its tokenizer has the token {largest}, and the model's embedding {size} rows;"
            " llama.cpp needs a row for each token, so it cannot be exported"
        )
    # an added token without a row is of no use to the model itself
    added = {token["id"]: token for token in content["added_tokens"] if token["id"] < size}
    for piece, index in content["model"]["vocab"].items():
        pieces[index], types[index] = piece, NORMAL
    for index, token in added.items():
        pieces[index], types[index] = token["content"], CONTROL if token["special"] else USER
    return pieces, types


def _bytes(folder: Path, content: Mapping[str, Any], merges: Sequence[tuple[str, ...]]) -> dict[str, Value]:
    """The metadata of a byte-level BPE."""
    cuts = tuple(_cut(step) for step in _steps(content["pre_tokenizer"], "pretokenizers"))
    pre = PRE.get(cuts)
    if pre is None or any(step["type"] != "NFC" for step in _steps(content["normalizer"], "normalizers")):
        known = ", ".join(PRE.values())
        raise InputError(
            f"{folder}: its tokenizer cuts text into words in a way for which this bivlm knows no name of"
            f" llama.cpp's, so it cannot be exported; known are those of {known}"
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
    }


def _steps(step: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    """A normalizer's or pre-tokenizer's steps, one after the other."""
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def _cut(step: Mapping[str, Any]) -> str:
    """A step of a pre-tokenizer in words, the keys of PRE."""
    if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
        return "bytes and words" if step["use_regex"] else "bytes"
    if step["type"] == "Digits" and step["individual_digits"]:
        return "digits"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return step["pattern"].get("Regex", "")
    return f"unknown: {step['type']}"


def _sentence_pieces(
    folder: Path,
    content: Mapping[str, Any],
    pieces: Sequence[str],
    types: list[int],
    merges: Sequence[tuple[str, ...]],
) -> dict[str, Value]:
    """The metadata of a SentencePiece BPE. Its scores are the order in which pairs are joined."""
    steps = [
        *_steps(content["normalizer"], "normalizers"),
        *_steps(content["pre_tokenizer"], "pretokenizers"),
    ]
    first = [step for step in steps if step["type"] == "Prepend" and step["prepend"] == SPACE]
    meta = [step for step in steps if step["type"] == "Metaspace" and step["replacement"] == SPACE]
    spaces = [step for step in steps if step["type"] == "Replace" and step["pattern"] == {"String": " "}]
    whole = [step for step in steps if step["type"] == "Split" and step["pattern"] == {"String": " "}]
    if len(first) + len(meta) + len(spaces) + len(whole) != len(steps) or not (meta or spaces):
        raise InputError(
            f"{folder}: its tokenizer prepares text in a way that llama.cpp's SentencePiece does not, so it"
            " cannot be exported"
        )
    rank: dict[str, int] = {}
    for index, pair in enumerate(merges):
        rank.setdefault("".join(pair), index)
    unknown = content["model"].get("unk_token")
    for index, piece in enumerate(pieces):
        if piece == unknown:
            types[index] = UNKNOWN
        elif types[index] == NORMAL and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            types[index] = BYTE
    scores = [-float(rank.get(piece, len(merges))) for piece in pieces]
    prefix = bool(first) or any(step.get("prepend_scheme") != "never" for step in meta)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _special(tokenizer: Any, ends: Sequence[int]) -> dict[str, Value]:
    """The tokens with a task, and whether the first one is put in front by the tokenizer itself."""
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    found: dict[str, Value] = {
        f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items() if index is not None
    }
    others = [index for index in ends if index != tokenizer.eos_token_id]
    if others:
        found["tokenizer.ggml.eot_token_id"] = others[0]
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    ends_too = tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]
    return found | {"tokenizer.ggml.add_bos_token": begins, "tokenizer.ggml.add_eos_token": ends_too}
