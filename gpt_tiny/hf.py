"""GPT-2s in the layout of Hugging Face's GPT2LMHeadModel, read into a model folder and written from one.

    config.json              GPT-2's fields; those that say how to train, such as drop-outs, are not read
    model.safetensors        weights, their names with or without `transformer.`, the head left out or equal to wte.weight
    vocab.json, merges.txt   or tokenizer.json, which transformers 5 writes instead

Needs safetensors, of the extra `peers`. No pickle is read, so no pytorch_model.bin.
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .checkpoint import config_of, fields_of, load_model, read_json, save_model, write_whole
from .tokenizer import Tokenizer

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask, which old files hold
PIECES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}  # GPT-2's, in tokenizer.json


def import_hf(source_folder: str | Path, out_folder: str | Path) -> None:
    """Write the model folder of a GPT2LMHeadModel and its tokenizer; weights of 16 bits become float32.

    ValueError with file and rule for a model or tokenizer that is not ours, and for an out_folder with a config.json; OSError
    for a file that is not there; ModuleNotFoundError without safetensors.
    """
    path = Path(source_folder, "config.json")
    _check_free(Path(out_folder))
    fields = read_json(path)
    config, tokenizer, eos = config_of(path, fields), _tokenizer(path.parent), fields.get("eos_token_id")
    _need(eos in (None, tokenizer.eos), f"{path}: eos_token_id must be {tokenizer.eos}, as in the vocabulary, got {eos!r}")
    save_model(out_folder, config, _weights(path.with_name("model.safetensors")), tokenizer)


def export_hf(model_folder: str | Path, out_folder: str | Path) -> None:
    """Write what from_pretrained of GPT2LMHeadModel and AutoTokenizer opens. Their tokenizer finds special tokens in a text.

    ValueError as `load_model` raises it and for an out_folder with a config.json, ModuleNotFoundError without safetensors.
    """
    out = Path(out_folder)
    _check_free(out)
    config, weights, tokenizer = load_model(model_folder)
    end = tokenizer.decode([tokenizer.eos])
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.context, "add_prefix_space": False}
    settings |= {"bos_token": end, "eos_token": end, "unk_token": end}
    data = _safetensors().numpy.save(weights, metadata={"format": "pt"})
    tokenizer.save(out)
    write_whole(out / "tokenizer_config.json", json.dumps(settings, indent=2))
    write_whole(out / "model.safetensors", data)
    write_whole(out / "config.json", json.dumps(fields_of(config, tokenizer.eos), indent=2))


def _weights(path: Path) -> dict[str, np.ndarray]:
    safetensors = _safetensors()
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: must be safetensors, undamaged: {error}") from None
    named = [(name.removeprefix("transformer."), tensor) for name, tensor in tensors]
    weights = {name: _floats(f"{path}: {name}", tensor) for name, tensor in named if not BUFFER.fullmatch(name)}
    head = weights.pop("lm_head.weight", None)
    tied = head is None or np.array_equal(head, weights.get("wte.weight", ()))
    _need(tied, f"{path}: lm_head.weight must be wte.weight, got other numbers")
    return weights


def _floats(place: str, tensor: dict[str, Any]) -> np.ndarray:
    kind = tensor["dtype"]
    _need(kind in DTYPES, f"{place} must be of {', '.join(DTYPES)}, got {kind}")
    array = np.frombuffer(tensor["data"], DTYPES[kind]).reshape(tensor["shape"])
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of float32
    return array.astype(np.float32) if kind == "F16" else array


def _tokenizer(folder: Path) -> Tokenizer:
    if (folder / "vocab.json").is_file():
        return Tokenizer.load(folder)
    path = folder / "tokenizer.json"
    fields = read_json(path)
    with TemporaryDirectory() as place:
        try:
            model = fields["model"]
            ours = fields["normalizer"] is None and PIECES.items() <= fields["pre_tokenizer"].items() and model["type"] == "BPE"
            _need(ours, "its normalizer, pre_tokenizer or model is another")
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
            write_whole(Path(place, "vocab.json"), json.dumps(model["vocab"]))
            write_whole(Path(place, "merges.txt"), "\n".join(["#version: 0.2", *merges, ""]))
            return Tokenizer.load(place)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: must be GPT-2's byte-level BPE: {error}") from None


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("safetensors must be installed: minipref's extra `peers` does it", name=error.name) from None
    return safetensors


def _check_free(folder: Path) -> None:
    _need(not (folder / "config.json").exists(), f"{folder}: must hold no config.json yet: nothing is overwritten")


def _need(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)
