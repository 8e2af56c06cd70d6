"""The chat template in a GGUF file.

transformers' template gets an image as a part of its own and writes the image's place (`<image>`), which the
processor expands. llama.cpp writes a marker into the text of a message instead, and puts the image's tokens
where the marker stands in the rendered prompt. So the exported template cuts each text at its markers, hands
the model's own template parts of both kinds, and writes the marker where that one writes the place:

    "<__media_…__>Is it red?" ─► [image, "Is it red?"] ─ the model's template ─► "USER: <image>\\nIs it red?"
        ─► "USER: <__media_…__>\\nIs it red?"
"""

from __future__ import annotations

import json
import re

BEGIN, END = "<__media", "__>"  # around the letters that llama.cpp's server draws for each process

# marks of what the model is trained on, which only transformers reads
_TRAINING = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
# `messages` with typed parts, and the marker in `seen.marker`
_PARTS = """\
{%- set seen = namespace(marker='BEGINEND', messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set given = [{'type': 'text', 'text': message['content']}] -%}
{%- else -%}
{%- set given = message['content'] -%}
{%- endif -%}
{%- set found = namespace(parts=[], images=0) -%}
{%- for part in given -%}
{%- set pieces = (part['text'] or '').split('BEGIN') -%}
{%- for piece in pieces -%}
{%- if loop.first -%}
{%- set text = piece -%}
{%- else -%}
{%- set halves = piece.split('END') -%}
{%- set seen.marker = 'BEGIN' + halves[0] + 'END' -%}
{%- set found.parts = found.parts + [{'type': 'image'}] -%}
{%- set found.images = found.images + 1 -%}
{%- set text = halves[1:] | join('END') -%}
{%- endif -%}
{%- if text -%}
{%- set found.parts = found.parts + [{'type': 'text', 'text': text}] -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- if found.images -%}
{%- set seen.messages = seen.messages + [{'role': message['role'], 'content': found.parts}] -%}
{%- else -%}
{%- set seen.messages = seen.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = seen.messages -%}
""".replace("BEGIN", BEGIN).replace("END", END)


def without_marks(template: str) -> str:
    """A chat template without the marks of what a model is trained on: comments stand in their places."""
    return _TRAINING.sub(r"{#\1 \2#}", template)


def with_markers(template: str, place: str, around: tuple[str, str] = ("", "")) -> str:
    """A chat template that takes llama.cpp's markers of images. `place` is what the model's own template
    writes for an image, `around` what the processor puts on both sides of the image's tokens and llama.cpp
    does not.
    """
    before, after = map(_text, around)
    marked = f"{{{{- rendered | replace({_text(place)}, {before} + seen.marker + {after}) -}}}}"
    return f"{_PARTS}{{%- set rendered -%}}{template}{{%- endset -%}}{marked}"


def from_prompt(prompt: str, image: str) -> str:
    """A chat template for a processor without one: a family's prompt (families/base.py) around the parts of a
    user's message; `image` stands for each image.
    """
    before, _, after = prompt.replace("{bos}", "").partition("{image}{question}")
    return (
        "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
        + _shown(before)
        + "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
        + _shown(image)
        + "{%- else -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}"
        + _shown(after)
        + "{%- endif -%}{%- endfor -%}"
    )


def _shown(text: str) -> str:
    """A piece of a template that writes a text as it is."""
    return f"{{{{- {_text(text)} -}}}}"


def _text(text: str) -> str:
    """A text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)
