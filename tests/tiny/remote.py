"""Folders that bring their own code: a model that reads images, with a config and a processor of its own, and
a language model. The code is written by the tests, and says in a file of its own when it is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as T
from safetensors.torch import save_file

from tiny.kind import clip, draw, text
from tiny.kinds import ALL

RAN = "BIVLM_TEST_CODE_RAN"  # in the environment: the file that the code makes
MARK = f"""
import os
if os.environ.get("{RAN}"):
    open(os.environ["{RAN}"], "a").close()
"""
CONFIGURATION = (
    MARK
    + """
from transformers import AutoConfig, PretrainedConfig


class GlimpseConfig(PretrainedConfig):
    model_type = "glimpse"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    def __init__(self, text_config=None, vision_config=None, image_token_id=3, **kwargs):
        def made(given):
            given = dict(given or {})
            return AutoConfig.for_model(given.pop("model_type", "llama"), **given)

        self.text_config = text_config if isinstance(text_config, PretrainedConfig) else made(text_config)
        self.vision_config = (
            vision_config if isinstance(vision_config, PretrainedConfig) else made(vision_config)
        )
        self.image_token_id = image_token_id
        super().__init__(**kwargs)
"""
)
PARTS = """
from torch import nn


class Bridge(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.up, self.down = nn.Linear(before, after), nn.Linear(after, after)

    def forward(self, features):
        return self.down(nn.functional.gelu(self.up(features)))
"""
MODELING = """
import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_glimpse import GlimpseConfig
from .parts_glimpse import Bridge


class GlimpseForConditionalGeneration(PreTrainedModel, GenerationMixin):
    config_class = GlimpseConfig
    base_model_prefix = ""

    def __init__(self, config):
        super().__init__(config)
        self.eye = AutoModel.from_config(config.vision_config)
        self.bridge = Bridge(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.voice = AutoModel.from_config(config.text_config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.voice.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        attention_mask=None,
        position_ids=None,
        cache=None,
        inputs_embeds=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            seen = self.bridge(self.eye(pixel_values).last_hidden_state[:, 1:])
            mask = (input_ids == self.config.image_token_id)[..., None].expand_as(inputs_embeds)
            inputs_embeds = inputs_embeds.masked_scatter(mask, seen.to(inputs_embeds.dtype))
        output = self.voice(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
        )
        kept = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        logits = self.lm_head(output.last_hidden_state[:, kept])
        return CausalLMOutputWithPast(logits=logits, cache=output.cache)

    def prepare_inputs_for_generation(self, input_ids, pixel_values=None, is_first_iteration=False, **kwargs):
        inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs
"""
PROCESSING = (
    MARK
    + """
from transformers import BatchFeature, ProcessorMixin


class GlimpseProcessor(ProcessorMixin):
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, tokens=16, **kwargs):
        self.image_token, self.tokens = "<image>", tokens
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images=None, text=None, do_convert_rgb=None, return_tensors=None, **kwargs):
        text = [one.replace(self.image_token, self.image_token * self.tokens) for one in text]
        found = dict(self.tokenizer(text, return_tensors=return_tensors, **kwargs))
        if images is not None:
            flat = [image for own in images for image in own]
            found |= dict(self.image_processor(flat, return_tensors=return_tensors))
        return BatchFeature(found)
"""
)
LANGUAGE = (
    MARK
    + """
from transformers import LlamaConfig, LlamaForCausalLM


class MurmurConfig(LlamaConfig):
    model_type = "murmur"


class MurmurForCausalLM(LlamaForCausalLM):
    config_class = MurmurConfig
"""
)


def _changed(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def glimpse(folder: Path, auto_class: str = "AutoModelForImageTextToText") -> Path:
    """A LLaVA-like model under a name that transformers does not know; weights are drawn in bfloat16."""
    kind = ALL["llava"]
    tokenizer = kind.tokenizer()
    llava = kind.make_model(torch.bfloat16)
    folder.mkdir()
    names = {"configuration": CONFIGURATION, "parts": PARTS, "modeling": MODELING, "processing": PROCESSING}
    for name, code in names.items():
        (folder / f"{name}_glimpse.py").write_text(code)
    (folder / "unused.py").write_text("raise RuntimeError\n")
    kind.make_processor().image_processor.save_pretrained(folder)
    tokenizer.chat_template = kind.chat_template()
    tokenizer.save_pretrained(folder)
    code = {"AutoProcessor": "processing_glimpse.GlimpseProcessor"}
    _changed(folder / "preprocessor_config.json", auto_map=code, processor_class="GlimpseProcessor")
    _changed(folder / "processor_config.json", auto_map=code, processor_class="GlimpseProcessor", tokens=16)
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, value in llava.state_dict().items():
        new = name.replace("model.vision_tower", "eye").replace("model.language_model", "voice")
        weights[new] = value
    widths = {"up": 64, "down": 96}
    for name, width in widths.items():
        for part, shape in (("weight", (96, width)), ("bias", (96,))):
            drawn = draw(f"bridge.{name}.{part}", torch.empty(shape), generator)
            weights[f"bridge.{name}.{part}"] = drawn.to(torch.bfloat16)
    save_file(
        {name: value.contiguous() for name, value in weights.items() if "multi_modal" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "model_type": "glimpse",
        "architectures": ["GlimpseForConditionalGeneration"],
        "dtype": "bfloat16",
        "text_config": text("llama", tokenizer),
        "vision_config": clip(),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "auto_map": {
            "AutoConfig": "configuration_glimpse.GlimpseConfig",
            auto_class: "modeling_glimpse.GlimpseForConditionalGeneration",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def murmur(folder: Path) -> Path:
    """A language model under a name that transformers does not know."""
    tokenizer = ALL["llava"].tokenizer()
    config = T.LlamaConfig(**{**text("llama", tokenizer), "model_type": "llama"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "murmur.py").write_text(LANGUAGE)
    code = {"AutoConfig": "murmur.MurmurConfig", "AutoModelForCausalLM": "murmur.MurmurForCausalLM"}
    _changed(folder / "config.json", model_type="murmur", architectures=["MurmurForCausalLM"], auto_map=code)
    return folder
