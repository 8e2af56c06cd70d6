"""Tokens into text while they come: no half characters, nothing after a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"  # what a tokenizer writes for the first bytes of a character
KEPT = 8  # tokens before the new ones that are decoded with them: a token's text depends on its neighbours


class Words:
    """The text of one answer, token by token. `stop`: texts before which it ends; `is_stopped`: one came."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.ends, self.stop = tokenizer, frozenset(ends), tuple(stop)
        self.is_stopped = False
        self._tokens: list[int] = []  # the last of those that are said, and those that are not
        self._said = 0  # characters of their text that are said
        self._held = ""  # what may be the beginning of a stop text
        self._begun = False

    def add(self, token: int) -> str:
        """The text that is certain after one more token; empty while a character or a stop text is not
        complete.
        """
        if token not in self.ends:
            self._tokens.append(token)
        text = self._text()
        if text.endswith(HALF):
            return ""
        new, self._tokens = text[self._said :], self._tokens[-KEPT:]
        self._said = len(self._text())
        return self._before_stop(new, last=False)

    def rest(self) -> str:
        """What is left at the end."""
        return self._before_stop(self._text()[self._said :], last=True)

    def _text(self) -> str:
        return self.tokenizer.decode(self._tokens, skip_special_tokens=True)

    def _before_stop(self, new: str, *, last: bool) -> str:
        """Held and new text up to a stop text, without what may be the beginning of one; spaces before the
        first word fall away.
        """
        if self.is_stopped:
            return ""
        whole = self._held + new
        places = [place for word in self.stop if (place := whole.find(word)) >= 0]
        if places:
            self.is_stopped, whole, self._held = True, whole[: min(places)], ""
        else:
            keep = 0 if last else max((_overlap(whole, word) for word in self.stop), default=0)
            cut = len(whole) - keep
            whole, self._held = whole[:cut], whole[cut:]
        if not self._begun:
            whole = whole.lstrip()
            self._begun = bool(whole)
        return whole


def _overlap(text: str, word: str) -> int:
    """How many characters at the end of a text may be the beginning of a word."""
    longest = min(len(text), len(word) - 1)
    return next((count for count in range(longest, 0, -1) if text.endswith(word[:count])), 0)
