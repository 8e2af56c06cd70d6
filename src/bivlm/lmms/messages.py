"""lmms-eval's requests as bivlm's: a chat becomes a sample, generation settings a limit and stop words.

    [{"role": "user", "content": [{"type": "image", "url": image or path}, {"type": "text", "text": …}]}]

Decoding is greedy: that is what the tasks of lmms-eval ask for, and what bivlm does. Settings that ask for
sampling or beams are refused, because their results would be other ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bivlm.errors import InputError, cut
from bivlm.types import Picture, Sample

MOST_TOKENS = 1024  # of an answer, where the task sets no limit


@dataclass(frozen=True)
class Decoding:
    """How a request is answered: with `max_new_tokens` at most, cut before the first of the texts in
    `until`.
    """

    max_new_tokens: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Decoding:
        """From the generation settings of a task. Raises InputError for sampling and beams."""
        if (settings.get("num_beams") or 1) != 1 or (
            settings.get("do_sample") and settings.get("temperature")
        ):
            raise InputError(
                f"the task asks for sampling or beams ({cut(str(dict(settings)), 200)}), and bivlm decodes"
                " greedily; add --gen_kwargs temperature=0,do_sample=False,num_beams=1"
            )
        until = settings.get("until") or ()
        words = (until,) if isinstance(until, str) else tuple(until)
        return cls(int(settings.get("max_new_tokens") or MOST_TOKENS), tuple(word for word in words if word))

    def cut(self, answer: str) -> str:
        """The answer up to the first stop word."""
        for word in self.until:
            answer = answer.partition(word)[0]
        return answer.strip()


def sample_of(messages: Sequence[Mapping[str, Any]], origin: str) -> Sample:
    """The sample of a chat with one question.

    Raises InputError, naming `origin`, for several turns, and for audio and video.
    """
    asked = [message for message in messages if message["role"] == "user"]
    if len(asked) != 1 or any(message["role"] == "assistant" for message in messages):
        raise InputError(
            f"{origin}: the chat has {len(asked)} questions of the user, and examples or earlier answers;"
            " bivlm answers one question at a time: use --num_fewshot 0, and a task with one turn"
        )
    system = "".join(
        part["text"]
        for message in messages
        if message["role"] == "system"
        for part in message["content"]
        if part["type"] == "text"
    )
    return Sample.of([_part(part, origin) for part in asked[0]["content"]], origin=origin, system=system)


def _part(part: Mapping[str, Any], origin: str) -> str | Picture:
    """A text, or an image by path or in memory."""
    if part["type"] == "text":
        return part["text"]
    content = part.get("url")
    if part["type"] != "image" or not isinstance(content, str | Path | Image.Image):
        raise InputError(f"{origin}: the chat holds {part['type']}; bivlm answers questions about images")
    return Path(content) if isinstance(content, str) else content
