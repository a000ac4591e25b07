"""GPT-2s that transformers wrote are ours to run, and ours are its own: same logits, same ids; what we do not do is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_tiny.checkpoint import load_model, save_model
from gpt_tiny.hf import export_hf, import_hf
from gpt_tiny.model_by_hand import Config, forward, initial_weights
from gpt_tiny.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-trl" / "bin" / "python"
CONFIG = Config(vocab_size=300, context=12, width=16, layers=2, heads=4)
TEXTS = ["it's 3 of 1,024 — isn't it?", "Größe, naïve façade; русский 中文 👍🏽", "  a\n\n\tb  ", "low lower lowest"]
TOKENIZER = Tokenizer.train(TEXTS * 2, 290, ["<eos>", "<pad>"])
RNG = np.random.default_rng(2)
WEIGHTS = {
    name: (3 * w + 0.1 * RNG.standard_normal(w.shape)).astype(np.float32) for name, w in initial_weights(CONFIG, 1).items()
}
TOKENS = RNG.integers(0, 290, (3, 12))

PEER = """
import json, sys, warnings
from pathlib import Path
import numpy as np, torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from gpt_tiny.hf import export_hf, import_hf
warnings.simplefilter("ignore")
root, texts, tokens, eos = Path(sys.argv[1]), *json.load(sys.stdin)
tokens, out = torch.tensor(tokens), {"refused": {}}

def wrong(case, change):
    # An import of `theirs` with other tensors
    folder = root / case
    folder.mkdir()
    for path in (root / "theirs").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder / "model.safetensors")
    try:
        import_hf(folder, root / case / "imported")
    except ValueError as error:
        out["refused"][case] = str(error)

def rewritten(change):
    def apply(path):
        tensors = load_file(path)
        save_file(change(tensors), path, metadata={"format": "pt"})
    return apply

export_hf(root / "ours", root / "exported")
model, info = GPT2LMHeadModel.from_pretrained(root / "exported", output_loading_info=True)
out["not ours"] = [str(key) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[name]]
out["our logits"] = model.eval()(tokens).logits.tolist()
tokenizer = AutoTokenizer.from_pretrained(root / "exported")
out["ids"] = [tokenizer.encode(text) for text in texts]
out["settings"] = [tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.model_max_length]
with safe_open(root / "exported" / "model.safetensors", "np") as file:
    out["metadata"] = file.metadata()

torch.manual_seed(0)
sizes = {"vocab_size": 300, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}
theirs = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=eos, bos_token_id=eos))
with torch.no_grad():
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
theirs.eval().save_pretrained(root / "theirs")
tokenizer.save_pretrained(root / "theirs")
out["files"] = sorted(path.name for path in (root / "theirs").iterdir())
out["their logits"] = theirs(tokens).logits.tolist()
import_hf(root / "theirs", root / "imported")

for dtype in ("float16", "bfloat16", "float64"):
    half = theirs.to(getattr(torch, dtype))
    half.save_pretrained(root / dtype)
    tokenizer.save_pretrained(root / dtype)
    import_hf(root / dtype, root / f"imported-{dtype}")
    np.savez(root / f"{dtype}.npz", **{name: p.detach().double().numpy() for name, p in half.transformer.named_parameters()})

def as_the_first_files_were(tensors):
    named = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for layer in range(2):
        named[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 12, 12, dtype=torch.uint8).tril()
        named[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return named | {"lm_head.weight": named["wte.weight"].clone()}

wrong("first", rewritten(as_the_first_files_were))
wrong("untied", rewritten(lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}))
wrong("missing", rewritten(lambda tensors: {name: x for name, x in tensors.items() if name != "transformer.ln_f.bias"}))
wrong("extra", rewritten(lambda tensors: tensors | {"transformer.h.2.ln_1.bias": torch.ones(16)}))
wrong("shape", rewritten(lambda tensors: tensors | {"transformer.ln_f.bias": torch.ones(15)}))
wrong("dtype", rewritten(lambda tensors: tensors | {"transformer.ln_f.bias": torch.ones(16, dtype=torch.int8)}))
wrong("nan", rewritten(lambda tensors: tensors | {"transformer.ln_f.bias": torch.full((16,), float("nan"))}))
wrong("no embedding", rewritten(lambda tensors: {"lm_head.weight": tensors["transformer.wte.weight"]}))
wrong("cut", lambda path: path.write_bytes(path.read_bytes()[:-1]))
wrong("empty", lambda path: path.write_bytes(b""))
json.dump(out, sys.stdout)
"""


def logits(folder: Path) -> np.ndarray:
    config, weights, _ = load_model(folder)
    return forward(weights, config.heads, TOKENS, np.ones_like(TOKENS, bool))[0]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which transformers has read `exported` and written `theirs`, and what it saw."""
    if not PYTHON.exists():
        pytest.skip("no .venv-trl: transformers and safetensors are not installed")
    root = tmp_path_factory.mktemp("hf")
    save_model(root / "ours", CONFIG, WEIGHTS, TOKENIZER)
    given = json.dumps([TEXTS, TOKENS.tolist(), TOKENIZER.eos])
    child = subprocess.run([PYTHON, "-c", PEER, root], cwd=ROOT, input=given, capture_output=True, text=True, timeout=240)
    assert child.returncode == 0, child.stderr
    return root, json.loads(child.stdout)


