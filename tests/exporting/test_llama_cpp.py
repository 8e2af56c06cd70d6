"""Stock llama.cpp on the exported files: the same answers as transformers, and log-probabilities within 0.01.

Pictures have the size that the model reads, because llama.cpp scales them by other rules. Tiny models have
random weights, so every part of them shows in their answers. llama.cpp has GELU's values in a table of
float16; the models of transformers get the same rounding here (`half_gelu`), for it adds up in random
weights.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from PIL import Image, ImageDraw
from torch import nn

import bivlm
import tiny
from bivlm.exporting.tokenizer import PRE
from bivlm.types import Sample
from bivlm.zoo import embedded_model
from stock_llama import LlamaCpp, largest_difference, logits_of, not_printable
from tiny.language import tiny_language_model
from tokenizers_made import LLAMA2, byte_level, gemma, sentence_pieces

pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
pytestmark = pytest.mark.slow

QUESTIONS = ("What color is the shape?", "Is there a blue shape?", "What shape is in the image?")
WITHIN = 0.01
ROUNDED = 0.05  # with one or two bits llama.cpp rounds the inputs of a product to eight
CORNERS = {"red": "rectangle", "blue": "ellipse", "teal": "rectangle"}


def pictures(size):
    found = []
    for colour, shape in CORNERS.items():
        image = Image.new("RGB", (size, size), "white")
        place = (size // 4, size // 8, size * 3 // 4, size * 5 // 8)
        getattr(ImageDraw.Draw(image), shape)(place, fill=colour)
        found.append(image)
    return found


@pytest.fixture
def half_gelu(monkeypatch):
    def rounded(x, approximate="none"):
        return gelu(x.half().float(), approximate="tanh").half().to(x.dtype)

    gelu = nn.functional.gelu
    monkeypatch.setattr(nn.functional, "gelu", rounded)


def compare(source, out, kind, size, within, banned=None):
    """Export a folder and ask both about every picture."""
    bivlm.export_gguf(source, out, kind=kind)
    model, processor = bivlm.load(source, dtype=torch.float32)
    server = LlamaCpp(out)
    left_out = not_printable(processor.tokenizer) if banned is None else banned
    for image in pictures(size):
        for question in QUESTIONS:
            sample = Sample(image, question)
            steps = server.answer(sample, 3, left_out)
            assert largest_difference(logits_of(model, processor, sample, steps), steps) < within
            if not left_out:
                chosen = [next(iter(step)) for step in steps]
                text = processor.tokenizer.decode(chosen, skip_special_tokens=True)
                assert bivlm.answer(model, processor, image, question, max_new_tokens=3) == text.strip()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    def make(preset, **settings):
        out = tmp_path_factory.mktemp("packed") / "out"
        bivlm.quantize(embedded_model(), out, recipe=preset, settings=settings, samples=8)
        return out

    return make


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_the_embedded_model(kind, tmp_path):
    compare(embedded_model(), tmp_path / "out", kind, 64, ROUNDED if kind == "BF16" else WITHIN, [])


def test_the_embedded_model_in_two_bits(packed, tmp_path):
    compare(packed("trellis-2"), tmp_path / "out", "F16", 64, WITHIN, [])


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("sign-1", {}),
        ("rtn-2", {"alphabet": 3, "group_size": 256, "zero_point": "middle", "scale_bits": 16}),
    ],
)
def test_exact_codes(preset, settings, packed, tmp_path):
    compare(packed(preset, **settings), tmp_path / "out", "F16", 64, ROUNDED)


def local(config):
    text = config.text_config
    text.num_hidden_layers, text.sliding_window = 6, 64
    text.layer_types = ["sliding_attention"] * 5 + ["full_attention"]


def windows(config):
    config.vision_config.window_size, config.vision_config.fullatt_block_indexes = 112, [1]


# a token of real vocabularies, which llama.cpp puts after the tiles
BLANK = (*tiny.ALL["smolvlm"].special, "\n\n")
MADE = {  # what llama.cpp's architectures fix
    "gemma3": {"change": local},
    "qwen2_5_vl": {"change": windows},
    "idefics3": {"special": BLANK},
    "smolvlm": {"special": BLANK},
}
SIZES = {"llava_siglip": 32, "internvl": 32, "gemma3": 32}


def member(name, folder, change=lambda config: None, **more):
    def config(tokenizer, tied):
        made = kind.config(tokenizer, tied)
        change(made)
        return made

    kind = tiny.ALL[name]
    made = replace(kind, config=config, **more)
    made.make_model(torch.float32).save_pretrained(folder)
    made.make_processor().save_pretrained(folder)
    return folder


FAMILIES = (
    *("gemma3", "idefics3", "internvl", "llava_siglip", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"),
)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family(kind, tmp_path, half_gelu):
    source = member(kind, tmp_path / "model", **MADE.get(kind, {}))
    compare(source, tmp_path / "out", "F32", SIZES.get(kind, 64), WITHIN)


def test_a_clip_tower_as_llama_cpp_computes_it(tmp_path, half_gelu, monkeypatch):
    """The file is right: with the class token after the patches, as llama.cpp's graph has it, transformers'
    model gives the same.
    """

    def class_last(self, pixel_values, **more):
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        found = torch.cat((patches, self.class_embedding.expand(len(patches), 1, -1)), 1)
        return found + self.position_embedding.weight

    source = member("llava", tmp_path / "model")
    with pytest.raises(AssertionError):
        compare(source, tmp_path / "out", "F32", 32, WITHIN)
    clip = transformers.models.clip.modeling_clip
    monkeypatch.setattr(clip.CLIPVisionEmbeddings, "forward", class_last)
    compare(source, tmp_path / "again", "F32", 32, WITHIN)


@pytest.mark.parametrize("model_type", ["gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"])
def test_language_models(model_type, tmp_path, half_gelu):
    source = tiny_language_model(model_type, tmp_path / "model", layers=8)
    bivlm.export_gguf(source, tmp_path / "out", kind="F32")
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    prompt = [1, 20, 30, 40, 200, 300, 50, 60]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    steps = LlamaCpp(tmp_path / "out").goes_on(prompt, 3, not_printable(tokenizer))
    asked = torch.tensor([[*prompt, *(next(iter(step)) for step in steps)]])
    assert largest_difference(model(asked).logits[0], steps) < 1e-3


TEXTS = (
    "Is it red, green or blue?",
    "  two spaces\tand a tab \n\n\nlines ",
    "1234567 years; it's WE'LL x2",
    "naïve 日本語 🙂 ½",
    "</s>What</s> is",
)


@pytest.mark.parametrize(
    "made",
    [
        *(pytest.param(lambda pre=pre: byte_level(pre), id=pre) for pre in PRE.values()),
        pytest.param(lambda: sentence_pieces(LLAMA2), id="Llama 2"),
        pytest.param(gemma, id="Gemma"),
    ],
)
def test_texts_have_the_same_tokens(made, tmp_path):
    tokenizer, source = made(), tmp_path / "model"
    config = tiny.language.tiny_language_config("qwen3", 1)
    config.vocab_size = len(tokenizer)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    loaded = transformers.AutoTokenizer.from_pretrained(source)
    bivlm.export_gguf(source, tmp_path / "out")
    server = LlamaCpp(tmp_path / "out")
    for text in TEXTS:
        assert server.tokens(text) == loaded(text)["input_ids"], text
