"""Running text for a language model: pages of a folder, stripped of HTML, half to calibrate and half to test,
cut into windows of tokens.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from torch import Tensor

from bivlm.errors import InputError

HTML, PLAIN = (".html", ".htm", ".xhtml"), (".txt", ".md")
SHORTEST, NAVIGATION = 3000, 400  # characters: shorter pages are left out; what every page begins with


class PageText(HTMLParser):
    """Collects what a reader sees of a page as running text."""

    UNSEEN = ("script", "style", "pre")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.inside_unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside_unseen += tag in self.UNSEEN

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """<script src="…"/> opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        self.inside_unseen = max(0, self.inside_unseen - (tag in self.UNSEEN))

    def handle_data(self, data: str) -> None:
        if not self.inside_unseen:
            self.parts.append(data)


def strip_html(page: str) -> str:
    parser = PageText()
    parser.feed(page)
    parser.close()
    return f" {' '.join(parser.parts)} "  # a page begins and ends with a tag


def read_text(folder: Path) -> tuple[str, str]:
    """The text that calibrates and the text that tests. InputError when the folder has fewer than two pages
    that are long enough.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; --text is a folder of text or HTML files")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in HTML + PLAIN)
    contents = [(path, path.read_text(encoding="utf-8", errors="ignore")) for path in files]
    pages = [
        re.sub(r"\s+", " ", strip_html(content) if path.suffix.lower() in HTML else content)
        for path, content in contents
    ]
    pages = [page[NAVIGATION:] for page in pages if len(page) > SHORTEST]
    if len(pages) < 2:
        kinds = ", ".join(HTML + PLAIN)
        raise InputError(
            f"{folder} has {len(pages)} pages of more than {SHORTEST} characters in {len(files)} files"
            f" ({kinds}); 2 are needed"
        )
    return " ".join(pages[::2]), " ".join(pages[1::2])


def token_windows(tokenizer: Any, text: str, purpose: str, count: int, length: int) -> Tensor:
    """The first `count` windows of `length` tokens: (count, length). InputError when the text has fewer
    tokens.
    """
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False).input_ids[0]
    if len(ids) < count * length:
        needed = f"{count} windows of {length} need {count * length}"
        raise InputError(
            f"the text to {purpose} with is too short: it has {len(ids)} tokens, {needed}; give more or"
            " longer pages"
        )
    return ids[: count * length].view(count, length)
