"""The files of a run that survive: written whole or not at all, known by their sha256, without pickle.

    model folder                     weights.npz, vocab.json, merges.txt, and last config.json
    checkpoints/step-00000120/       an .npz for each group of arrays, and last manifest.json

The last file seals its folder: it says in `files` the size and sha256 of the others and in `sha256` the digest of its other
fields. Everything is built under a name that ends in .part, which no reader looks at, and moved when it is on the disk. At most
one process writes to a folder.
"""

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .model_by_hand import SCORE, Config
from .tokenizer import Tokenizer

Arrays = Mapping[str, np.ndarray]
Model = tuple[Config, dict[str, np.ndarray], Tokenizer]

SCORED = "GPT2ForSequenceClassification"
BESIDE_CONFIG = ("weights.npz", "vocab.json", "merges.txt")
SIZES = {"vocab_size": "vocab_size", "context": "n_positions", "width": "n_embd", "layers": "n_layer", "heads": "n_head"}
IMPLEMENTED: dict[str, tuple[Any, ...]] = {  # values of GPT-2's fields that mean the model here, the default first
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def _need(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)


# --- Files -------------------------------------------------------------------------------------------------------------------


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file, text as UTF-8: on return it is on the disk, after a crash or an OSError, which names it, the old one is."""
    with _replacing(Path(path)) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_arrays(path: str | Path, arrays: Arrays) -> None:
    """As `write_whole`, an .npz: the same bytes for the same arrays.

    ValueError for arrays of objects, and for names of other characters than letters, digits, _ . / and -.
    """
    with _replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:  # np.savez cannot name an array `file`
        for name, array in arrays.items():
            legal = re.fullmatch(r"[\w./-]+", name, re.ASCII) and not array.dtype.hasobject
            _need(legal, f"{path}: must hold numbers under names of letters, digits, _ . / and -, got {array.dtype} {name!r}")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by name. ValueError for a file that is damaged or holds pickles, OSError for one that cannot be opened.

    Damage to an archive's list of contents may hide an array: who knows no sha256 of the file must check the names.
    """

    def array(data: bytes) -> np.ndarray:
        return np.lib.format.read_array(BytesIO(data), allow_pickle=False)

    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:  # np.load would parse what no check sum has been compared with yet
                return {name.removesuffix(".npy"): array(archive.read(name)) for name in archive.namelist()}
        except Exception as error:  # damage makes zipfile, its decompressors and NumPy raise a dozen types
            raise ValueError(f"{path}: must be an .npz of numbers, undamaged: {error!r}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """The fields of a JSON object. ValueError for a file that is not there or holds anything else."""
    _need(Path(path).is_file(), f"{path}: must be a file, there is none")
    try:
        fields = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be JSON: {error}") from None
    _need(isinstance(fields, dict), f"{path}: must be a JSON object, got {type(fields).__name__}")
    return fields


def digest(value: Any) -> str:
    """The sha256 of JSON in which arrays may stand; how a dict or an array is ordered in memory is nothing to it, dtypes are.

    TypeError for what is neither JSON nor an array of numbers.
    """

    def described(array: Any) -> dict[str, Any]:
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise TypeError(f"digest: must be of JSON and arrays of numbers, got {array!r}")
        elements = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        return {"dtype": elements.dtype.str, "shape": elements.shape, "sha256": hashlib.sha256(elements.data).hexdigest()}

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=described).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """The sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _building(part: Path) -> Iterator[Path]:
    """A free name for what is then moved to its place. What is left is removed, and an OSError, which may not, says where."""
    _remove(part)
    try:
        yield part
        _sync(part.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(part)) from error
    finally:
        _remove(part)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    with _building(path.with_name(f"{path.name}.part")) as part, part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        part.replace(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(path: Path, fields: dict[str, Any], files: Iterable[str]) -> None:
    sealed = fields | {"files": {name: _size_and_sha256(path.parent / name) for name in files}}
    write_whole(path, json.dumps(sealed | {"sha256": digest(sealed)}, indent=2))


def _unseal(path: Path) -> dict[str, Any]:
    """The fields, ValueError where they or a file that they vouch for are not as they were sealed."""
    fields = read_json(path)
    _need({"files", "sha256"} <= fields.keys(), f"{path}: must have the fields files and sha256, with which it is written here")
    sealed, found = fields.pop("sha256"), digest(fields)
    _need(sealed == found, f"{path}: must have other fields of the sha256 {sealed}, got {found}")
    for name, written in fields["files"].items():
        file = path.parent / name
        _need(file.is_file(), f"{file}: must be a file, there is none")
        for what, found in _size_and_sha256(file).items():
            _need(found == written[what], f"{file}: must have the {what} {written[what]}, got {found}")
    return fields


def _size_and_sha256(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_digest(path)}


# --- Models ------------------------------------------------------------------------------------------------------------------


def save_model(folder: str | Path, config: Config, weights: Arrays, tokenizer: Tokenizer) -> None:
    """Write a model folder; other files in it stay, and so does the model that stood there until the new one is on the disk.

    A kill while its four files move leaves what `load_model` refuses. ValueError for weights that are not the config's or not
    finite, and for more tokens than vocab_size. OSError with a path.
    """
    folder = Path(folder)
    _check_model(folder, config, weights, tokenizer)
    with _building(folder / "model.part") as part:
        tokenizer.save(part)
        write_arrays(part / "weights.npz", weights)
        fields = fields_of(config, tokenizer.eos) | ({"architectures": [SCORED]} if SCORE in weights else {})
        _seal(part / "config.json", fields, BESIDE_CONFIG)
        for name in (*BESIDE_CONFIG, "config.json"):
            (part / name).replace(folder / name)


def load_model(folder: str | Path) -> Model:
    """What `save_model` wrote. ValueError with file and rule for anything else, a reward model included."""
    model = _load_model(folder)
    _need(SCORE not in model[1], f"{folder}: must be a model that predicts tokens, got a reward model")
    return model


def load_reward_model(folder: str | Path) -> Model:
    """The same of a model whose weights include a score."""
    model = _load_model(folder)
    _need(SCORE in model[1], f"{folder}: must be a reward model, got one that predicts tokens")
    return model


def _load_model(folder: str | Path) -> Model:
    path = Path(folder, "config.json")
    config = config_of(path, _unseal(path))
    weights, tokenizer = read_arrays(path.with_name("weights.npz")), Tokenizer.load(folder)
    _check_model(path.parent, config, weights, tokenizer)
    return config, weights, tokenizer


def fields_of(config: Config, eos: int) -> dict[str, Any]:
    """GPT-2's fields for a model of this size, whose texts the token eos ends."""
    sizes = {field: getattr(config, name) for name, field in SIZES.items()}
    fixed = {name: values[0] for name, values in IMPLEMENTED.items()}
    return {"architectures": ["GPT2LMHeadModel"], **fixed, **sizes, "bos_token_id": eos, "eos_token_id": eos}


def config_of(path: Path, fields: Mapping[str, Any]) -> Config:
    """The size in the fields of the config.json at path. ValueError for sizes that are none, and for a field whose value means
    another model than the one here; a field that is left out means its default."""
    for name in SIZES.values():
        size = fields.get(name)
        _need(type(size) is int and size >= 1, f"{path}: {name} must be a whole number >= 1, got {size!r}")
    width, heads = fields["n_embd"], fields["n_head"]
    _need(width % heads == 0, f"{path}: n_head must divide n_embd = {width}, got {heads}")
    for name, values in {**IMPLEMENTED, "n_inner": (None, 4 * width)}.items():
        value = fields.get(name, values[0])
        _need(value in values, f"{path}: {name} must be {' or '.join(map(repr, values))}, got {value!r}")
    return Config(**{name: fields[field] for name, field in SIZES.items()})


def _check_model(folder: Path, config: Config, weights: Arrays, tokenizer: Tokenizer) -> None:
    try:
        config.check_scored(weights)
        for name, weight in weights.items():
            _need(np.isfinite(weight).all(), f"weights: {name} must be finite, got {weight[~np.isfinite(weight)][:1]}")
    except ValueError as error:
        raise ValueError(f"{folder / 'weights.npz'}: {error}") from None
    most, size = config.vocab_size, tokenizer.vocab_size
    _need(size <= most, f"{folder / 'vocab.json'}: must have at most vocab_size = {most} tokens, got {size}")


# --- Checkpoints -------------------------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """A run after `step` updates: its arrays by group and name, and what else it needs, as JSON."""

    step: int
    arrays: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]


def save_checkpoint(folder: str | Path, step: int, arrays: Mapping[str, Arrays], state: dict[str, Any], keep: int = 2) -> None:
    """Write a checkpoint; then remove another of its step, and of earlier steps all but the last keep - 1. Later ones stay.

    Until then all stand: a step saved again is step-00000120.1. ValueError for a step < 0, a keep < 1, groups whose names have
    more than letters, digits, _ and -, arrays as in `write_arrays`, a state that JSON does not give back. OSError with a path.
    """
    folder = Path(folder)
    _check_checkpoint(step, arrays, state, keep)
    before = _saved(folder)
    again = 1 + max((again for at, again, _ in before if at == step), default=-1)
    place = folder / (f"step-{step:08d}" + f".{again}" * (again > 0))
    for left_over in folder.glob("step-*.part"):
        _remove(left_over)
    with _building(Path(f"{place}.part")) as part:
        part.mkdir(parents=True)
        for group, named in arrays.items():
            write_arrays(part / f"{group}.npz", named)
        _seal(part / "manifest.json", {"step": step, "state": state}, [f"{group}.npz" for group in arrays])
        part.replace(place)
    replaced, older = ([path for at, _, path in before if at == step], [path for at, _, path in before if at < step])
    for path in replaced + older[keep - 1 :]:
        _remove(path.replace(f"{path}.part"))  # renamed, because half of a checkpoint is none


def last_checkpoint(folder: str | Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and for each newer one a sentence: which file is damaged, and how.

    None where nothing was saved; ValueError where all that was saved is damaged.
    """
    damaged: list[str] = []
    for step, _, path in _saved(Path(folder)):
        try:
            return _load(path, step), damaged
        except ValueError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{path}: must be readable: {error}")
    _need(not damaged, "\n".join([f"{folder}: must hold a checkpoint that is not damaged, got", *damaged]))
    return None, []


def _saved(folder: Path) -> list[tuple[int, int, Path]]:
    """Step, number and folder of every checkpoint, the newest first."""
    paths = list(folder.iterdir()) if folder.exists() else []
    names = [re.fullmatch(r"step-([0-9]{8,})(?:\.([0-9]+))?", path.name) for path in paths]
    return sorted(((int(m[1]), int(m[2] or 0), path) for m, path in zip(names, paths, strict=True) if m), reverse=True)


def _load(path: Path, step: int) -> Checkpoint:
    fields = _unseal(path / "manifest.json")
    _need(fields["step"] == step, f"{path / 'manifest.json'}: must be of step {step}, got {fields['step']}")
    extra = {file.name for file in path.iterdir()} - {"manifest.json", *fields["files"]}
    _need(not extra, f"{path}: must hold nothing but what its manifest.json names, got {sorted(extra)}")
    return Checkpoint(step, {name.removesuffix(".npz"): read_arrays(path / name) for name in fields["files"]}, fields["state"])


def _check_checkpoint(step: int, groups: Collection[str], state: dict[str, Any], keep: int) -> None:
    _need(step >= 0 and keep >= 1, f"save_checkpoint: step must be >= 0 and keep >= 1, got {step} and {keep}")
    legal = all(re.fullmatch(r"[\w-]+", group, re.ASCII) for group in groups)
    _need(legal, f"arrays: groups must have names of letters, digits, _ and -, got {list(groups)}")
    try:
        same = json.loads(json.dumps(state, allow_nan=False)) == state
    except (TypeError, ValueError) as error:
        raise ValueError(f"state: must be JSON without NaN: {error}") from None
    _need(same, "state: must be what JSON gives back, which makes lists of tuples and strings of keys")
