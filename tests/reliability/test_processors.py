"""Seeded damage to the files of a processor: an answer or an InputError, nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bivlm
from bivlm.errors import InputError
from bivlm.families.processors import load_processor
from tiny import tiny_model, tiny_processor, tiny_samples

MUTANTS = 150
FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")
VALUES = [
    None,
    0,
    -5,
    1,
    True,
    "",
    [],
    {},
    "x",
    1e9,
    2**40,
    float("nan"),
    [1, 2],
    {"a": 1},
    "\udcff",
    3.5,
    [None],
]


def places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value; six entries of a list are enough."""
    entries = content.items() if isinstance(content, dict) else enumerate(content[:6])
    for key, value in entries:
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from places(value, (*before, key))


def mutant(text: str, drawn: random.Random) -> str:
    """The JSON text with one value lost or exchanged."""
    content = json.loads(text)
    *way, last = drawn.choice(list(places(content))[:200])
    holder = content
    for key in way:
        holder = holder[key]
    if drawn.random() < 0.2:
        del holder[last]
    else:
        holder[last] = drawn.choice(VALUES)
    return json.dumps(content)


def test_damaged_settings_give_an_answer_or_an_input_error(tmp_path: Path):
    model, sample, drawn = tiny_model("llava"), tiny_samples(1)[0], random.Random(0)
    tiny_processor("llava").save_pretrained(tmp_path)
    sound = {name: (tmp_path / name).read_text() for name in FILES}
    refused = 0
    for _ in range(MUTANTS):
        name = drawn.choice(FILES)
        (tmp_path / name).write_text(mutant(sound[name], drawn))
        try:
            processor = load_processor(tmp_path)
            bivlm.answer(model, processor, sample.image, sample.question, max_new_tokens=2)
        except InputError:
            refused += 1
        (tmp_path / name).write_text(sound[name])
    assert MUTANTS // 3 < refused < MUTANTS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "num_additional_image_tokens",
            2**40,
            r"has num_additional_image_tokens 1\.1e\+12, and at most 1048576",
        ),
        ("num_additional_image_tokens", 7, "the model cannot read what its processor made"),
        ("patch_size", 0, "the processor refuses the image or the question"),
    ],
)
def test_numbers_that_make_no_sense_are_named(field: str, value: int, message: str):
    processor, sample = tiny_processor("llava"), tiny_samples(1)[0]
    setattr(processor, field, value)
    with pytest.raises(InputError, match=message):
        bivlm.answer(tiny_model("llava"), processor, sample.image, sample.question)
