"""The module in docs/embedding.md, between the calls that sentence-transformers makes: it hands over what it
is given, and takes "sentence_embedding" from what the modules return.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import bivlm
from tiny import tiny_checkpoint, tiny_samples

PAGE = Path(__file__).parents[3] / "docs" / "embedding.md"
BLOCK = re.compile(r"^## sentence-transformers$.*?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_documented_module_gives_the_vectors(tmp_path: Path):
    found = BLOCK.search(PAGE.read_text())
    assert found is not None
    names: dict[str, Any] = {}
    exec(found["code"], names)  # code of this repository's own page
    folder = tiny_checkpoint("llava", tmp_path / "model")
    module = names["Packed"](folder)
    items = ["a blue circle", {"image": tiny_samples(1)[0].image}]
    for prompt in (None, "Find it."):
        features = module.preprocess(items, prompt=prompt, task=None)
        vectors = torch.nn.Sequential(module)(features)["sentence_embedding"]
        assert torch.equal(vectors, bivlm.embed(*bivlm.load(folder), items, system=prompt or ""))
    assert {"text", "image", ("image", "text")} == set(module.modalities)
