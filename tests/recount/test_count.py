"""What is counted: every byte of every tensor once, unknown weights said to be unknown, bivlm's own folders
as `bivlm inspect` counts them.
"""

import json

import pytest

from bivlm.eval.inspection import inspect
from bivlm.job.run import quantize
from bivlm.recount.run import recount
from stored_headers import nbytes, write_folder
from tiny import tiny_checkpoint, tiny_samples

UP = "model.language_model.layers.0.mlp.up_proj"
GPTQ = {
    f"{UP}.qweight": ("I32", (4, 96)),
    f"{UP}.qzeros": ("I32", (2, 6)),
    f"{UP}.scales": ("F16", (2, 96)),
    f"{UP}.g_idx": ("I32", (64,)),
}


def only(found):
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_checkpoint("llava", tmp_path_factory.mktemp("recount") / "source")


SLOW = ("trellis-2", "bivlm-paper:embeddings=4", "dbf-2", "pbllm-2.5", "squeezellm-sparse-2", "arb-3")


@pytest.mark.parametrize(
    "recipe", ["rtn-2:embeddings=3", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_folder_of_bivlm_counts_as_inspect_does(recipe, source, tmp_path):
    packed = quantize(source, tmp_path / "packed", data=tiny_samples(2), recipe=recipe)
    found, inspection = only(recount(packed)), inspect(packed)
    of_part = {
        row.name: (row.packed, row.packed_weights, row.packed_bytes) for row in found.rows if row.packed
    }
    tables = [of_part.pop(part) for part in ("embedding", "head") if part in of_part]
    if tables:
        of_part["embeddings"] = tuple(map(sum, zip(*tables, strict=True)))
    assert of_part == {row.name: (row.linears, row.weights, row.bytes_after) for row in inspection.parts}
    assert found.total.packed_bits == inspection.total.bits_per_weight
    assert found.file_bytes == sum(path.stat().st_size for path in packed.glob("*.safetensors"))
    assert found.total.weights == only(recount(source)).total.weights
    assert {claim.bits for claim in found.claims} <= {2.0}


def test_a_tied_head_is_stored_once(tmp_path):
    found = only(recount(tiny_checkpoint("llava_siglip", tmp_path / "source")))
    assert "head" not in {row.name for row in found.rows}
    assert "the head is the embedding's weight, stored once" in found.remarks


@pytest.mark.slow
def test_a_packed_tied_head_is_stored_once(tmp_path):
    source = tiny_checkpoint("llava_siglip", tmp_path / "source")
    packed = quantize(source, tmp_path / "packed", recipe="rtn-2:embeddings=3")
    found = only(recount(packed))
    assert "head" not in {row.name for row in found.rows}
    assert found.total.packed_bytes == inspect(packed).total.bytes_after


def test_every_byte_is_counted_once(tmp_path):
    stored = {
        **GPTQ,
        "model.visual.blocks.0.attn.qkv.weight": ("BF16", (12, 4)),
        "model.visual.merger.mlp.0.weight": ("F16", (4, 4)),
        "model.visual.rotary_pos_emb.inv_freq": ("F32", (4,)),
        "vision_tower.embeddings.position_ids": ("I64", (1, 9)),
        "model.embed_tokens.weight": ("F32", (8, 4)),
        "lm_head.weight": ("F8_E4M3", (8, 4)),
        "model.audio_tower.layers.0.fc1.weight": ("F64", (2, 2)),
        "something.nobody.knows": ("F16", (3,)),
        "model.language_model.layers.1.mlp.up_proj.codes": ("U8", (5, 5)),
        "model.language_model.layers.1.mlp.up_proj.bias": ("F16", (5,)),
        "counter": ("I32", (1,)),
        "empty": ("F32", (0, 4)),
    }
    found = only(recount(write_folder(tmp_path, stored, {"quant_method": "gptq", "bits": 2})))
    assert (
        found.total.nbytes
        == sum(row.nbytes for row in found.rows)
        == sum(nbytes(*e) for e in stored.values())
    )
    assert found.tensors == len(stored)
    rows = {row.name: row for row in found.rows}
    assert set(rows) == {"vision", "projector", "language", "embedding", "head", "other"}
    assert rows["vision"].weights == 48 + 4  # places of tokens are no weights
    assert (rows["head"].bits, rows["head"].packed) == (8.0, 1)
    assert rows["language"].weights is None
    assert rows["other"].nbytes == 32 + 6 + 4
    assert found.file_bytes == (tmp_path / "model.safetensors").stat().st_size > found.total.nbytes
    assert any("model.audio_tower (1)" in remark for remark in found.remarks)


@pytest.mark.parametrize("method", [None, "quip_sharper"])
def test_an_unknown_layout_has_bytes_and_no_weights(method, tmp_path):
    stored = {
        f"{UP}.Qidxs": ("I16", (96, 8)),
        f"{UP}.SU": ("F16", (64,)),
        f"{UP}.bias": ("F16", (96,)),
        "lm_head.weight": ("F16", (8, 64)),
    }
    found = only(recount(write_folder(tmp_path, stored, method and {"quant_method": method, "bits": 2})))
    language, head = found.rows
    assert (language.weights, language.bits, language.packed_bits) == (None, None, None)
    assert language.nbytes == 2 * (96 * 8 + 64 + 96)
    assert head.bits == 16.0
    assert (found.total.weights, found.file_bits) == (None, None)
    remark = only([remark for remark in found.remarks if "not known here" in remark])
    assert UP in remark
    assert (method or "1 linears") in remark


def test_other_bits_than_the_config_says_are_told(tmp_path):
    found = only(recount(write_folder(tmp_path, GPTQ, {"quant_method": "gptq", "bits": 4})))
    assert found.total.packed_weights == 64 * 96
    assert found.remarks == ("the config says 4 bits; by their shapes, of 1 linears: 1 with 2",)
    assert found.claims[0].bits == 4


def test_what_a_method_adds_to_a_linear_is_stored_for_it(tmp_path):
    more = {f"{UP}.res_u": ("F16", (96, 16)), f"{UP}.salient_idx": ("I32", (8,))}
    found = only(recount(write_folder(tmp_path, {**GPTQ, **more}, {"quant_method": "gptq", "bits": 2})))
    assert found.total.weights == 64 * 96
    assert found.total.nbytes == sum(nbytes(*entry) for entry in {**GPTQ, **more}.values())
    assert "res_u, salient_idx" in found.remarks[0]


ODD_CONFIGS = [
    *({"bits": bits} for bits in ("4", [4], 0, -3, float("inf"), float("nan"), 10**30, 2.5)),
    *({"group_size": size} for size in (-1, 0, 10**30)),
    *({"quant_method": method} for method in (5, None, "bivlm", "bitnet")),
    *({"config_groups": groups} for groups in ([1], {"a": 3}, {"a": {"weights": []}})),
    *({"quant_method": "bivlm", "modules": modules} for modules in ([], {"a": 1}, {"a": {"key": 3}})),
    *(
        {"quant_method": "bivlm", "modules": {"a": {"key": f"{UP}.", "shape": s}}}
        for s in ("x", [0, 2], [4, 4])
    ),
    {UP: {"bits": "x"}},
    {UP: [1]},
    {"recipe": {"name": 5}, "version": {}},
    {"quant_config": {"weight_quant_params": 5}},
]
ODD_SHAPES = [
    *(
        {"qweight": ("I32", s), "qzeros": ("I32", s), "scales": ("F16", s)}
        for s in ((), (0, 0), (0,), (1,), (1, 1, 1))
    ),
    *({"weight_packed": ("I32", s), "weight_scale": ("BF16", s)} for s in ((), (0, 0), (96, 4), (1,))),
    {
        "weight_packed": ("I32", (96, 4)),
        "weight_scale": ("BF16", (0, 2)),
        "weight_zero_point": ("I32", (0, 2)),
    },
    {"weight_packed": ("U8", (4, 4)), "weight_scale": ("F8_E4M3", (0,))},
    {"weight_packed": ("I32", (4, 4)), "scale_packed": ("F16", (0,)), "meta": ("I16", (0,))},
    *({"W_q": ("U8", s), "scale": ("F16", (4, 2))} for s in ((), (0, 4), (4, 4))),
    {"weight": ("U32", (4, 4)), "scales": ("F16", (0,))},
    *({"trellis": ("I16", s)} for s in ((), (0, 1, 16), (1,))),
    *({"q_weight": ("I32", s), "q_invperm": ("I32", ())} for s in ((), (2, 2))),
    {"codes": ("I16", (0, 0, 1)), "codebooks": ("F16", (1, 0, 0, 0))},
    {"weight": ("U8", ()), "weight.absmax": ("U8", ())},
    {"_weight_qdata": ("U8", ())},
]


def test_odd_configs_and_shapes_lose_no_byte(tmp_path):
    """Whatever a config says and however the shapes are: every byte is counted, nothing is raised."""
    stored = {
        f"{UP.replace('layers.0', f'layers.{number}')}.{ending}": entry
        for number, layout in enumerate(ODD_SHAPES)
        for ending, entry in layout.items()
    }
    for config in [None, *ODD_CONFIGS]:
        found = only(recount(write_folder(tmp_path, stored, config)))
        assert found.total.nbytes == sum(nbytes(*entry) for entry in stored.values()), config
        json.dumps(found.to_dict())


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_an_older_config_stands_for_quantization_config(name, tmp_path):
    stored = {key: entry for key, entry in GPTQ.items() if not key.endswith(("g_idx", "qzeros"))}
    folder = write_folder(tmp_path, stored)
    assert only(recount(folder)).total.weights is None
    (folder / name).write_text(json.dumps({"bits": 2, "group_size": 32}))
    assert only(recount(folder)).total.weights == 64 * 96
