"""A model that is read block by block: what has its weights, and when."""

import sys

import psutil
import pytest
import torch

from bivlm.checkpoint.source import SourceModel
from tiny import tiny_checkpoint, tiny_model
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


def embedding_of(source) -> torch.Tensor:
    return source.model.get_input_embeddings().weight.detach()


@pytest.mark.parametrize("kind", ["llava", "gemma3"])
def test_rows_of_the_embedding_that_were_read_leave_the_memory(kind, tmp_path):
    source = source_of(kind, tmp_path / kind)
    blocks = [path for stack in source.family.stacks for path in stack.block_paths(source.model)]
    source.drop_embedding_rows()  # none are there
    assert embedding_of(source).is_meta
    with source.surroundings(blocks):
        before = embedding_of(source)
        source.drop_embedding_rows()
        after = embedding_of(source)
        assert after.data_ptr() != before.data_ptr()
        assert torch.equal(after, before)
        for name, other in source.model.all_tied_weights_keys.items():
            assert source.model.get_parameter(name) is source.model.get_parameter(other)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell what a file has in memory")
def test_what_was_read_of_an_embedding_is_resident_no_more(tmp_path):
    model = tiny_model("llava", torch.float32)
    model.resize_token_embeddings(1 << 16, mean_resizing=False)
    model.save_pretrained(tmp_path)
    source, process = SourceModel(tmp_path), psutil.Process()
    with source.surroundings([]):
        size = embedding_of(source).nbytes
        assert float(embedding_of(source).sum()) != 0.0  # all of it is read
        read = process.memory_info().shared
        source.drop_embedding_rows()
        assert read - process.memory_info().shared > 0.8 * size > 8e6
