"""Tokenizers in llama.cpp's form; test_llama_cpp.py compares the tokens themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from bivlm.errors import InputError
from bivlm.exporting.tokenizer import BYTE, CONTROL, NORMAL, PRE, UNKNOWN, UNUSED, USER, tokenizer_metadata
from tiny import tiny_processor
from tokenizers_made import LLAMA2, byte_level, gemma, sentence_pieces

FOLDER = Path("model")
KEY = "tokenizer.ggml."


def told(tokenizer, size=None, ends=()):
    found = tokenizer_metadata(FOLDER, tokenizer, size or len(tokenizer), ends)
    return {key.removeprefix(KEY): value for key, value in found.items()}


def test_a_byte_level_tokenizer():
    tokenizer = tiny_processor("llava").tokenizer
    found = told(tokenizer, len(tokenizer) + 2)
    assert (found["model"], found["pre"]) == ("gpt2", "gpt-2")
    assert found["tokens"][:4] == ["<pad>", "<s>", "</s>", "<image>"]
    assert found["tokens"][-2:] == [f"[PAD{len(tokenizer)}]", f"[PAD{len(tokenizer) + 1}]"]
    assert [found["token_type"][index] for index in (1, 3, 10, -1)] == [CONTROL, CONTROL, NORMAL, UNUSED]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert found["merges"] == [" ".join(pair) for pair in merges]
    assert [found[f"{name}_token_id"] for name in ("padding", "bos", "eos")] == [0, 1, 2]
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, False)
    assert "unknown_token_id" not in found


def test_what_else_ends_an_answer():
    assert told(tiny_processor("llava").tokenizer, ends=[2, 7])["eot_token_id"] == 7
    assert "eot_token_id" not in told(tiny_processor("llava").tokenizer, ends=[2])


def test_added_words_are_the_users():
    tokenizer = tiny_processor("llava").tokenizer
    tokenizer.add_tokens(["wordnik"])
    assert told(tokenizer)["token_type"][-1] == USER


@pytest.mark.parametrize("pre", PRE.values())
def test_every_way_to_cut_words(pre):
    assert told(byte_level(pre))["pre"] == pre


def test_llama_2():
    found = told(sentence_pieces(LLAMA2))
    pieces, types = found["tokens"], found["token_type"]
    assert (found["model"], found["add_space_prefix"]) == ("llama", True)
    assert types[pieces.index("<unk>")] == UNKNOWN
    assert types[pieces.index("<0x0A>")] == BYTE
    merges = json.loads(sentence_pieces(LLAMA2).backend_tokenizer.to_str())["model"]["merges"]
    scores = [found["scores"][pieces.index("".join(pair))] for pair in merges]
    assert len(scores) > 50
    assert scores == sorted(scores, reverse=True)  # what is joined first has the highest


def test_gemma():
    found = told(gemma())
    assert (found["model"], found["add_space_prefix"]) == ("llama", False)


def wrapped(backend):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_other_kinds_are_refused():
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, "<s>"))
    with pytest.raises(InputError, match="its tokenizer is a WordLevel"):
        told(wrapped(words))


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "normalizer", normalizers.Lowercase()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Split(Regex("x"), "isolated")),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace()),
    ],
    ids=["lower case", "space in front", "another expression", "at spaces"],
)
def test_other_ways_to_cut_words_are_refused(change):
    tokenizer = byte_level("gpt-2")
    change(tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="cuts text into words in a way for which"):
        told(tokenizer)


def test_sentence_pieces_that_are_prepared_otherwise_are_refused():
    tokenizer = sentence_pieces(normalizers.Sequence([normalizers.NFKC(), *LLAMA2]))
    with pytest.raises(InputError, match="prepares text in a way"):
        told(tokenizer)


def test_a_vocabulary_larger_than_the_embedding():
    tokenizer = byte_level("gpt-2")
    with pytest.raises(InputError, match="its tokenizer has the token"):
        told(tokenizer, 100)


def test_an_added_token_without_a_row_is_left_out():
    tokenizer = tiny_processor("llava").tokenizer
    size = len(tokenizer)
    tokenizer.add_tokens(["<|later|>"], special_tokens=True)
    assert "<|later|>" not in told(tokenizer, size)["tokens"]


def test_a_tokenizer_in_python_is_refused():
    with pytest.raises(InputError, match=r"\(Slow\) has no tokenizer.json"):
        told(type("Slow", (), {"__len__": lambda self: 3})())
