"""The command line: whatever is wrong with it, with a file or with a disk is one line that names it, never a traceback."""

import gzip
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gpt_tiny import bench, demo, train
from gpt_tiny.__main__ import main, parser
from gpt_tiny.checkpoint import save_model
from gpt_tiny.methods import METHODS
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.tokenizer import Tokenizer
from gpt_tiny.value_model import ValueModel
from minipref.defaults import DEFAULTS

ROOT = Path(__file__).resolve().parents[1]
PAIR = {"prompt": "How are you?", "chosen": " Fine.", "rejected": " Why?"}
OTHER = {"prompt": "Who is it?", "chosen": " A friend of yours.", "rejected": " It is me."}
JUDGED = {"prompt": "How are you?", "completion": " Fine.", "label": True}


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than any run here."""
    monkeypatch.setattr(train, "draw", lambda metrics, figure: False)


def lines(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


FILES = {
    "pairs": lines(PAIR, OTHER),
    "judged": lines(JUDGED, JUDGED | {"completion": " Bad.", "label": False}),
    "prompts": lines({"prompt": "How are you?"}),
    "texts": lines({"text": "Fine."}),
    "empty": b"",
    "no-json": lines(PAIR, b"{'prompt'\n"),
    "list": lines([1, 2]),
    "cut-line": lines(PAIR, b'{"prompt": "How'),
    "nan": lines(PAIR | {"extra": float("nan")}),
    "fields": lines(PAIR, {"prompt": "a", "chosen": "b"}),
    "mixed": lines(PAIR, JUDGED),
    "utf-8": lines(PAIR, b'{"prompt": "\xff"}\n'),
    "surrogate": lines(PAIR | {"prompt": "\ud800"}),
    "twice": b'{"text": "a", "text": "b"}\n',
    "identical": lines(OTHER, PAIR, PAIR | {"rejected": " Fine."}),
    "no-response": lines(PAIR | {"chosen": ""}),
    "number": lines(PAIR | {"chosen": 7}),
    "label": lines(JUDGED, JUDGED | {"label": 1}),
    "role": lines({"prompt": [{"role": "human", "content": "Hi"}], "chosen": "a", "rejected": "b"}),
    "long": lines(PAIR, PAIR | {"chosen": " fine" * 40}),
    "all-long": lines(PAIR | {"chosen": " fine" * 40}),
    "same-when-cut": lines(PAIR, {"prompt": "How?", "chosen": " fine" * 40, "rejected": " fine" * 39 + " bad"}),
    "bad": lines({"text": ""}),
    "many-bad": lines(*[{"text": ""}] * 33),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and model folders, whole and damaged, of a model of 16 dimensions and 32 positions."""
    folder = tmp_path_factory.mktemp("commands")
    for name, content in FILES.items():
        (folder / f"{name}.jsonl").write_bytes(content)
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(FILES["pairs"] * 99)[:40])
    (folder / "plain.jsonl.gz").write_bytes(FILES["pairs"])
    config, tokenizer = Config(270, 32, 16, 1, 2), Tokenizer.train(["How are you? Fine."] * 2, 262)
    save_model(folder / "model", config, initial_weights(config, 0), tokenizer)
    scorer = ValueModel(config)
    save_model(folder / "reward", config, scorer.weights(), tokenizer)
    for name in ("damaged", "unsealed", "unfit", "no-json", "another"):
        shutil.copytree(folder / "model", folder / name)
    weights = folder / "damaged" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-300])
    fields = json.loads((folder / "unsealed" / "config.json").read_text())
    (folder / "unsealed" / "config.json").write_text(json.dumps(fields | {"n_head": 4}))
    Tokenizer.train(["other words"] * 2, 262).save(folder / "unfit")
    (folder / "no-json" / "config.json").write_text("{")
    save_model(folder / "another", config, initial_weights(config, 1), Tokenizer.train(["Why? Because."] * 2, 262))
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "file").write_text("")
    return folder


class Case(NamedTuple):
    """What is asked, and what the last line of the answer must say, in this order."""

    arguments: str
    said: tuple[str, ...]
    code: int = 2


