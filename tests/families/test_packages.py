"""What is said where a model needs a package that is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from bivlm.checkpoint.guards import folder_blamed
from bivlm.errors import InputError
from bivlm.families import load_processor
from bivlm.families.packages import missing_package

TIMM = (
    "\nTimmWrapperModel requires the timm library but it was not found in your environment. You can install"
    " it with pip:\n`pip install timm`. Please note that you may need to restart your runtime."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError(TIMM), "needs the package timm, which is not installed: pip install timm"),
        (ModuleNotFoundError("No module named 'einops'"), "pip install einops"),
        (
            ImportError("Package `num2words` is required. Install it with `pip install num2words`."),
            "num2words",
        ),
        (
            ValueError("`tiktoken` is required. Install it with `pip install tiktoken`."),
            "sentencepiece protobuf",
        ),
        (ImportError("SentencePieceExtractor requires the SentencePiece library"), "sentencepiece protobuf"),
        (
            ImportError("Qwen2VLProcessor requires the Torchvision library"),
            "the torchvision of the same release",
        ),
        (ValueError("the numbers do not fit"), None),
        (ImportError("cannot import name 'x'"), None),
    ],
)
def test_a_missing_package_is_named_with_the_command(error: Exception, said: str | None):
    found = missing_package(error)
    assert (found is None) == (said is None)
    assert said is None or (said in str(found) and "\n" not in str(found))


def test_a_model_that_needs_a_package_is_told_apart_from_damage(tmp_path: Path):
    with pytest.raises(InputError, match="the model needs the package timm"), folder_blamed(tmp_path):
        raise ImportError(TIMM)


def test_a_tokenizer_that_needs_sentencepiece_is_told_apart_from_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ValueError(
            "`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`."
        )

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(
        InputError, match=r"its processor needs the package tiktoken.*pip install sentencepiece"
    ):
        load_processor(tmp_path)
