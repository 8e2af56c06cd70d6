"""A model that is read block by block: what has its weights, and when."""

import pytest

from bivlm.checkpoint.source import SourceModel
from tiny import tiny_checkpoint
from tiny.vision import ALL, seeing_model


def source_of(kind, folder):
    if kind in ALL:
        seeing_model(kind).save_pretrained(folder)
        return SourceModel(folder)
    return SourceModel(tiny_checkpoint(kind, folder))


@pytest.mark.parametrize("kind", [*ALL, "gemma3", "llava"])
def test_around_the_blocks_everything_has_its_weight(kind, tmp_path):
    """A weight that another shares (SAM's positional embedding, a tied head) is in the files once. On the
    meta device torch would multiply with it all the same, and give whatever is in memory.
    """
    source = source_of(kind, tmp_path / kind)
    blocks = [path for stack in source.family.stacks for path in stack.block_paths(source.model)]
    left_out = source.family.untied_head(source.model)
    parameters = list(dict(source.model.named_parameters(remove_duplicate=False)))
    around = [
        name
        for name in parameters
        if name not in left_out and not any(name.startswith(f"{block}.") for block in blocks)
    ]
    for head in (False, True):
        with source.surroundings(blocks, head=head):
            assert [name for name in around if source.model.get_parameter(name).is_meta] == []
            for name, other in source.model.all_tied_weights_keys.items():
                assert source.model.get_parameter(name) is source.model.get_parameter(other)
        assert all(source.model.get_parameter(name).is_meta for name in parameters)
