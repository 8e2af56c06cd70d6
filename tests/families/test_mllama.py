"""Which vision blocks of Llama-3.2-Vision are read, compared with the real model's configuration."""

from __future__ import annotations

import pytest
import transformers

from bivlm.families.mllama import intermediate_and_last


@pytest.mark.parametrize(
    ("indices", "blocks"), [(None, (3, 7, 15, 23, 30, 31)), ([31, 0], (0, 31)), ([-2], (30, 31))]
)
def test_intermediate_blocks_and_the_last(indices: list[int] | None, blocks: tuple[int, ...]):
    config = transformers.MllamaConfig(vision_config={"intermediate_layers_indices": indices}, text_config={})
    assert intermediate_and_last(config, 32) == blocks
