"""`vision_feature_layer` against transformers' own hidden states."""

from __future__ import annotations

import pytest
import torch

from bivlm.families.llava import selected_features
from tiny import tiny_config, tiny_model


@pytest.mark.parametrize("kind", ["llava", "llava_siglip"])
@pytest.mark.parametrize("layers", [-1, -2, 1, 3, 0, -4, [-2, -1], [1, 3, -2], [0, -3]])
def test_selected_blocks_are_those_whose_outputs_transformers_reads(kind: str, layers: int | list[int]):
    tower = tiny_model(kind).model.vision_tower
    outputs: list[torch.Tensor] = []
    for block in tower.encoder.layers:
        block.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    with torch.inference_mode():
        states = tower(torch.randn(1, 3, 32, 32), output_hidden_states=True).hidden_states
    read = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    expected = {index for index, output in enumerate(outputs) for state in read if torch.equal(state, output)}
    config = tiny_config(kind)
    config.vision_feature_layer = layers
    assert selected_features(config, len(outputs)) == tuple(sorted(expected))
