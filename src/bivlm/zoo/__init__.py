"""The small vision-language model that ships with the package, and the script that trained it."""

from importlib import resources
from pathlib import Path

from bivlm.errors import InputError


def embedded_model() -> Path:
    """The folder of the embedded model: a LLaVA of 7.6 million parameters trained on easy-VQA. Its weights
    are in a clone, and not in wheels.
    """
    return Path(str(resources.files("bivlm").joinpath("zoo", "easy-llava")))


def check_embedded_model() -> None:
    """InputError if this installation has no weights of the embedded model."""
    if not (embedded_model() / "model.safetensors").is_file():
        raise InputError(
            "this installation has no weights of the embedded model, which wheels leave out; get a clone of"
            " the project and run `make demo` there"
        )
