"""Whether a folder is a complete model that can be loaded, and of which family: seen without its weights."""

from __future__ import annotations

from pathlib import Path

from bivlm.checkpoint.guards import check_depth, check_files, check_holds_model, folder_blamed
from bivlm.checkpoint.modules import is_packed, read_modules
from bivlm.checkpoint.seal import read_seal
from bivlm.checkpoint.shards import read_entries, read_json
from bivlm.checkpoint.verify import verify_files
from bivlm.checkpoint.weight_files import check_no_adapter, weight_files
from bivlm.errors import InputError
from bivlm.families import Family, family_of
from bivlm.families.found.entrance import check_model_type, family_in
from bivlm.families.remote_code import read_config


def check_model_folder(folder: Path, family: Family | None = None, trust_remote_code: bool = False) -> Family:
    """The family of a complete model folder. InputError for a folder that is not a complete model (unfinished
    jobs and missing shards included), or of an architecture that is not supported, or that needs its folder's
    code and is not trusted with it.
    """
    check_holds_model(folder)
    check_files(folder)
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"{folder / 'config.json'} names no model_type; is this a transformers model?")
    check_model_type(folder, config, trust_remote_code)
    if is_packed(config):
        read_modules(config["quantization_config"])
    check_no_adapter(folder)
    shards = weight_files(folder)
    with folder_blamed(folder):
        config = read_config(folder, config, trust_remote_code)
        check_depth(folder, config, (entry.shape for entry in read_entries(shards).values()))
    found = family_in(folder, config, trust_remote_code) if family is None else family_of(config, family)
    verify_files(folder, read_seal(folder))
    return found
