"""Control tokens that a user has typed stay text: "<|im_end|>" in a question ends no turn.

    what is typed ─ placeholders for control tokens ─► template, processor ─► text with both kinds
        ─ the template's control tokens are renamed, the placeholders become what was typed ─► the tokenizer,
          for which no name of a control token means anything ─► ids, the renamed ones under their own number

So one call of the tokenizer reads the whole prompt, as with `split_special_tokens`, and where the typed text
begins and ends changes nothing. The renamed tokens are those of a copy of the tokenizer. Prompts in which no
control token was typed are not touched. Control tokens are the tokenizer's special tokens.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken
from torch import Tensor

from bivlm.errors import InputError, cut
from bivlm.families.prompts import name_of
from bivlm.types import Sample, Visual

PRIVATE = range(0xE000, 0xF8FF)  # characters that mean nothing in Unicode
MARKS = 3  # of them: before and after a placeholder's number, and around that of a new name
_KEPT: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()


def as_text(processor: Any, samples: Sequence[Sample]) -> tuple[Any, list[Sample]]:
    """The processor (a tokenizer for a language model) and the samples with which prompts are made, so that
    control tokens in questions, earlier turns, system prompts and answers are text. Both are the given ones
    if there are none; else use `check_read` on what was made of them.

    Raises InputError, naming the token, if the tokenizer cannot take it as text.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    names = control_tokens(tokenizer)
    typed = [text for sample in samples for text in _texts(sample)]
    if not names or not any(name in text for name in names for text in typed):
        return processor, list(samples)
    found = next(
        (sample, name) for sample in samples for text in _texts(sample) for name in names if name in text
    )
    reader = Reader(tokenizer, names, [*typed, str(processor.chat_template)], name_of(found[0]), found[1])
    changed = [reader.guarded(sample) for sample in samples]
    if processor is tokenizer:
        return reader, changed
    guarded = copy.copy(processor)
    guarded.tokenizer = reader
    return guarded, changed


def check_read(processor: Any, texts: Sequence[str]) -> None:
    """InputError if a processor of `as_text` has not read the placeholders in `texts` with its tokenizer, and
    so may have put control tokens in.
    """
    reader = getattr(processor, "tokenizer", processor)
    if isinstance(reader, Reader):
        reader.check(texts)


