"""`PackedEmbedding` and `TiedHead`: rows of the decoded table, a head with no weight but the embedding's,
moved, copied and saved as one.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from bivlm.errors import InputError
from bivlm.formats import FORMATS
from bivlm.packed.embedding import PackedEmbedding, TiedHead, replace_embedding, scale_of
from bivlm.packed.linear import packed_linears
from bivlm.packed.module import expand_weights, packed_modules, prepared_bytes, set_activations
from bivlm.packed.ops import ROWS
from bivlm.quantizers import QUANTIZERS, RTN, Trellis

ROWS_COLUMNS = (90, 48)  # two strips of the trellis, the second of them short
METHODS = {
    "trellis 3 bits": Trellis(bits=3, feedback=False),
    "trellis 0.75 bits, L = 12": Trellis(bits=0.75, window=12, feedback=False),
    "grid of 6 bits": RTN(bits=6, group_size=32, zero_point="code", scale_bits=8),
    "levels": QUANTIZERS["bivlm"](compensate=False),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def packed_by(method):
    return method.quantize(
        torch.randn(ROWS_COLUMNS, generator=torch.Generator().manual_seed(0)), None
    ).encode()


def table_of(packed):
    return FORMATS[packed.format].decode(packed).dequantize()


class Model(nn.Module):
    """Ids in, logits out, the head's weight being the embedding's where it is tied."""

    def __init__(self, tied=True, bias=False):
        super().__init__()
        self.embed = nn.Embedding(*ROWS_COLUMNS, padding_idx=0)
        self.head = nn.Linear(*reversed(ROWS_COLUMNS), bias=bias)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def packed_model(method, dtype=torch.float32, bias=False):
    model = Model(bias=bias).to(dtype)
    replace_embedding(model, "embed", packed_by(method), "head")
    return model


IDS = torch.tensor([[0, 89, 63, 64, 3], [3, 3, 1, 70, 65]])


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_looks_rows_up(method, dtype):
    embedding = PackedEmbedding(packed_by(method), None, dtype)
    found = embedding(IDS)
    assert found.dtype == dtype
    torch.testing.assert_close(found, table_of(packed_by(method)).to(dtype)[IDS])
    assert embedding(IDS[:, :0]).shape == (2, 0, ROWS_COLUMNS[1])
    torch.testing.assert_close(embedding(IDS[0, 1]), found[0, 1])  # an index without dimensions


def test_only_the_rows_at_hand_are_unpacked(monkeypatch):
    packed = packed_by(METHODS["trellis 3 bits"])
    embedding, kind = PackedEmbedding(packed, None, torch.float32), FORMATS[packed.format]
    expected = table_of(packed)[IDS]
    monkeypatch.setattr(kind, "dequantize", lambda self: pytest.fail("the whole table was unpacked"))
    torch.testing.assert_close(embedding(IDS), expected)


@every
@pytest.mark.parametrize("bias", [False, True])
def test_a_tied_head_multiplies_with_the_embeddings_weight(method, bias):
    model, table = packed_model(method, bias=bias), table_of(packed_by(method))
    x = torch.randn(2, 3, ROWS_COLUMNS[1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        model.head(x), nn.functional.linear(x, table, model.head.bias), rtol=1e-4, atol=1e-4
    )
    assert isinstance(model.head, TiedHead)
    assert (model.head.in_features, model.head.out_features) == tuple(reversed(ROWS_COLUMNS))


def test_the_weight_is_there_once():
    model = packed_model(METHODS["trellis 3 bits"], bias=True)
    assert list(packed_modules(model)) == ["embed"]
    assert not packed_linears(model)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"embed", "head"}
    assert [name for name in model.state_dict() if name.startswith("head")] == ["head.bias"]
    model(IDS)
    assert prepared_bytes(model) == model.embed.product().added_bytes


def test_stand_ins_have_the_shape_the_dtype_and_the_device():
    model = packed_model(METHODS["grid of 6 bits"], torch.bfloat16)
    for module in (model.embed, model.head):
        assert (module.weight.shape, module.weight.dtype) == (ROWS_COLUMNS, torch.bfloat16)
    assert (model.embed.num_embeddings, model.embed.embedding_dim, model.embed.padding_idx) == (
        *ROWS_COLUMNS,
        0,
    )


def test_stand_ins_are_nothing_to_look_up():
    model = packed_model(METHODS["levels"])
    for module in (model.embed, model.head):
        assert bool(module.weight[IDS].isnan().all())
        assert module.weight.untyped_storage().nbytes() == 4


def test_a_table_of_another_shape_is_refused_by_name_and_nothing_is_replaced():
    model, packed = Model(tied=False), packed_by(METHODS["levels"])
    model.head = nn.Linear(48, 91)
    with pytest.raises(InputError, match="the packed weight of head is"):
        replace_embedding(model, "embed", packed, "head")
    assert isinstance(model.embed, nn.Embedding)
    model.embed = nn.Embedding(91, 48)
    with pytest.raises(InputError, match="the packed weight of embed is"):
        replace_embedding(model, "embed", packed)


@every
def test_moves_copies_and_pickles_as_one(method):
    model = packed_model(method)
    expected = model(IDS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IDS), expected)
        assert other.head._embedding[0] is other.embed
        assert other.embed is not model.embed
    before = model.embed.packed.tensors
    model.to(torch.bfloat16)
    assert model(IDS).dtype == torch.bfloat16
    assert all(
        torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype
        for name, tensor in model.embed.packed.tensors.items()
    )


@every
def test_expanded_they_say_the_same(method):
    model = packed_model(method)
    expected = model(IDS)
    expand_weights(model)
    torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-4)


def test_int8_inputs_reach_the_tied_head():
    model = packed_model(METHODS["trellis 3 bits"])
    exact = model(IDS)
    set_activations(model, "int8")
    rounded = model(IDS)
    assert model.embed.activations == "int8"
    assert float((rounded - exact).abs().max()) < 0.05 * float(exact.abs().max())


@every
def test_torchs_own_check_of_the_operator(method):
    embedding = PackedEmbedding(packed_by(method), None, torch.bfloat16)
    for ids in (IDS, IDS[0, :1]):
        torch.library.opcheck(ROWS, (ids, embedding._handle, ROWS_COLUMNS[1], torch.bfloat16))


def test_compiled_in_one_graph():
    torch.compiler.reset()
    model = packed_model(METHODS["trellis 3 bits"])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        for ids in (IDS, IDS[:1, :2]):
            assert torch.equal(compiled(ids), model(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_scaled_as_the_embedding_did_and_the_head_is_not(dtype):
    """Gemma multiplies by the square root of the width, rounded to the dtype: 55.5 where it is 55.4256."""
    packed, model = packed_by(METHODS["trellis 3 bits"]), Model().to(dtype)
    scaled = Gemma3TextScaledWordEmbedding(*ROWS_COLUMNS, padding_idx=0, embed_scale=3072**0.5).to(dtype)
    scaled.weight = model.head.weight = nn.Parameter(table_of(packed).to(dtype))
    model.embed = scaled
    expected, rows = scaled(IDS), model.head.weight.clone()
    embedding = replace_embedding(model, "embed", packed, "head")
    assert torch.equal(embedding(IDS), expected)
    torch.testing.assert_close(model.head(torch.eye(48, dtype=dtype)), rows.T, rtol=0, atol=1e-2)
    plain = embedding.plain(nn.Parameter(rows))
    assert type(plain) is Gemma3TextScaledWordEmbedding
    assert torch.equal(plain(IDS), expected)


def test_an_embedding_of_an_unknown_kind_has_no_scale():
    class Odd(nn.Embedding):
        pass

    assert scale_of(nn.Embedding(2, 3)) == 1
    assert scale_of(Odd(2, 3)) is None


@pytest.mark.parametrize("wrong", [90, -1])
def test_an_id_outside_the_table_is_an_error(wrong):
    embedding = PackedEmbedding(packed_by(METHODS["trellis 3 bits"]), None, torch.float32)
    with pytest.raises(IndexError):
        embedding(torch.tensor([0, wrong]))