SFT = "sft --data {place}/pairs.jsonl --out {out} --vocab-size 262 --context 32 --width 16 --layers 1 --heads 2"
DPO = "train --method dpo --model {place}/model --data {place}/pairs.jsonl --out {out}"
GRPO = f"{DPO} --method grpo --reward gpt_tiny.world:scores --max-tokens 8"
ALIGN = "align --data {place}/pairs.jsonl --reward gpt_tiny.world:scores --out {out}"
REWARD = "reward-model --model {place}/model --data {place}/pairs.jsonl --out {out}"
EVAL = "eval --model {place}/model --reference {place}/model --data {place}/pairs.jsonl"
SAMPLE = "sample --model {place}/model"


def of_data(name: str, *said: str, more: str = "") -> Case:
    return Case(f"sft --model {{place}}/model --data {{place}}/{name} --out {{out}} {more}", said)


CASES = {
    # usage
    "no command": Case("", ("error: the following arguments are required: COMMAND",)),
    "unknown command": Case("dpo", ("invalid choice: 'dpo'", "sft", "train")),
    "unknown option": Case(f"{DPO} --epoch-count 3", ("unrecognized arguments: --epoch-count 3",)),
    "no data": Case("train --method dpo --model m --out o", ("required: --data",)),
    "no out": Case("sft --data d", ("required: --out",)),
    "no method": Case("train --model m --data d --out o", ("required: --method",)),
    "no number": Case(f"{DPO} --epochs many", ("argument --epochs", "invalid int value: 'many'")),
    "half an epoch": Case(f"{DPO} --epochs 0.5", ("argument --epochs", "invalid int value: '0.5'")),
    "no value": Case(f"{DPO} --beta", ("argument --beta: expected one argument",)),
    # methods and hyperparameters
    "unknown method": Case(f"{DPO} --method rlhf", ("method must be one of sft, dpo, ", "bradley_terry, got 'rlhf'")),
    "gamma of dpo": Case(f"{DPO} --gamma 1", ("dpo: ", "beta", "gamma")),
    "smoothing of dpo": Case(f"{DPO} --label-smoothing 0.1", ("dpo: ", "label_smoothing")),
    "beta 0": Case(f"{DPO} --beta 0", ("dpo: beta must lie in (0, inf), got 0.0",)),
    "beta nan": Case(f"{DPO} --beta nan", ("dpo: beta must lie in (0, inf), got nan",)),
    "beta inf": Case(f"{DPO} --beta inf", ("dpo: beta must lie in (0, inf), got inf",)),
    "smoothing 0.5": Case(
        f"{DPO} --method cdpo --label-smoothing 0.5", ("cdpo: label_smoothing must lie in [0, 0.5), got 0.5",)
    ),
    "negative weight": Case(
        f"{DPO} --method kto --desirable-weight -1", ("kto: desirable_weight must lie in [0, inf), got -1.0",)
    ),
    # methods that sample
    "no reward": Case(f"{DPO} --method ppo", ("ppo: reward must be a folder or module:name, got ''",)),
    "no such reward": Case(f"{GRPO} --reward nowhere:f", ("reward must be a folder or a function", "got 'nowhere:f'")),
    "a policy for a reward": Case(f"{GRPO} --reward {{place}}/model", ("model: must be a reward model, got one",)),
    "a reward for a policy": Case(f"{DPO} --model {{place}}/reward", ("reward: must be a model that predicts", "got")),
    "another's reward": Case(f"{GRPO} --model {{place}}/another --reward {{place}}/reward", ("the tokenizer of the policy",)),
    "reward of dpo": Case(f"{DPO} --reward json:loads", ("--reward is for methods that sample, and dpo does not",)),
    "group of dpo": Case(f"{DPO} --group-size 4", ("--group-size is for methods that sample, and dpo does not",)),
    "gamma of grpo": Case(f"{GRPO} --gamma 1", ("grpo: ", "gamma")),
    "beta of grpo": Case(f"{GRPO} --beta -1", ("grpo: beta must lie in [0, inf), got -1.0",)),
    "group of one": Case(f"{GRPO} --group-size 1", ("grpo: group_size must be >= 2", "got 1")),
    "kl nowhere": Case(f"{GRPO} --kl value", ("grpo: kl must be loss or reward or left out, got 'value'",)),
    "tries of grpo": Case(f"{GRPO} --tries 2", ("grpo: tries must be >= 1, and for dapo alone, got 2",)),
    "autograd of grpo": Case(f"{GRPO} --autograd", ("--autograd must be left out with grpo",)),
    "evaluation of grpo": Case(f"{GRPO} --evaluation {{place}}/pairs.jsonl", ("evaluation must be left out with grpo",)),
    "cache of grpo": Case(f"{GRPO} --reference cached", ("reference must be copy, offload or lora", "got 'cached'")),
    "copy of sppo": Case(f"{GRPO} --method sppo --reference copy", ("reference must be left out with sppo, which has none",)),
    "no room": Case(f"{GRPO} --max-tokens 31", ("max_tokens must leave a prompt 2 of the context's 32 tokens, got 1",)),
    "texts for grpo": Case(
        f"{GRPO} --data {{place}}/texts.jsonl", ("texts.jsonl:1: a method that samples needs prompts, got a text",)
    ),
    "adapters of a reward": Case(f"{REWARD} --model {{place}}/model --lora-rank 2", ("unrecognized arguments: --lora-rank",)),
    "judged for a reward": Case(f"{REWARD} --data {{place}}/judged.jsonl", ("bradley_terry needs pairs, got TokenizedComp",)),
    "margin": Case(f"{REWARD} --margin nan", ("bradley_terry: margin must be finite, got nan",)),
    "no such way of grpo": Case(f"{GRPO} --reference ofload", ("reference must be one of", "got 'ofload'")),
    "no adapters of grpo": Case(f"{GRPO} --reference lora", ("reference must be another way than lora without lora_rank",)),
    "dropout of grpo": Case(f"{GRPO} --dropout 0.1", ("dropout must be 0 with grpo", "got 0.1")),
    "a constant for a reward": Case(f"{GRPO} --reward math:pi", ("reward must be a function, got 'math:pi', which is 3.14",)),
    "align to a model": Case(f"{ALIGN} --reward {{place}}/reward", ("reward must be a function, module:name", "reward")),
    "align to nothing": Case(f"{ALIGN} --reward json:nothing", ("reward must be a folder or a function", "'json:nothing'")),
    "one asked": Case(f"{ALIGN} --asked 1", ("asked must be >= 2, got 1",)),
    "no room to align": Case(f"{ALIGN} --context 64", ("max_tokens must leave a prompt 2 of the context's tokens, got 64",)),
    "nothing held out": Case(f"{ALIGN} --held-out nowhere.jsonl", ("nowhere.jsonl",), 1),
    "align without reward": Case("align --data d --out o", ("required: --reward",)),
    # numbers
    "lr 0": Case(f"{DPO} --lr 0", ("lr must be finite and > 0, got 0.0",)),
    "lr nan": Case(f"{DPO} --lr nan", ("lr must be finite and > 0, got nan",)),
    "lr negative": Case(f"{DPO} --lr -0.1", ("lr must be finite and > 0, got -0.1",)),
    "warm-up 2": Case(f"{DPO} --warmup 2", ("warmup must be finite and in [0, 1], got 2.0",)),
    "decay negative": Case(f"{DPO} --weight-decay -1", ("weight_decay must be finite and >= 0, got -1.0",)),
    "clip 0": Case(f"{DPO} --clip 0", ("clip must be finite and > 0, got 0.0",)),
    "dropout 1": Case(f"{DPO} --dropout 1", ("dropout must be in [0, 1), got 1.0",)),
    "epochs 0": Case(f"{DPO} --epochs 0", ("epochs must be >= 1, got 0",)),
    "batch 0": Case(f"{DPO} --batch-size 0", ("batch_size must be >= 1, got 0",)),
    "accumulation 0": Case(f"{DPO} --accumulation 0", ("accumulation must be >= 1, got 0",)),
    "save every 0": Case(f"{DPO} --save-every 0", ("save_every must be >= 1, got 0",)),
    "seed -1": Case(f"{DPO} --seed -1", ("seed must be in [0, 2**63), got -1",)),
    "seed too large": Case(f"{SFT} --seed 9223372036854775808", ("seed must be in [0, 2**63), got 9223372036854775808",)),
    # choices
    "unknown schedule": Case(f"{DPO} --schedule step", ("schedule must be", "one of constant, linear, cosine, got 'step'")),
    "unknown dtype": Case(f"{DPO} --dtype float16", ("dtype must be one of float32, bfloat16, float64, got 'float16'",)),
    "unknown device": Case(f"{DPO} --device tpu", ("device must be one of those there are: cpu", "got 'tpu'")),
    "unknown reference": Case(
        f"{DPO} --reference frozen", ("reference must be one of cached, copy, offload, lora, got 'frozen'",)
    ),
    "lora without rank": Case(f"{DPO} --reference lora", ("reference must be", "without lora_rank, got 'lora'")),
    "reference of simpo": Case(
        f"{DPO} --method simpo --reference copy", ("reference must be left out with simpo", "got 'copy'")
    ),
    "quantized without rank": Case(
        f"{DPO} --quantize-base nf4", ("quantize_base must be left out without lora_rank, got 'nf4'",)
    ),
    "unknown quantization": Case(f"{DPO} --quantize-base int8", ("argument --quantize-base: invalid choice: 'int8'",)),
    "alpha without rank": Case(f"{DPO} --lora-alpha 8", ("lora_alpha must be left out without lora_rank, got 8.0",)),
    "alpha 0": Case(f"{DPO} --lora-rank 2 --lora-alpha 0", ("alpha: must be finite and > 0, got 0.0",)),
    "rank -1": Case(f"{DPO} --lora-rank -1", ("lora_rank must be >= 0, got -1",)),
    "rank above the width": Case(f"{DPO} --lora-rank 17", ("rank: must be a whole number in [1, width = 16], got 17",)),
    "unknown treatment": Case(f"{DPO} --on-long cut", ("argument --on-long: invalid choice: 'cut'",)),
    # models
    "model is not there": Case(f"{DPO} --model {{place}}/none", ("none/config.json: must be a file, there is none",)),
    "model of no name": Case(f"{DPO} --model ''", ("config.json: must be a file, there is none",)),
    "model damaged": Case(f"{DPO} --model {{place}}/damaged", ("damaged/weights.npz: must have the size", "got")),
    "model changed": Case(f"{DPO} --model {{place}}/unsealed", ("unsealed/config.json: must have other fields of the sha256",)),
    "another's tokenizer": Case(f"{DPO} --model {{place}}/unfit", ("unfit/", "must have the s", "got")),
    "model no JSON": Case(f"{DPO} --model {{place}}/no-json", ("no-json/config.json: must be JSON: ",)),
    "small vocabulary": Case(f"{SFT} --vocab-size 256", ("vocab_size must be an integer >= 256 + special tokens, got 256",)),
    "heads": Case(f"{SFT} --heads 3", ("heads must divide width = 16, got 3",)),
    "width 0": Case(f"{SFT} --width 0", ("width must be a whole number >= 1, got 0",)),
    "width of a model": Case(f"{SFT} --model {{place}}/model", ("--vocab_size is of a new model, and --model",)),
    "max length": Case(f"{DPO} --max-length 33", ("max_length must be at most the model's context, 32, got 33",)),
    "max length 1": Case(f"{DPO} --max-length 1", ("max_length: must be at least 2", "but is 1")),
    "max length 0": Case(f"{DPO} --max-length 0", ("max_length: must be at least 2", "but is 0")),
    # data
    "data is not there": Case(f"{DPO} --data {{place}}/none.jsonl", ("/none.jsonl: No such file or directory",), 1),
    "data is a folder": Case(f"{DPO} --data {{place}}/model", ("/model: Is a directory",), 1),
    "data empty": of_data("empty.jsonl", "empty.jsonl:1: the file must have a row"),
    "not JSON": of_data("no-json.jsonl", "no-json.jsonl:2: not JSON: "),
    "not an object": of_data("list.jsonl", "list.jsonl:1: the line must be a JSON object, but is [1, 2]"),
    "cut line": of_data("cut-line.jsonl", "cut-line.jsonl:2: not JSON: Unterminated string"),
    "NaN": of_data("nan.jsonl", "nan.jsonl:1: not JSON: NaN"),
    "wrong fields": of_data("fields.jsonl", "fields.jsonl:2: the fields must be prompt, chosen, rejected; ", "prompt, chosen"),
    "mixed": of_data("mixed.jsonl", "mixed.jsonl:2: mixed formats: must be prompt, chosen, rejected"),
    "not UTF-8": of_data("utf-8.jsonl", "utf-8.jsonl:2: not UTF-8"),
    "surrogate": of_data("surrogate.jsonl", "surrogate.jsonl:1: prompt: must be Unicode without lone surrogates"),
    "field twice": of_data("twice.jsonl", "twice.jsonl:1: each field must stand once in an object"),
    "identical pair": of_data("identical.jsonl", "identical.jsonl:3: rejected: must differ from chosen, but is ' Fine.'"),
    "empty response": of_data("no-response.jsonl", "no-response.jsonl:1: chosen: must not be empty"),
    "number": of_data("number.jsonl", "number.jsonl:1: chosen: must be a string, but is 7"),
    "label 1": of_data("label.jsonl", "label.jsonl:2: label: must be true or false, but is 1"),
    "role": of_data("role.jsonl", "role.jsonl:1: prompt, message 1, role: must be one of system, user, assistant"),
    "cut archive": of_data("cut.jsonl.gz", "cut.jsonl.gz:1: the file cannot be read further: "),
    "no archive": of_data("plain.jsonl.gz", "plain.jsonl.gz:1: the file cannot be read further: "),
    "too long": of_data("long.jsonl", "long.jsonl:2: chosen: must be at most 31 tokens with EOS", "but is "),
    "all too long": of_data("all-long.jsonl", "all-long.jsonl:1: chosen: must be at most 31", more="--on-long drop"),
    "same when cut": of_data(
        "same-when-cut.jsonl", "same-when-cut.jsonl:2: chosen: must be at most 31", more="--on-long error"
    ),
    "nothing good": of_data("bad.jsonl", "bad.jsonl:1: text: must not be empty", more="--skip-bad"),
    "many bad": of_data("many-bad.jsonl", "and 13 more"),
    "pairs for kto": Case(f"{DPO} --method kto", ("pairs.jsonl:1: kto needs judged completions, got TokenizedPair",)),
    "judged for dpo": Case(
        f"{DPO} --data {{place}}/judged.jsonl", ("judged.jsonl:1: dpo needs pairs, got TokenizedCompletion",)
    ),
    "texts for dpo": Case(f"{DPO} --data {{place}}/texts.jsonl", ("texts.jsonl:1: dpo needs pairs, got TokenizedCompletion",)),
    "prompts for sft": of_data("prompts.jsonl", "prompts.jsonl:1: sft needs something to learn, got TokenizedPrompt"),
    "undesirable for sft": of_data(
        "judged.jsonl", "judged.jsonl:2: sft needs something to learn, got TokenizedCompletion False"
    ),
    "evaluation bad": Case(f"{DPO} --evaluation {{place}}/label.jsonl", ("label.jsonl:2: label: must be true or false",)),
    "evaluation of another kind": Case(f"{DPO} --evaluation {{place}}/judged.jsonl", ("judged.jsonl:1: dpo needs pairs",)),
    "evaluation is not there": Case(f"{DPO} --evaluation {{place}}/none", ("/none: No such file or directory",), 1),
    # where it goes
    "out not empty": Case(f"{DPO} --out {{place}}/full", ("out must be a folder that is new or empty", "full")),
    "out not empty, resumed": Case(
        f"{DPO} --out {{place}}/full --resume", ("out must be a folder that is new or empty", "full")
    ),
    "out is a file": Case(f"{DPO} --out {{place}}/file", ("/file: ",), 1),
    "out below a file": Case(f"{DPO} --out {{place}}/file/run", ("/file/run: Not a directory",), 1),
    # the other commands
    "no prompt": Case(SAMPLE, ("--prompt or --data must give a prompt, got none",)),
    "texts are no prompts": Case(
        f"{SAMPLE} --data {{place}}/texts.jsonl", ("--prompt or --data must give a prompt, got none",)
    ),
    "empty prompt": Case(f"{SAMPLE} --prompt ''", ("prompts: must hold 1 to 31 tokens each, got [0]",)),
    "long prompt": Case(f"{SAMPLE} --prompt {'xyz' * 20}", ("prompts: must hold 1 to 31 tokens each, got [60]",)),
    "temperature": Case(f"{SAMPLE} --prompt a --temperature -1", ("temperature must be in [0, 2**63), got -1.0",)),
    "temperature nan": Case(f"{SAMPLE} --prompt a --temperature nan", ("temperature must be in [0, 2**63), got nan",)),
    "no tokens": Case(f"{SAMPLE} --prompt a --max-tokens 0", ("max_tokens must be in [1, 2**63), got 0",)),
    "top k": Case(f"{SAMPLE} --prompt a --top-k -1", ("top_k must be in [0, 2**63), got -1",)),
    "seed of samples": Case(f"{SAMPLE} --prompt a --seed {2**64}", (f"seed must be in [0, 2**63), got {2**64}",)),
    "sample of no model": Case("sample --model {place}/none --prompt a", ("none/config.json: must be a file, there is none",)),
    "no reference": Case(
        "eval --model {place}/model --data {place}/pairs.jsonl", ("--reference must be given for dpo, got None",)
    ),
    "reference of orpo": Case(f"{EVAL} --method orpo", ("--reference must be left out with orpo, got", "model")),
    "another's reference": Case(f"{EVAL} --reference {{place}}/another", ("--reference must have the tokenizer", "another")),
    "batch 0 of eval": Case(f"{EVAL} --batch-size 0", ("--batch-size must be >= 1, got 0",)),
    "too long to measure": Case(f"{EVAL} --data {{place}}/long.jsonl", ("long.jsonl:2: chosen: must be at most 31 tokens",)),
    "judged for eval": Case(f"{EVAL} --data {{place}}/judged.jsonl", ("judged.jsonl:1: dpo needs pairs",)),
    "import from nowhere": Case("import-hf {place}/none {out}", ("none/config.json: must be a file, there is none",)),
    "export onto a model": Case("export-hf {place}/model {place}/another", ("another: must hold no config.json yet",)),
    "export without safetensors": Case("export-hf {place}/model {out}", ("safetensors must be installed", "`peers`")),
    "unknown quick": Case("bench --quickly", ("unrecognized arguments: --quickly",)),
    "unknown demo": Case("demo --quickly", ("unrecognized arguments: --quickly",)),
}


