"""The small vision-language model that ships with the package, and the script that trained it."""

from importlib import resources
from pathlib import Path


def embedded_model() -> Path:
    """The folder of the embedded model: a LLaVA of 7.6 million parameters trained on easy-VQA."""
    return Path(str(resources.files("bivlm").joinpath("zoo", "easy-llava")))