def test_transformers_runs_our_model_and_gets_our_logits(peer: tuple[Path, dict[str, Any]]) -> None:
    root, seen = peer
    right = logits(root / "ours")
    assert seen["metadata"] == {"format": "pt"}  # without it, transformers 4 refuses
    assert seen["not ours"] == [] and right.dtype == np.float32 and right.std() > 0.1
    assert np.all(abs(np.array(seen["our logits"]) - right) <= 1e-5)


def test_transformers_opens_our_tokenizer_and_gets_our_ids(peer: tuple[Path, dict[str, Any]]) -> None:
    _, seen = peer
    assert seen["ids"] == [TOKENIZER.encode(text) for text in TEXTS]
    assert seen["settings"] == [TOKENIZER.eos, TOKENIZER.eos, TOKENIZER.eos, CONFIG.context]


def test_we_run_their_model_and_get_their_logits(peer: tuple[Path, dict[str, Any]]) -> None:
    root, seen = peer
    right = np.array(seen["their logits"])
    assert right.std() > 0.1 and np.all(abs(logits(root / "imported") - right) <= 1e-5)
    assert load_model(root / "imported")[0] == CONFIG


def test_a_tokenizer_comes_back_though_transformers_writes_another_file(peer: tuple[Path, dict[str, Any]]) -> None:
    root, seen = peer
    assert "tokenizer.json" in seen["files"] and "vocab.json" not in seen["files"]
    assert load_model(root / "imported")[2] == TOKENIZER


@pytest.mark.parametrize("dtype, kept", [("float16", "float32"), ("bfloat16", "float32"), ("float64", "float64")])
def test_weights_of_16_bits_become_float32(dtype: str, kept: str, peer: tuple[Path, dict[str, Any]]) -> None:
    root, _ = peer
    weights = load_model(root / f"imported-{dtype}")[1]
    with np.load(root / f"{dtype}.npz") as right:
        assert {weight.dtype for weight in weights.values()} == {np.dtype(kept)} and weights.keys() == set(right.files)
        assert all(np.array_equal(weight, right[name]) for name, weight in weights.items())


def test_names_without_transformer_masks_and_a_tied_head_are_taken(peer: tuple[Path, dict[str, Any]]) -> None:
    root, seen = peer
    assert "first" not in seen["refused"]
    assert np.array_equal(logits(root / "first" / "imported"), logits(root / "imported"))


