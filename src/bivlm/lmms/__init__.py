"""The model `bivlm` of lmms-eval: `python -m lmms_eval --model bivlm --model_args pretrained=FOLDER`.

lmms-eval finds it by the entry point `lmms_eval.models` of this package (pyproject.toml).
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry asks for: the model's name and its class, which is imported at its first
    use.
    """
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="bivlm", chat_class_path="bivlm.lmms.model.Bivlm")
