"""Packages that a model's processor or vision tower needs and that are not installed: named in one line that
says what to install.

transformers asks for them in many words, some of them far from the cause: a tokenizer without tokenizer.json
that needs sentencepiece ends with a request for tiktoken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from bivlm.errors import cut

ASKED = (
    re.compile(r"pip install ([A-Za-z][\w.-]*\w)"),
    re.compile(r"requires the (\w[\w.-]*) library"),
    re.compile(r"No module named '(\w+)"),
)
# where the name alone is not what helps
INSTALL = {
    "tiktoken": "sentencepiece protobuf tiktoken",
    "sentencepiece": "sentencepiece protobuf",
    "mistral_common": "mistral-common",
}


def missing_package(error: BaseException) -> str | None:
    """What an exception says is not installed, and the command that installs it; None if it says no such
    thing.
    """
    told = [str(cause) for cause in _causes(error)]
    if isinstance(error, ImportError) and any("torchvision" in text.lower() for text in told):
        return (
            "needs torchvision, which is missing or does not go with the installed torch"
            f" {torch.__version__}; install the torchvision of the same release (pip install torchvision)"
        )
    found = [match[1] for text in told for asked in ASKED if (match := asked.search(text))]
    if not found:
        return None
    name = cut(found[0].lower(), 60)
    return f"needs the package {name}, which is not installed: pip install {INSTALL.get(name, name)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
