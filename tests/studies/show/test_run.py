"""One question to several models, and the picture of their answers."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

import bivlm
import bivlm.cli
from bivlm.cli.shared import app
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.studies.show.picture import answers_picture
from bivlm.studies.show.run import ShownAnswer, show
from bivlm.types import Sample
from bivlm.zoo import embedded_model

GREEN = Image.new("RGB", (64, 64), "white")
GREEN.paste((0, 255, 0), (20, 20, 44, 44))


@pytest.fixture(scope="module")
def answers(packed):
    return show([embedded_model(), packed], read_samples("easy-vqa", limit=1)[0], max_new_tokens=4)


def test_every_model_answers_as_it_does_alone(packed, answers):
    sample = read_samples("easy-vqa", limit=1)[0]
    model, processor = bivlm.load(packed)
    assert answers[1].answer == bivlm.answer(model, processor, sample.image, sample.question)
    assert [answer.name for answer in answers] == ["easy-llava", "packed"]


def test_bits_and_bytes_are_those_on_the_disk(packed, answers):
    full, small = answers
    assert full.bits == 16.0
    assert small.bits == bivlm.inspect(packed).total.bits_per_weight
    assert small.nbytes == sum(file.stat().st_size for file in packed.glob("*.safetensors")) < full.nbytes / 4
    assert full.tokens >= 1
    assert full.tokens_per_second == full.tokens / full.seconds


def test_no_models_are_refused():
    with pytest.raises(InputError, match="no models to ask"):
        show([], Sample(GREEN, "What colour?"))


@pytest.mark.parametrize("images", [(), (GREEN,), (GREEN, GREEN)])
def test_the_picture_is_drawn_for_any_number_of_images(images, tmp_path):
    told = "a long answer with <markup>, $signs$ and many words " * 6
    rows = [
        ShownAnswer("full", 16.0, 15_000_000, told, 60, 2.0),
        ShownAnswer("small", 1.06, 1_500_000, "", 1, 0.5),
    ]
    answers_picture(Sample(images, "What costs $5 and $6?"), rows, tmp_path / "answers.png")
    with Image.open(tmp_path / "answers.png") as drawn:
        assert drawn.width == 1800
        assert drawn.convert("L").getextrema()[0] < 60


def test_the_command_draws_and_tells(packed, tmp_path):
    GREEN.save(tmp_path / "green.png")
    asked = ["--image", str(tmp_path / "green.png"), "--question", "what color is the shape?"]
    out = ["--out", str(tmp_path / "answers.png"), "--json"]
    told = CliRunner().invoke(app, ["show", str(packed), *asked, *out])
    assert told.exit_code == 0, told.output
    (row,) = json.loads(told.stdout)
    assert row["name"] == "packed"
    assert (tmp_path / "answers.png").is_file()
