"""Small tokenizers of the kinds that real models have."""

from __future__ import annotations

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bivlm.exporting.tokenizer import PRE
from tiny.kind import CORPUS

LLAMA2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def byte_level(pre: str) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE that cuts words as llama.cpp's `pre` does."""
    cuts = next(key for key, name in PRE.items() if name == pre)
    steps = {
        "bytes and words": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "digits": pre_tokenizers.Digits(individual_digits=True),
    }
    made = [steps.get(cut) or pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts]
    backend = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = made[0] if len(made) == 1 else pre_tokenizers.Sequence(made)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS, "1234 years, it's 2024.\n\nWE'LL see"], trainer)
    return _wrapped(backend)


def sentence_pieces(normalizer: normalizers.Normalizer) -> transformers.PreTrainedTokenizerFast:
    """A SentencePiece BPE, bytes for what it has no piece for."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizer
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIAL, *pieces], show_progress=False)
    backend.train_from_iterator(f" {CORPUS}".split(". "), trainer)
    return _wrapped(_plain_bytes(backend))


def gemma() -> transformers.PreTrainedTokenizerFast:
    """A SentencePiece BPE that puts no space in front."""
    tokenizer = sentence_pieces(normalizers.Replace(" ", "▁"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def _plain_bytes(backend: Tokenizer) -> Tokenizer:
    """The same with the bytes as pieces of the model, and no longer as added tokens."""
    import json

    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(content))


def _wrapped(backend: Tokenizer) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