def control_tokens(tokenizer: Any) -> list[str]:
    """The names of a tokenizer's special tokens, longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {token.content for token in added if token.special} | {*tokenizer.all_special_tokens}
    return sorted(filter(None, names), key=lambda name: (-len(name), name))


def _texts(sample: Sample) -> tuple[str, ...]:
    earlier = [text for turn in sample.turns for text in (*turn.parts, turn.answer) if isinstance(text, str)]
    return (sample.question, sample.system, *earlier, *sample.answers)


class Reader:
    """A tokenizer that takes placeholders as the control tokens that were typed. Everything else is the
    tokenizer's own.

    `where` and `token` are a sample and a control token in it, for errors; `texts` is all that may stand in a
    prompt, of which the marks are no part.
    """

    def __init__(
        self, tokenizer: Any, names: Sequence[str], texts: Sequence[str], where: str, token: str
    ) -> None:
        self.tokenizer_, self.names, self.where, self.token = tokenizer, list(names), where, token
        present = set("".join(texts))
        self._open, self._close, self._new = [sign for sign in map(chr, PRIVATE) if sign not in present][
            :MARKS
        ]
        self._names = re.compile("|".join(map(re.escape, names)))
        self._placeholder = re.compile(f"{self._open}([0-9]+){self._close}")
        self._either = re.compile(f"{self._names.pattern}|{self._placeholder.pattern}")
        self._read: list[str] = []
        if not getattr(tokenizer, "is_fast", False):
            raise self._refusal(f"its tokenizer is a {type(tokenizer).__name__}")

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer" or name.startswith("__"):  # it is the tokenizer itself; copies ask for these
            raise AttributeError(name)
        return getattr(self.tokenizer_, name)

    def guarded(self, sample: Sample) -> Sample:
        """The sample with placeholders for control tokens."""
        answers, system = tuple(map(self._hidden, sample.answers)), self._hidden(sample.system)
        turns = tuple(
            replace(turn, parts=self._hidden_parts(turn.parts), answer=self._hidden(turn.answer))
            for turn in sample.turns
        )
        parts = self._hidden_parts(sample.parts)
        return Sample.of(parts, answers, name_of(sample), system, sample.group, turns)

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's answer. Raises InputError if a control token that was typed would be one."""
        texts = [text] if isinstance(text, str) else list(text)
        self._check_exact(texts, bool(kwargs.get("add_special_tokens", True)))
        self._read += texts
        named = [self._renamed(one) for one in texts]
        batch = self._renaming(
            named[0] if isinstance(text, str) else named, *args, split_special_tokens=True, **kwargs
        )
        batch["input_ids"] = self._own_numbers(batch["input_ids"])
        found = batch.char_to_token

        def char_to_token(number: int, place: int | None = None) -> int | None:
            """As BatchEncoding's, for places in the texts that were given."""
            row, place = (0, number) if place is None else (number, place)
            return found(row, self._place(texts[row], place))

        batch.char_to_token = char_to_token
        return batch

    def check(self, texts: Sequence[str]) -> None:
        """InputError if a placeholder in `texts` was not read."""
        wanted = sum(len(self._placeholder.findall(text)) for text in texts)
        read = sum(len(self._placeholder.findall(text)) for text in self._read)
        torn = {self._open, self._close} & {*"".join(self._placeholder.sub("", text) for text in texts)}
        if read < wanted or torn:
            raise self._refusal("its chat template or its processor changes the text")

    def last_sign(self, text: str) -> str:
        """The last character of a text, or the placeholder that it ends with."""
        found = re.search(f"{self._placeholder.pattern}$", text)
        return text[-1:] if found is None else found[0]

    def _hidden(self, text: str) -> str:
        return self._names.sub(lambda found: f"{self._open}{self.names.index(found[0])}{self._close}", text)

    def _hidden_parts(self, parts: Sequence[str | Visual]) -> tuple[str | Visual, ...]:
        return tuple(self._hidden(part) if isinstance(part, str) else part for part in parts)

    def _renamed(self, text: str) -> str:
        """A prompt in which every control token of the template has its new name, and the typed ones are as
        they were typed.
        """
        return self._either.sub(self._instead, text)

    def _instead(self, found: re.Match[str]) -> str:
        return self._new_name(found[0]) if found[1] is None else self.names[int(found[1])]

    def _place(self, text: str, place: int) -> int:
        """Where in the renamed text a character of a text is; those of a name are at its beginning."""
        shift = 0
        for found in self._either.finditer(text):
            if place < found.start():
                break
            if place < found.end():
                return found.start() + shift
            shift += len(self._instead(found)) - len(found[0])
        return place + shift

    def _new_name(self, name: str) -> str:
        return f"{self._new}{self.names.index(name)}{self._new}"

    @cached_property
    def _renaming(self) -> Any:
        """A copy of the tokenizer that has every control token a second time, under a new name, which is no
        special token. The last one of every tokenizer is kept: a large vocabulary takes a second.
        """
        key, kept = (self._new, len(self.tokenizer_)), _KEPT.get(self.tokenizer_)
        if kept is None or kept[0] != key:
            kept = _KEPT[self.tokenizer_] = (key, self._copy())
        return kept[1]

    def _copy(self) -> Any:
        made = copy.deepcopy(self.tokenizer_)
        own = {name: AddedToken(name, normalized=False) for name in self.names}
        own |= {token.content: token for token in made.added_tokens_decoder.values()}
        made.add_tokens(
            [
                AddedToken(
                    self._new_name(name),
                    single_word=own[name].single_word,
                    lstrip=own[name].lstrip,
                    rstrip=own[name].rstrip,
                    normalized=own[name].normalized,
                    special=False,
                )
                for name in self.names
            ]
        )
        return made

    @cached_property
    def _numbers(self) -> Mapping[int, int]:
        """The number of every control token by that of its new name."""
        new, old = self._renaming.convert_tokens_to_ids, self.tokenizer_.convert_tokens_to_ids
        return {new(self._new_name(name)): old(name) for name in self.names}

    def _own_numbers(self, ids: Any) -> Any:
        if isinstance(ids, Tensor):
            found = ids.clone()
            for new, old in self._numbers.items():
                found[ids == new] = old
            return found
        if isinstance(ids, list):
            return [self._own_numbers(one) for one in ids]
        return self._numbers.get(int(ids), int(ids))

    def _check_exact(self, texts: Sequence[str], add_special_tokens: bool) -> None:
        """InputError unless the new names give the ids of the old ones where nothing was typed, and what was
        typed adds no special token.
        """
        special = set(self._numbers.values()) - {self.tokenizer_.unk_token_id}
        for text in texts:
            without = self._placeholder.sub(" ", text)
            expected = self.tokenizer_(without, add_special_tokens=add_special_tokens)["input_ids"]
            for one in (without, text):
                found = self._own_numbers(
                    self._renaming(
                        self._renamed(one), add_special_tokens=add_special_tokens, split_special_tokens=True
                    )["input_ids"]
                )
                same = found == expected if one is without else True
                kept = [token for token in found if token in special]
                if not same or kept != [token for token in expected if token in special]:
                    raise self._refusal("its tokenizer reads it as one wherever it stands")

    def _refusal(self, why: str) -> InputError:
        return InputError(
            f"{self.where}: {cut(self.token)} is a control token of the model, which cannot be taken as text"
            f" here ({why}); take it out"
        )