WRONG_TENSORS = {
    "untied": "untied/model.safetensors: lm_head.weight must be wte.weight, got other numbers",
    "no embedding": "no embedding/model.safetensors: lm_head.weight must be wte.weight, got other numbers",
    "missing": "weights: names must be a GPT-2's, got a difference in ln_f.bias",
    "extra": "weights: names must be a GPT-2's, got a difference in h.2.ln_1.bias",
    "shape": "weights: ln_f.bias must have the shape (16,), got (15,)",
    "dtype": "dtype/model.safetensors: ln_f.bias must be of F64, F32, F16, BF16, got I8",
    "nan": "weights: ln_f.bias must be finite, got [nan]",
    "cut": "cut/model.safetensors: must be safetensors, undamaged: ",
    "empty": "empty/model.safetensors: must be safetensors, undamaged: ",
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_wrong_tensors_are_refused_by_name(case: str, peer: tuple[Path, dict[str, Any]]) -> None:
    root, seen = peer
    assert WRONG_TENSORS[case] in seen["refused"][case]
    assert not (root / case / "imported").exists()


# --- What needs no transformers ----------------------------------------------------------------------------------------------

FIELDS = {"model_type": "gpt2", "vocab_size": 300, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}


def foreign(folder: Path, **fields: Any) -> Path:
    """A folder such as transformers writes, with empty weights."""
    TOKENIZER.save(folder)
    (folder / "config.json").write_text(json.dumps(FIELDS | {"eos_token_id": TOKENIZER.eos, "resid_pdrop": 0.1} | fields))
    (folder / "model.safetensors").touch()
    return folder


OTHER_MODELS: dict[str, dict[str, Any]] = {
    "model_type must be 'gpt2', got 'gpt_neo'": {"model_type": "gpt_neo"},
    "activation_function must be 'gelu_new' or 'gelu_pytorch_tanh', got 'gelu'": {"activation_function": "gelu"},
    "layer_norm_epsilon must be 1e-05, got 1e-12": {"layer_norm_epsilon": 1e-12},
    "scale_attn_weights must be True, got False": {"scale_attn_weights": False},
    "scale_attn_by_inverse_layer_idx must be False, got True": {"scale_attn_by_inverse_layer_idx": True},
    "add_cross_attention must be False, got True": {"add_cross_attention": True},
    "tie_word_embeddings must be True, got False": {"tie_word_embeddings": False},
    "n_inner must be None or 64, got 32": {"n_inner": 32},
    "n_head must divide n_embd = 16, got 3": {"n_head": 3},
    "n_layer must be a whole number >= 1, got '2'": {"n_layer": "2"},
    f"eos_token_id must be {TOKENIZER.eos}, as in the vocabulary, got 50256": {"eos_token_id": 50256},
}


@pytest.mark.parametrize("message", OTHER_MODELS)
def test_a_model_that_we_do_not_run_is_refused_by_name_and_value(message: str, tmp_path: Path) -> None:
    foreign(tmp_path, **OTHER_MODELS[message])
    with pytest.raises(ValueError) as error:
        import_hf(tmp_path, tmp_path / "out")
    assert str(error.value) == f"{tmp_path}/config.json: {message}"


def tokenizer_json(folder: Path, **fields: Any) -> None:
    """Our tokenizer in the one file that transformers 5 writes, with other fields."""
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
    (folder / "vocab.json").unlink()
    pieces = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    whole = {"normalizer": None, "pre_tokenizer": pieces, "model": model | fields.pop("model", {})} | fields
    (folder / "tokenizer.json").write_text(json.dumps(whole))


OTHER_TOKENIZERS: dict[str, dict[str, Any]] = {
    "a normalizer": {"normalizer": {"type": "NFC"}},
    "a space before": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
    "other pieces": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
    "words": {"pre_tokenizer": {"type": "Whitespace"}},
    "no pieces": {"pre_tokenizer": None},
    "another algorithm": {"model": {"type": "WordPiece"}},
    "no vocabulary": {"model": {"vocab": {}}},
    "merges of numbers": {"model": {"merges": [[1, 2]]}},
    "no merges": {"model": {"merges": None}},
}


@pytest.mark.parametrize("case", OTHER_TOKENIZERS)
def test_a_tokenizer_that_is_not_gpt2s_is_refused(case: str, tmp_path: Path) -> None:
    tokenizer_json(foreign(tmp_path), **OTHER_TOKENIZERS[case])
    with pytest.raises(ValueError, match=f"{tmp_path}/tokenizer.json: must be GPT-2's byte-level BPE: "):
        import_hf(tmp_path, tmp_path / "out")


def test_the_tokenizer_that_those_are_not_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    tokenizer_json(foreign(tmp_path))
    with pytest.raises(ModuleNotFoundError):  # which is looked for only when config and tokenizer are good
        import_hf(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    (foreign(tmp_path) / name).unlink()
    with pytest.raises((OSError, ValueError), match="tokenizer.json" if name == "vocab.json" else name):
        import_hf(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("convert", [import_hf, export_hf])
def test_no_model_is_overwritten(convert: Callable[[Path, Path], None], tmp_path: Path) -> None:
    save_model(tmp_path, CONFIG, WEIGHTS, TOKENIZER)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"{tmp_path}: must hold no config.json yet: nothing is overwritten"):
        convert(tmp_path, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_library_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    save_model(tmp_path / "ours", CONFIG, WEIGHTS, TOKENIZER)
    foreign(tmp_path / "theirs")
    for convert, source in ((import_hf, "theirs"), (export_hf, "ours")):
        with pytest.raises(ModuleNotFoundError, match="safetensors must be installed: .* extra `peers`"):
            convert(tmp_path / source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
