"""What was saved comes back or is named as damaged; what stood there stands until the new is whole, whenever a process dies."""

import errno
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_tiny import checkpoint
from gpt_tiny.checkpoint import (
    Checkpoint,
    digest,
    file_digest,
    last_checkpoint,
    load_model,
    read_arrays,
    read_json,
    save_checkpoint,
    save_model,
    write_arrays,
    write_whole,
)
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
CONFIG = Config(vocab_size=262, context=6, width=4, layers=1, heads=2)
TOKENIZER, OTHERS = Tokenizer.train(["abab abab"], 260), Tokenizer.train(["cdcd cdcd"], 260)
WEIGHTS = initial_weights(CONFIG, 1)
FILES = ["config.json", "merges.txt", "vocab.json", "weights.npz"]
MODEL = (CONFIG, WEIGHTS, TOKENIZER)

ARRAYS = {
    "h.0.attn.c_attn.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "exp_avg/wte.weight": np.array([[1e-300, -0.0, np.inf, np.nan]]),
    "file": np.array(7, np.int64),
    "a": np.array([1.0]),
    "a.npy": np.array([2.0]),
    "../b": np.zeros((0, 3), np.float16),
    "big-endian": np.array([1, 2], ">i4"),
    "flags": np.array([True, False]),
}


