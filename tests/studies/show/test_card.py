"""The picture of answers on the card of a packed folder."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bivlm.checkpoint.place import PICTURE_NAME, foreign_files
from bivlm.checkpoint.verify import verify_folder
from bivlm.cli.shared import app
from bivlm.errors import InputError
from bivlm.studies.show.card import BEGIN, END, MOST_BYTES, put_on_card, small_png, with_picture
from bivlm.studies.show.run import ShownAnswer
from bivlm.types import Sample

ROWS = [
    ShownAnswer("full", 16.0, 15_000_000, "green", 1, 1.0),
    ShownAnswer("small", 2.0, 1_000_000, "", 1, 0.5),
]
GREEN = Image.new("RGB", (64, 64), (0, 255, 0))
CARD = "---\n# no title\ntags:\n- a\n---\n# The model\n\nWords.\n"


def test_the_command_puts_a_small_picture_on_the_card(packed, tmp_path):
    GREEN.save(tmp_path / "green.png")
    before = (packed / "README.md").read_text()
    for question in ("what color is the shape?", "is there a red shape?"):
        asked = ["--image", str(tmp_path / "green.png"), "--question", question, "--card", str(packed)]
        told = CliRunner().invoke(app, ["show", str(packed), *asked])
        assert told.exit_code == 0, told.output
        card = (packed / "README.md").read_text()
        assert card.count(f"]({PICTURE_NAME})") == card.count(BEGIN) == card.count(END) == 1
        assert question in card
        assert card.replace(card[card.index(f"\n{BEGIN}") : card.index(END) + len(END) + 1], "") == before
    assert (packed / PICTURE_NAME).stat().st_size <= MOST_BYTES
    with Image.open(packed / PICTURE_NAME) as drawn:
        assert drawn.format == "PNG"
    verify_folder(packed)
    assert foreign_files(packed) == []


def test_no_place_is_refused(packed):
    told = CliRunner().invoke(app, ["show", str(packed), "--question", "What?"])
    assert isinstance(told.exception, InputError)
    assert "--out FILE.png, --card FOLDER, or both" in str(told.exception)


@pytest.mark.parametrize("missing", ["config.json", "README.md"])
def test_a_folder_without_a_card_is_refused(tmp_path, packed, missing):
    for name in {"config.json", "README.md"} - {missing}:
        (tmp_path / name).write_bytes((packed / name).read_bytes())
    with pytest.raises(
        InputError, match="no folder that bivlm packed" if missing == "config.json" else "no README.md"
    ):
        put_on_card(Sample((GREEN,), "What?"), ROWS, tmp_path)


def test_a_card_that_is_no_text_is_left_as_it_is(tmp_path, packed):
    (tmp_path / "config.json").write_bytes((packed / "config.json").read_bytes())
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no text in UTF-8"):
        put_on_card(Sample((GREEN,), "What?"), ROWS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json"]


def test_a_picture_of_noise_becomes_small_enough(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (450, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    content = small_png(tmp_path / "noise.png")
    assert 50_000 < len(content) <= MOST_BYTES


def test_the_picture_stands_below_the_title_or_at_the_end():
    once = with_picture(CARD, "What [is] it?\nIs <b>it</b>?")
    assert once.index("# The model\n\n" + BEGIN) < once.index("Words.")
    assert r"What \[is\] it? Is \<b\>it\</b\>?" in once
    assert with_picture(with_picture(once, "Other?"), "What [is] it?\nIs <b>it</b>?") == once
    assert with_picture("Words.\n", "What?").startswith(f"Words.\n\n{BEGIN}\n")