def answered(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, and what was printed."""
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_a_line(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    case, out = CASES[name], tmp_path / "out"
    code, printed, said = answered(shlex.split(case.arguments.format(place=place, out=out)), capsys)
    line = said.splitlines()[-1]
    assert code == case.code and printed == "" and "Traceback" not in said
    places = [line.find(fragment) for fragment in case.said]
    assert -1 not in places and places == sorted(places), line
    assert said == f"{line}\n" or "usage: " in said or name == "many bad"
    assert not out.exists()


def test_a_folder_that_cannot_be_made_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even by root."""
    if not Path("/sys/kernel").is_dir():
        pytest.skip("needs a file system on which nobody makes folders")
    code, printed, said = answered(shlex.split(DPO.format(place=place, out="/sys/minipref")), capsys)
    assert (code, printed) == (1, "") and said.splitlines()[-1].startswith("python -m gpt_tiny: /sys/minipref: ")


# --- What works --------------------------------------------------------------------------------------------------------------

NAMES = ["sft", "train", "reward-model", "align", "sample", "eval", "folds", "demo", "bench", "import-hf", "export-hf"]


def parsed(words: list[str]) -> object:
    """By the parser of the command. SystemExit for an option that it has not."""
    own = {"demo": demo.parser, "bench": bench.parser}.get(words[0])
    return own().parse_args(words[1:]) if own else parser().parse_args(words)


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_help_has_an_example_that_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, said = answered([*name.split(), "--help"], capsys)
    assert (code, said) == (0, "")
    rows = [row.strip().split("   ")[0] for row in printed.splitlines() if row.startswith("  ")]
    examples = [row.removeprefix("python -m gpt_tiny ") for row in rows if row.startswith("python -m gpt_tiny ")]
    asked = [shlex.split(example) for example in examples if not example.startswith("COMMAND")]
    assert asked and all(parsed(words) for words in asked)
    assert (
        {words[0] for words in asked} == {name} if name else {words[0] for words in asked} >= {"sft", "train", "demo", "bench"}
    )


def test_the_example_of_many_processes_is_understood() -> None:
    example = re.search(r"-m gpt_tiny\.sharded (.*)", (ROOT / "gpt_tiny" / "sharded.py").read_text("utf-8"))
    assert example and parsed(shlex.split(example[1]))


def test_help_says_what_is_in_use_by_whom_and_where_that_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    printed = " ".join(answered(["train", "--help"], capsys)[1].split())
    for row in DEFAULTS.values():
        if row.operation in METHODS:
            asked = f"{row.operation} {row.value:g} (in use {row.low:g} to {row.high:g}; {row.used_by}; {row.source})"
            assert asked.replace("-", "").replace(" ", "") in printed.replace("-", "").replace(" ", "")


@pytest.mark.parametrize("more, counted, reasons", [
    ("--on-long drop", "1 rows, 1 dropped, 0 prompts and 0 responses cut", ["chosen: must be at most 31 tokens with EOS"]),
    ("--on-long truncate-response", "2 rows, 0 dropped, 1 prompts and 1 responses cut", []),
    ("--on-long drop --max-length 24", "1 rows, 1 dropped, 0 prompts and 0 responses cut", ["chosen: must be at most 23"]),
])  # fmt: skip
def test_a_long_response_is_treated_as_asked_and_counted(
    more: str, counted: str, reasons: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"sft --model {place}/model --data {place}/long.jsonl --out {tmp_path}/out {more}"
    code, _, said = answered(arguments.split(), capsys)
    dropped = [json.loads(row) for row in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert code == 0 and counted in said and len(dropped) == len(reasons)
    for row, reason in zip(dropped, reasons, strict=True):
        assert row["line"] == 2 and row["reason"].startswith(reason) and row["file"].endswith("long.jsonl")


def test_bad_lines_are_skipped_where_asked_and_written_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"train --method dpo --model {place}/model --data {place}/utf-8.jsonl --out {tmp_path}/out --skip-bad"
    assert answered(arguments.split(), capsys)[0] == 0
    (dropped,) = [json.loads(row) for row in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert dropped["line"] == 2 and dropped["reason"].startswith("not UTF-8") and "xff" in dropped["text"]


def test_what_was_trained_is_measured_and_answers(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = f"{tmp_path}/sft"
    assert answered(shlex.split(SFT.format(place=place, out=learned)), capsys)[:2] == (
        0, f"{learned}: the model, metrics.jsonl and curves.png of the run\n",
    )  # fmt: skip
    files = f"--model {learned} --data {place}/pairs.jsonl"
    code, printed, _ = answered(f"eval {files} --reference {learned}".split(), capsys)
    found = json.loads(printed)
    assert code == 0 and found["rows"] == 2 and abs(found["eval_loss"] - math.log(2)) <= 1e-6
    code, printed, _ = answered(f"eval {files} --method sft".split(), capsys)
    assert code == 0 and 5 < json.loads(printed)["eval_loss"] < 6  # log 262 is 5.57
    drawn = [answered(f"sample {files} --prompt Why? --max-tokens 9 --seed {seed}".split(), capsys)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [json.loads(row)["prompt"] for row in drawn[0].splitlines()] == ["Why?", PAIR["prompt"], OTHER["prompt"]]


# --- Real processes ----------------------------------------------------------------------------------------------------------


def process(arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpt_tiny", *shlex.split(arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1, **options)


def no_file_above(size: int) -> Callable[[], None]:
    """To run in the process: a file that grows beyond is as a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_process_whose_disk_is_full_ends_with_1_and_the_file(place: Path, tmp_path: Path) -> None:
    with process(DPO.format(place=place, out=tmp_path / "out"), preexec_fn=no_file_above(20_000)) as asked:
        printed, said = asked.communicate(timeout=300)
    assert (asked.returncode, printed) == (1, "") and "Traceback" not in said
    path = tmp_path / "out" / "checkpoints"
    assert said.splitlines()[-1].startswith(f"python -m gpt_tiny: {path}/") and said.endswith(": File too large\n")


def test_a_process_with_bad_data_ends_with_2_and_the_line(place: Path, tmp_path: Path) -> None:
    with process(DPO.format(place=place, out=tmp_path / "out") + f" --data {place}/utf-8.jsonl") as asked:
        printed, said = asked.communicate(timeout=300)
    assert (asked.returncode, printed) == (2, "")
    assert said.startswith(f"python -m gpt_tiny: {place}/utf-8.jsonl:2: not UTF-8") and said.count("\n") == 1


@pytest.mark.sweep
def test_a_process_that_is_interrupted_says_so(place: Path, tmp_path: Path) -> None:
    log = tmp_path / "out" / "metrics.jsonl"
    with process(DPO.format(place=place, out=tmp_path / "out") + " --epochs 5000") as asked:
        while not log.exists() or not log.stat().st_size:
            assert asked.poll() is None
        asked.send_signal(signal.SIGINT)
        printed, said = asked.communicate(timeout=300)
    assert (asked.returncode, printed) == (130, "") and said.splitlines()[-1] == "python -m gpt_tiny: interrupted"
