"""bivlm recount from outside: the table, JSON, the picture, and one line for mistakes."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from stored_headers import write_folder, write_gguf, write_safetensors

UP = "model.language_model.layers.0.mlp.up_proj"
GPTQ = {
    f"{UP}.qweight": ("I32", (4, 96)),
    f"{UP}.qzeros": ("I32", (2, 6)),
    f"{UP}.scales": ("F16", (2, 96)),
    "model.visual.blocks.0.mlp.fc1.weight": ("BF16", (64, 32)),
}
TEXT = {"token_embd.weight": ("Q4_0", (4, 32)), "blk.0.attn_q.weight": ("Q2_K", (2, 256))}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "People-7B-1.58bit", GPTQ, {"quant_method": "gptq", "bits": 2})


def test_the_table_says_what_is_claimed_and_what_is_there(run, folder):
    code, out, error = run("recount", folder)
    assert (code, error) == (0, "")
    text = " ".join(out.split())
    assert "│ vision │ 2,048 │ 4.10 kB │ 16.000 │" in text
    assert "│ language │ 6,144 │ 1.97 kB │ 2.562 │ 1 │ 2.562 │ GPTQ 2-bit 100% │" in text
    assert "1.58bit, that is 1.58; counted:" in text
    assert "config.json: 2 bits, that is 2; counted:" in text


def test_several_are_compared(run, folder, tmp_path):
    write_gguf(tmp_path / "m-Q2_K.gguf", "llama", TEXT)
    code, out, _ = run("recount", folder, tmp_path / "m-Q2_K.gguf")
    assert code == 0
    overview = out.rpartition("claimed")[2]
    assert [words in overview for words in ("People-7B-1.58bit", "m-Q2_K.gguf")] == [True, True]


def test_json_is_the_whole_account(run, folder):
    code, out, _ = run("recount", folder, "--json")
    (found,) = json.loads(out)
    assert code == 0
    assert found["total"]["nbytes"] == sum(row["nbytes"] for row in found["rows"])
    assert found["claims"][0] == {
        "bits": 1.58,
        "words": "1.58bit",
        "where": "the folder's or repository's name",
    }
    assert found["file_bits"] == 8 * found["file_bytes"] / found["total"]["weights"]


def test_the_picture(run, folder, tmp_path):
    unknown = {f"{UP}.codes": ("U8", (4, 4)), "lm_head.weight": ("BF16", (4, 4))}
    other = write_folder(tmp_path / "$odd$ [name]", unknown)
    picture = tmp_path / "bits.png"
    assert run("recount", folder, other, "--picture", picture)[0] == 0
    with Image.open(picture) as image:
        assert image.width == 1350
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_an_odd_name_is_no_markup_and_no_code(run, tmp_path):
    stored = {"[bold]w\x1b[2J.a": ("I32", (2, 2)), "$x$.weight": ("F16", (2,))}
    code, out, _ = run("recount", write_folder(tmp_path / "[red]x[", stored))
    assert code == 0
    assert "[red]x[" in out
    assert "[bold]w\\x1b[2J" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["recount", "nowhere"], "nowhere is no file, no folder"),
        (["recount", "BIN"], "is a pickle"),
        (["recount", "FOLDER", "--picture", "no/such/p.png"], "there is no folder no/such"),
        (["recount", "CUT"], "cut short"),
        (["recount", "people/model"], "the hub could not be reached"),
    ],
)
def test_mistakes_are_one_line(run, folder, tmp_path, words, told):
    (tmp_path / "w.bin").write_bytes(b"\x80\x02")
    whole = write_safetensors(tmp_path / "a.safetensors", GPTQ).read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-5])
    places = {"BIN": tmp_path / "w.bin", "FOLDER": folder, "CUT": tmp_path / "a.safetensors"}
    code, out, error = run(*(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert told in " ".join(error.split())
    assert "Traceback" not in error


def test_counting_imports_no_torch(folder):
    code = (
        "import sys; sys.argv = ['bivlm', 'recount', sys.argv[1]]\nfrom bivlm import cli\ntry: cli.main()\n"
        "except SystemExit: print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