def state(step: int) -> dict[str, Any]:
    return {"epoch": step // 2, "loss": 0.1 * step, "random": {"state": 2**127 + step}, "note": "é \ud800 \n", "done": None}


def groups(step: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(step)
    random_state = {"torch": rng.integers(0, 256, 9, np.uint8), "x/y": np.ones(2)}
    return {"weights": {"w": rng.standard_normal((2, 3))}, "random": random_state}


def saved(folder: Path, *steps: int, keep: int = 9) -> Path:
    for step in steps:
        save_checkpoint(folder, step, groups(step), state(step), keep)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def equal(got: np.ndarray, right: np.ndarray) -> bool:
    return got.dtype == right.dtype and got.shape == right.shape and got.tobytes() == right.tobytes()


def same(got: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return list(got) == list(right) and all(equal(got[name], right[name]) for name in right)


def is_step(got: Checkpoint | None, step: int) -> bool:
    """Whether it is the checkpoint that `saved` makes of a step, to the last bit."""
    if got is None or (got.step, got.state, list(got.arrays)) != (step, state(step), list(groups(step))):
        return False
    return all(same(got.arrays[group], arrays) for group, arrays in groups(step).items())


def is_model(got: tuple[Config, dict[str, np.ndarray], Tokenizer]) -> bool:
    return got[0] == CONFIG and same(got[1], WEIGHTS) and got[2] == TOKENIZER


# --- Files -------------------------------------------------------------------------------------------------------------------


def test_arrays_come_back_to_the_bit_under_any_name(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", ARRAYS)
    assert same(read_arrays(tmp_path / "a.npz"), ARRAYS)
    assert names(tmp_path) == ["a.npz"]


def test_the_same_arrays_are_the_same_bytes_and_numpy_opens_them(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as opened:
        assert equal(opened["exp_avg/wte.weight"], ARRAYS["exp_avg/wte.weight"])


def test_a_pickle_is_neither_written_nor_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with pytest.raises(ValueError, match="a.npz: must be an .npz of numbers, undamaged: .*Object arrays"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="b.npz: must hold numbers under names .* got object 'x'"):
        write_arrays(tmp_path / "b.npz", {"x": np.array([{}], object)})
    assert names(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("name", ["", "a b", "a\0b", "ä", "a\\b", "a\n"])
def test_an_array_whose_name_an_archive_would_change_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names of letters, digits"):
        write_arrays(tmp_path / "a.npz", {name: np.ones(2)})


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for content in (b"\x00\xff", "zwei é\n", ""):
        write_whole(tmp_path / "a.txt", content)
        assert (tmp_path / "a.txt").read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(tmp_path) == ["a.txt"]


NOT_JSON: dict[str, tuple[bytes, str]] = {
    "cut": (b'{"a": 1', "a.json: must be JSON: "),
    "empty": (b"", "a.json: must be JSON: "),
    "nested deeply": (b"[" * 10**5, "a.json: must be JSON: "),
    "not UTF-8": (b'{"a": "\xff"}', "a.json: must be JSON: "),
    "a list": (b"[1]", "a.json: must be a JSON object, got list"),
}


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_json_object_is_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(NOT_JSON[case][0])
    with pytest.raises(ValueError, match=NOT_JSON[case][1]):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="b.json: must be a file, there is none"):
        read_json(tmp_path / "b.json")


X = np.arange(6, dtype=np.float32).reshape(2, 3)
DIFFERENT: list[Any] = [X, X + 1, X.reshape(3, 2), X.astype(np.float64), X.view(np.int32), X[:0], X.T, X[:1, :1], X[0, :1]]
DIFFERENT += [np.array(X[0, 0]), {"a": X, "b": 1}, {"a": X, "b": 2}, {"a": X + 1, "b": 1}, {"b": X, "a": 1}]
DIFFERENT += [6, 6.0, "6", [6], {"6": 6}, [1, 2], [2, 1], {}, [], "", None, True, False, 0, -0.0, 0.0]


def test_a_digest_tells_values_apart() -> None:
    assert len({digest(value) for value in DIFFERENT}) == len(DIFFERENT)
    assert all(len(digest(value)) == 64 for value in DIFFERENT)


@pytest.mark.parametrize("case", ["order of keys", "order in memory", "stride", "byte order", "copy"])
def test_a_digest_is_of_values_alone(case: str) -> None:
    wide = np.repeat(X, 2, axis=1)
    others: dict[str, Any] = {
        "order of keys": {"b": 1, "a": X},
        "order in memory": {"a": np.asfortranarray(X), "b": 1},
        "stride": {"a": wide[:, ::2], "b": 1},
        "byte order": {"a": X.astype(">f4"), "b": 1},
        "copy": {"a": X.copy(), "b": 1},
    }
    assert digest(others[case]) == digest({"a": X, "b": 1})


@pytest.mark.parametrize("value", [np.array([{}], object), {1, 2}, b"bytes", {"a": len}, np.float32(1)], ids=repr)
def test_what_is_neither_json_nor_numbers_has_no_digest(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        digest(value)


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- Checkpoints -------------------------------------------------------------------------------------------------------------


def test_nothing_saved_is_no_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) == last_checkpoint(tmp_path / "none") == (None, [])
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        last_checkpoint(tmp_path / "file")


def test_the_last_of_some_checkpoints_comes_back_to_the_bit(tmp_path: Path) -> None:
    for step in (0, 5, 99_999_999, 100_000_000):  # the last has a digit more, so that its name is not the last
        saved(tmp_path, step)
        got, damaged = last_checkpoint(tmp_path)
        assert is_step(got, step) and damaged == []
    assert names(tmp_path)[1] == "step-00000005"


def test_a_checkpoint_of_any_arrays_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"any": ARRAYS, "none": {}}, {})
    got, _ = last_checkpoint(tmp_path)
    assert got is not None and same(got.arrays["any"], ARRAYS) and got.arrays["none"] == {} and got.state == {}


@pytest.mark.parametrize("keep, left", [(1, [9]), (2, [7, 9]), (3, [5, 7, 9]), (8, [3, 5, 7, 9])])
def test_as_many_as_asked_for_are_kept(keep: int, left: list[int], tmp_path: Path) -> None:
    saved(tmp_path, 3, 5, 7)
    saved(tmp_path, 9, keep=keep)
    assert names(tmp_path) == [f"step-{step:08d}" for step in left]


def test_a_step_that_is_saved_again_takes_the_place_of_the_other(tmp_path: Path) -> None:
    saved(tmp_path, 3, 5)
    for loss in (1.5, 2.5):
        save_checkpoint(tmp_path, 5, groups(5), {"loss": loss})
        got, damaged = last_checkpoint(tmp_path)
        assert got is not None and got.state == {"loss": loss} and damaged == []
        assert len(names(tmp_path)) == 2 and names(tmp_path)[0] == "step-00000003"


def test_later_steps_are_left_alone(tmp_path: Path) -> None:
    saved(tmp_path, 3, 5, 7)
    saved(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["step-00000004", "step-00000005", "step-00000007"]


def test_what_a_crash_left_is_ignored_and_cleaned_by_the_next_save(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    for name in ("step-00000004.part", "step-00000005.part"):
        shutil.copytree(tmp_path / "step-00000003", tmp_path / name)
    (tmp_path / "step-00000006.part").touch()
    (tmp_path / "notes.part").touch()
    got, damaged = last_checkpoint(tmp_path)
    assert is_step(got, 3) and damaged == []
    saved(tmp_path, 5)
    assert names(tmp_path) == ["notes.part", "step-00000003", "step-00000005"] and is_step(last_checkpoint(tmp_path)[0], 5)


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def resealed(path: Path, **fields: Any) -> None:
    """A config.json or manifest.json of other fields, and a digest that is right for them."""
    whole = json.loads(path.read_text()) | fields
    del whole["sha256"]
    path.write_text(json.dumps(whole | {"sha256": digest(whole)}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {  # of step 9, and the sentence after its folder's name
    "weights cut": (
        lambda at: changed(at / "weights.npz", lambda data: data[:-1]),
        r"/weights.npz: must have the size \d+, got \d+",
    ),
    "weights longer": (
        lambda at: changed(at / "weights.npz", lambda data: data + b"0"),
        r"/weights.npz: must have the size \d+, got \d+",
    ),
    "weights flipped": (
        lambda at: changed(at / "weights.npz", lambda data: data[:-30] + bytes([data[-30] ^ 1]) + data[-29:]),
        "/weights.npz: must have the sha256 [0-9a-f]{64}, got [0-9a-f]{64}",
    ),
    "weights missing": (lambda at: (at / "weights.npz").unlink(), "/weights.npz: must be a file, there is none"),
    "weights of another step": (
        lambda at: shutil.copy(at.with_name("step-00000005") / "weights.npz", at),
        "/weights.npz: must have the sha256 [0-9a-f]{64}, got [0-9a-f]{64}",
    ),
    "a file too many": (
        lambda at: (at / "more.npz").touch(),
        r": must hold nothing but what its manifest.json names, got \['more.npz'\]",
    ),
    "manifest missing": (lambda at: (at / "manifest.json").unlink(), "/manifest.json: must be a file, there is none"),
    "manifest cut": (lambda at: changed(at / "manifest.json", lambda data: data[:-1]), "/manifest.json: must be JSON: .*"),
    "manifest empty": (lambda at: changed(at / "manifest.json", lambda data: b""), "/manifest.json: must be JSON: .*"),
    "manifest a list": (
        lambda at: changed(at / "manifest.json", lambda data: b"[]"),
        "/manifest.json: must be a JSON object, got list",
    ),
    "manifest without a seal": (
        lambda at: changed(at / "manifest.json", lambda data: b"{}"),
        "/manifest.json: must have the fields files and sha256, with which it is written here",
    ),
    "state changed": (
        lambda at: changed(at / "manifest.json", lambda data: data.replace(b'"epoch": 4', b'"epoch": 5')),
        "/manifest.json: must have other fields of the sha256 [0-9a-f]{64}, got [0-9a-f]{64}",
    ),
    "another step": (
        lambda at: [shutil.rmtree(at), shutil.copytree(at.with_name("step-00000005"), at)],
        "/manifest.json: must be of step 9, got 5",
    ),
    "a file, no folder": (lambda at: [shutil.rmtree(at), at.touch()], "/manifest.json: must be a file, there is none"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(case: str, tmp_path: Path) -> None:
    damage, sentence = DAMAGES[case]
    saved(tmp_path, 5, 9)
    damage(tmp_path / "step-00000009")
    got, damaged = last_checkpoint(tmp_path)
    assert is_step(got, 5) and len(damaged) == 1
    assert re.fullmatch(re.escape(f"{tmp_path}/step-00000009") + sentence, damaged[0]), damaged[0]


def test_a_checkpoint_that_cannot_be_read_is_named_and_the_one_before_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_sector(path: Path) -> str:
        if "step-00000009" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return file_digest(path)

    saved(tmp_path, 5, 9)
    monkeypatch.setattr(checkpoint, "file_digest", bad_sector)
    got, damaged = last_checkpoint(tmp_path)
    assert is_step(got, 5) and damaged == [f"{tmp_path}/step-00000009: must be readable: [Errno 5] Input/output error"]


def test_a_damaged_checkpoint_is_replaced_when_the_run_gets_there_again(tmp_path: Path) -> None:
    saved(tmp_path, 5, 9)
    (tmp_path / "step-00000009" / "weights.npz").unlink()
    saved(tmp_path, 9, keep=2)
    got, damaged = last_checkpoint(tmp_path)
    assert is_step(got, 9) and damaged == [] and names(tmp_path) == ["step-00000005", "step-00000009.1"]


def test_where_all_are_damaged_nothing_starts_over(tmp_path: Path) -> None:
    saved(tmp_path, 5, 9)
    (tmp_path / "step-00000005" / "random.npz").unlink()
    (tmp_path / "step-00000009" / "weights.npz").unlink()
    with pytest.raises(ValueError) as error:
        last_checkpoint(tmp_path)
    assert str(error.value).splitlines() == [
        f"{tmp_path}: must hold a checkpoint that is not damaged, got",
        f"{tmp_path}/step-00000009/weights.npz: must be a file, there is none",
        f"{tmp_path}/step-00000005/random.npz: must be a file, there is none",
    ]


REFUSED: dict[str, Callable[[Path], object]] = {
    "step must be >= 0 and keep >= 1, got -1 and 2": lambda folder: save_checkpoint(folder, -1, {}, {}),
    "step must be >= 0 and keep >= 1, got 3 and 0": lambda folder: save_checkpoint(folder, 3, {}, {}, keep=0),
    r"arrays: groups must have names of .* got \['a/b'\]": lambda folder: save_checkpoint(folder, 3, {"a/b": {}}, {}),
    r"arrays: groups must have names of .* got \['..'\]": lambda folder: save_checkpoint(folder, 3, {"..": {}}, {}),
    "got object 'x'": lambda folder: save_checkpoint(folder, 3, {"a": {"x": np.array([{}], object)}}, {}),
    "state: must be JSON without NaN: Out of range": lambda folder: save_checkpoint(folder, 3, {}, {"loss": float("nan")}),
    "state: must be JSON without NaN: Object of type int64": lambda folder: save_checkpoint(folder, 3, {}, {"n": np.int64(1)}),
    "state: must be what JSON gives back.* tuples": lambda folder: save_checkpoint(folder, 3, {}, {"betas": (0.9, 0.95)}),
    "state: must be what JSON gives back.* keys": lambda folder: save_checkpoint(folder, 3, {}, {"counts": {1: 2}}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_not_come_back_is_not_saved(message: str, tmp_path: Path) -> None:
    saved(tmp_path, 3)
    with pytest.raises(ValueError, match=message):
        REFUSED[message](tmp_path)
    assert names(tmp_path) == ["step-00000003"] and is_step(last_checkpoint(tmp_path)[0], 3)


# --- Models ------------------------------------------------------------------------------------------------------------------


def test_a_model_comes_back_and_has_the_fields_of_gpt2(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    save_model(tmp_path, *MODEL)
    assert is_model(load_model(tmp_path)) and names(tmp_path) == sorted([*FILES, "run.json"])
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields.items() >= {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 262, "n_positions": 6, "n_embd": 4,
        "n_layer": 1, "n_head": 2, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        "bos_token_id": TOKENIZER.eos, "eos_token_id": TOKENIZER.eos,
    }.items()  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_keep_their_dtype(dtype: type[np.floating], tmp_path: Path) -> None:
    weights = initial_weights(CONFIG, 2, dtype)
    save_model(tmp_path, CONFIG, weights, TOKENIZER)
    assert same(load_model(tmp_path)[1], weights)


NOT_OURS: dict[str, Any] = {
    "config.json: model_type must be 'gpt2', got 'llama'": {"model_type": "llama"},
    "config.json: activation_function must be 'gelu_new' or 'gelu_pytorch_tanh', got 'relu'": {"activation_function": "relu"},
    "config.json: layer_norm_epsilon must be 1e-05, got 1e-06": {"layer_norm_epsilon": 1e-6},
    "config.json: tie_word_embeddings must be True, got False": {"tie_word_embeddings": False},
    "config.json: scale_attn_weights must be True, got False": {"scale_attn_weights": False},
    "config.json: scale_attn_by_inverse_layer_idx must be False, got True": {"scale_attn_by_inverse_layer_idx": True},
    "config.json: add_cross_attention must be False, got True": {"add_cross_attention": True},
    "config.json: n_inner must be None or 16, got 15": {"n_inner": 15},
    "config.json: n_embd must be a whole number >= 1, got 4.0": {"n_embd": 4.0},
    "config.json: n_layer must be a whole number >= 1, got 0": {"n_layer": 0},
    "config.json: n_positions must be a whole number >= 1, got True": {"n_positions": True},
    "config.json: vocab_size must be a whole number >= 1, got None": {"vocab_size": None},
    "config.json: n_head must divide n_embd = 4, got 3": {"n_head": 3},
    "weights.npz: weights: wpe.weight must have the shape (7, 4), got (6, 4)": {"n_positions": 7},
    "weights.npz: weights: names must be a GPT-2's, got a difference in h.1.attn.c_attn.bias": {"n_layer": 2},
}


@pytest.mark.parametrize("message", NOT_OURS)
def test_a_model_that_is_none_of_ours_is_refused(message: str, tmp_path: Path) -> None:
    save_model(tmp_path, *MODEL)
    resealed(tmp_path / "config.json", **NOT_OURS[message])
    with pytest.raises(ValueError) as error:
        load_model(tmp_path)
    assert str(error.value) == f"{tmp_path}/{message}"


def test_fields_that_mean_the_same_model_are_taken(tmp_path: Path) -> None:
    save_model(tmp_path, *MODEL)
    resealed(tmp_path / "config.json", n_inner=16, activation_function="gelu_pytorch_tanh", attn_pdrop=0.1)
    assert is_model(load_model(tmp_path))


@pytest.mark.parametrize("name", FILES)
def test_a_model_without_one_of_its_files_is_refused(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, *MODEL)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}/{name}: must be a file, there is none"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    save_model(tmp_path / "a", *MODEL)
    save_model(tmp_path / "b", CONFIG, initial_weights(CONFIG, 2), OTHERS)
    shutil.copy(tmp_path / "b" / name, tmp_path / "a")
    with pytest.raises(ValueError, match=f"{tmp_path}/a/.*: must have the (size|sha256) "):
        load_model(tmp_path / "a")


def test_a_config_that_was_not_written_here_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, *MODEL)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: fields[name] for name in fields.keys() - {"sha256"}}))
    with pytest.raises(ValueError, match="config.json: must have the fields files and sha256"):
        load_model(tmp_path)


UNFIT: dict[str, tuple[Config, dict[str, np.ndarray], Tokenizer]] = {
    "weights.npz: weights: wte.weight must have the shape": (Config(261, 6, 4, 1, 2), WEIGHTS, TOKENIZER),
    "weights.npz: weights: ln_f.bias must be finite, got \\[nan\\]": (
        CONFIG,
        WEIGHTS | {"ln_f.bias": np.full(4, np.nan, np.float32)},
        TOKENIZER,
    ),
    "vocab.json: must have at most vocab_size = 259 tokens, got 260": (
        small := Config(259, 6, 4, 1, 2),
        initial_weights(small, 0),
        Tokenizer.train(["abababab"], 260, ["<a>", "<b>", "<c>"]),
    ),
}


@pytest.mark.parametrize("message", UNFIT)
def test_a_model_that_does_not_fit_together_is_not_saved(message: str, tmp_path: Path) -> None:
    save_model(tmp_path, *MODEL)
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path, *UNFIT[message])
    assert is_model(load_model(tmp_path)) and names(tmp_path) == FILES


# --- Full disks and folders that cannot be written ---------------------------------------------------------------------------

WRITERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {  # what is written first, and what fails
    "write_whole": (lambda at: write_whole(at / "a.txt", "a" * 999), lambda at: write_whole(at / "a.txt", "b" * 999)),
    "write_arrays": (lambda at: write_arrays(at / "a.npz", ARRAYS), lambda at: write_arrays(at / "a.npz", {"w": np.ones(99)})),
    "save_checkpoint": (lambda at: saved(at, 5), lambda at: saved(at, 6, keep=1)),
    "save_model": (lambda at: save_model(at, *MODEL), lambda at: save_model(at, CONFIG, initial_weights(CONFIG, 2), OTHERS)),
}
EACH_WRITER = pytest.mark.parametrize("first, then", WRITERS.values(), ids=WRITERS)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than size bytes to a file fails as on a full disk, but for the number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@EACH_WRITER
def test_where_a_file_cannot_grow_the_error_says_where_and_what_stood_there_stands(
    first: Callable[[Path], object], then: Callable[[Path], object], tmp_path: Path
) -> None:
    free, full = tmp_path / "free", tmp_path / "full"
    free.mkdir()
    full.mkdir()
    then(free)
    first(full)
    before, largest = contents(full), max(map(len, contents(free).values()))
    for size in range(0, largest, 1 + largest // 10):
        with pytest.raises(OSError, match=str(full)) as error, largest_file(size):
            then(full)
        assert error.value.errno == errno.EFBIG and contents(full) == before


@EACH_WRITER
def test_where_the_disk_is_full_the_error_says_where_and_what_stood_there_stands(
    first: Callable[[Path], object], then: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(tmp_path)
    before, sync, calls = contents(tmp_path), os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        if (calls := calls - 1) < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}") as error:
        then(tmp_path)
    assert error.value.errno == errno.ENOSPC and contents(tmp_path) == before

    failures = 0
    while contents(tmp_path) == before:  # room for one more sync each time, until enough was written
        calls = failures = failures + 1
        try:
            then(tmp_path)
        except OSError as error:
            assert error.errno == errno.ENOSPC and str(tmp_path) in str(error)
    assert not list(tmp_path.rglob("*.part"))


@EACH_WRITER
def test_a_folder_below_a_file_cannot_be_written(
    first: Callable[[Path], object], then: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        first(tmp_path / "file" / "run")
    assert contents(tmp_path) == {"file": b"a file"}


# --- Damage ------------------------------------------------------------------------------------------------------------------


def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """One byte another, or the file cut."""
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] if draw(st.booleans()) else data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]


@st.composite
def damages(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(files)))
    return name, damaged_bytes(draw, files[name])


@contextmanager
def damaged_file(path: Path, data: bytes) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(whole)


HARD = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("checkpoints"), 5, 9)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, *MODEL)
    return folder


@given(st.data())
@HARD
def test_any_damage_gives_the_checkpoint_before_it_or_nothing_wrong(two_checkpoints: Path, data: st.DataObject) -> None:
    name, changed_bytes = data.draw(damages(contents(two_checkpoints)))
    with damaged_file(two_checkpoints / name, changed_bytes):
        got, sentences = last_checkpoint(two_checkpoints)
    if name.startswith("step-00000005"):
        assert is_step(got, 9) and sentences == []
    elif is_step(got, 9):  # a blank for another in the JSON, and the like
        assert sentences == [] and json.loads(changed_bytes) == read_json(two_checkpoints / name)
    else:
        assert is_step(got, 5) and len(sentences) == 1 and sentences[0].startswith(f"{two_checkpoints / name}: must ")


@given(st.data())
@HARD
def test_any_damage_to_a_model_is_refused_or_nothing_wrong(model_folder: Path, data: st.DataObject) -> None:
    name, changed_bytes = data.draw(damages(contents(model_folder)))
    with damaged_file(model_folder / name, changed_bytes):
        try:
            got = load_model(model_folder)
        except ValueError as error:
            assert str(error).startswith(f"{model_folder / name}: must ")
            return
    assert is_model(got) and json.loads(changed_bytes) == read_json(model_folder / name)


@given(st.data())
@HARD
def test_an_archive_alone_never_gives_wrong_arrays(model_folder: Path, data: st.DataObject) -> None:
    path = model_folder / "weights.npz"
    with damaged_file(path, damaged_bytes(data.draw, path.read_bytes())):  # type: ignore[arg-type]
        try:
            got = read_arrays(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: must be an .npz of numbers, undamaged: ")
            return
    assert all(equal(array, WEIGHTS[name]) for name, array in got.items())  # some may be missing


# --- Kills -------------------------------------------------------------------------------------------------------------------

FOREVER = """
import sys
import numpy as np
from gpt_tiny.checkpoint import last_checkpoint, save_checkpoint
last, _ = last_checkpoint(sys.argv[1])
step = last.step if last else 0
while True:
    step += 1
    x = np.random.default_rng(step).standard_normal(9999)
    save_checkpoint(sys.argv[1], step, {"weights": {"x": x}, "moments": {"x": -x}}, {"half": step / 2})
    print(step, flush=True)
"""
SINGLE = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def test_a_run_killed_again_and_again_always_has_its_last_checkpoint(tmp_path: Path) -> None:
    """Ten kills at random instants: all that a save reported done is there, or the one after it."""
    rng, reached = random.Random(0), 0
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", FOREVER, tmp_path], cwd=ROOT, env=SINGLE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            child.kill()
            done = int((first + child.stdout.read()).split()[-1])
        got, damaged = last_checkpoint(tmp_path)
        assert got is not None and damaged == [] and reached < done <= got.step <= done + 1
        x = np.random.default_rng(got.step).standard_normal(9999)
        assert got.state == {"half": got.step / 2}
        assert np.array_equal(got.arrays["weights"]["x"], x) and np.array_equal(got.arrays["moments"]["x"], -x)
        reached = got.step


EVERYWHERE = """
import os, shutil, signal, sys
import numpy as np
from gpt_tiny.checkpoint import load_model, save_checkpoint, save_model
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
CASES = {
    "the next step": lambda folder: save_checkpoint(folder, 9, {"a": {"x": np.ones(3)}}, {"new": True}, keep=1),
    "the same step": lambda folder: save_checkpoint(folder, 5, {"a": {"x": np.ones(3)}}, {"new": True}, keep=1),
    "a model": lambda folder: save_model(folder, *load_model(other)),
}
start, other, case, out = sys.argv[1:]

def is_killed(n, folder):
    shutil.copytree(start, folder)
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        return status != 0
    seen = 0
    def hook(event, arguments):
        global seen
        seen += event in CHANGES
        if event in CHANGES and seen == n:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    CASES[case](folder)
    os._exit(0)

seen, n = 0, 1
while is_killed(n, f"{out}/{n}"):
    n += 1
"""


def killed_everywhere(start: Path, case: str, out: Path, other: Path | None = None) -> list[Path]:
    """Copies of a folder in which a save was killed before the first, second, ... change to the disk; the last was not."""
    out.mkdir()
    command = [sys.executable, "-c", EVERYWHERE, str(start), str(other), case, str(out)]
    subprocess.run(command, cwd=ROOT, env=SINGLE, check=True, timeout=60)
    return sorted(out.iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize("case, step", [("the next step", 9), ("the same step", 5)])
def test_a_save_killed_at_any_change_to_the_disk_leaves_the_old_or_the_new(case: str, step: int, tmp_path: Path) -> None:
    start = saved(tmp_path / "start", 3, 5)
    found: list[bool] = []
    for folder in killed_everywhere(start, case, tmp_path / "killed"):
        got, damaged = last_checkpoint(folder)
        assert got is not None and damaged == []
        assert is_step(got, 5) or (got.step, got.state) == (step, {"new": True})
        found.append(got.state == {"new": True})
        for path in folder.glob(f"step-{got.step:08d}*"):
            shutil.rmtree(path)
        assert last_checkpoint(folder)[1] == []  # what is half removed is no checkpoint
        saved(folder, 11, keep=1)
        assert names(folder) == ["step-00000011"]
    assert found == sorted(found) and found.count(False) > 10 and found.count(True) > 5  # the old ones, then the new ones


def test_a_model_killed_at_any_change_to_the_disk_is_the_old_the_new_or_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "old", *MODEL)
    save_model(tmp_path / "new", CONFIG, initial_weights(CONFIG, 2), OTHERS)
    found = []
    for folder in killed_everywhere(tmp_path / "old", "a model", tmp_path / "killed", tmp_path / "new"):
        try:
            config, weights, tokenizer = load_model(folder)
        except ValueError as error:
            assert "must have the" in str(error)
            found.append("refused")
        else:
            new = same(weights, initial_weights(CONFIG, 2)) and tokenizer == OTHERS
            assert config == CONFIG and (new or is_model((config, weights, tokenizer)))
            found.append("new" if new else "old")
        save_model(folder, *MODEL)
        assert is_model(load_model(folder)) and names(folder) == FILES
    assert found.count("old") > 10 and found.count("refused") <= 3 and found[-1] == "new"
    assert found == sorted(found, key=["old", "refused", "new"].index)
