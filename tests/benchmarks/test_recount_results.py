"""The embedded model's names in GGUF lead to the same parts."""

from bivlm.recount.checkpoints import checkpoints_of
from bivlm.recount.parts import part_of
from bivlm.recount.place import place_of
from bivlm.zoo import embedded_model
from recount_results import gguf_name


def test_a_name_keeps_its_part():
    (checkpoint,) = checkpoints_of(place_of(embedded_model()))
    names = list(checkpoint.tensors)
    assert len({gguf_name(name) for name in names}) == len(names)
    assert [part_of(gguf_name(name), gguf=True) for name in names] == [part_of(name) for name in names]
