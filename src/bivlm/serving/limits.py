"""What a server allows its clients."""

from __future__ import annotations

from dataclasses import dataclass

from bivlm.errors import InputError


@dataclass(frozen=True)
class Limits:
    """`most_tokens` of an answer, `most_images` of a request, `body_bytes` of a request with its images, and
    `seconds` that it may take from its arrival to the end of its answer. `api_key`: what clients have to
    present, None for nothing. `urls`: whether the images of a request may be at public addresses, which the
    server then fetches. InputError for numbers below 1.
    """

    most_tokens: int = 1024
    most_images: int = 16
    body_bytes: int = 32 << 20
    seconds: float = 300.0
    api_key: str | None = None
    urls: bool = False

    def __post_init__(self) -> None:
        for name in ("most_tokens", "most_images", "body_bytes", "seconds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
