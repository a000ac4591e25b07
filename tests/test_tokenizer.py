"""The tokenizer: nothing is lost, nothing is forged, merges in their order, GPT-2's files, and the same ids as `tokenizers`."""

import doctest
import json
import os
import pickle
import random
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_tiny import tokenizer as module
from gpt_tiny.tokenizer import Tokenizer, split

PYTHON = Path(__file__).resolve().parents[1] / ".venv-trl" / "bin" / "python"
NAMES = ("<|endoftext|>", "<pad>")

LINES = """It's what we'd said: they're 3 of 1,024 — isn't it?  We'll see I've 'quoted' it, I'M not.
    def f(x):\treturn x ** 2  # ½ of Ⅷ², ٣٤ and १२\r\n\r\n
Größe, naïve façade; Ελληνικά, русский язык; עברית שלום, العربية ١٢٣; हिन्दी में लिखा; ภาษาไทย
中文没有空格。日本語のテキスト、ひらがな。한국어 문장\u3000全角
👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 e\u0301 é \u200b\u200d \ufeff\u00ad z͑ͫ̓ͪ̂ͫ̽͏
<|endoftext|> <pad> <|endoftext|><|im_start|> Ġthe Ċ ĠĠ""".split("\n")
TEXTS = [*LINES, "a  b   c \n\n d\x85e\x1c\x1df \x00\x01\x7f\u2028\u2029 \u00a0 x\t\ty\x0b\x0cz  ", "\n".join(LINES), " ", ""]
TOKENIZER = Tokenizer.train(TEXTS * 2, 400, NAMES)

fragments = st.one_of(st.text(max_size=8), st.sampled_from([*TEXTS, *NAMES, "<|", "endoftext", "|>", " " * 9, "'ll", "aaaa"]))
texts = st.lists(fragments, max_size=6).map("".join)


@given(texts)
def test_a_text_comes_back_and_holds_no_special_token(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(TOKENIZER.special_tokens.values())
    assert "".join(split(text)) == text and TOKENIZER.encode_bytes(text.encode()) == ids


@given(st.lists(st.binary(max_size=8) | fragments.map(str.encode), max_size=6).map(b"".join))
def test_any_bytes_come_back(data: bytes) -> None:
    ids = TOKENIZER.encode_bytes(data)
    assert TOKENIZER.decode_bytes(ids) == data
    assert TOKENIZER.decode(ids) == data.decode(errors="replace")
    assert not set(ids) & set(TOKENIZER.special_tokens.values())


def test_every_byte_and_special_token_is_decoded() -> None:
    assert TOKENIZER.decode_bytes(range(TOKENIZER.vocab_size)) == b"".join(TOKENIZER.tokens)
    assert TOKENIZER.special_tokens == {"<|endoftext|>": 398, "<pad>": 399} and TOKENIZER.eos == 398


words = st.text("ab", min_size=1, max_size=12)


@given(st.lists(words, min_size=1, max_size=8), st.integers(257, 275), st.text("abc", min_size=1, max_size=40))
def test_merges_are_those_of_counting_anew_and_are_joined_in_their_order(lines: list[str], size: int, word: str) -> None:
    tokenizer = Tokenizer.train(lines, size)
    assert list(tokenizer.merges) == merges_counted_anew(lines, size - 257)
    assert [tokenizer.tokens[i] for i in tokenizer.encode(word)] == joined_one_by_one(word, tokenizer.merges)


def merges_counted_anew(lines: list[str], size: int) -> list[tuple[bytes, bytes]]:
    """Algorithm 1 as it is written, on words of a and b; a token's age is the number of tokens before it."""
    corpus, age, merges = [[c.encode() for c in line] for line in lines], {b"a": 0, b"b": 1}, []
    while len(age) < size + 2:
        counts = Counter(pair for word in corpus for pair in zip(word, word[1:], strict=False))
        if max(counts.values(), default=0) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age[best[0] + best[1]] = len(age)
        corpus = [replaced(word, best) for word in corpus]
    return merges


def replaced(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    for i in range(len(word) - 1):
        if (word[i], word[i + 1]) == pair:
            return [*word[:i], word[i] + word[i + 1], *replaced(word[i + 2 :], pair)]
    return word


def joined_one_by_one(word: str, merges: tuple[tuple[bytes, bytes], ...]) -> list[bytes]:
    parts = [c.encode() for c in word]
    while found := [(merges.index(pair), i) for i, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in merges]:
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def test_a_run_of_training_by_hand() -> None:
    """aaabdaaabac: aa 4 times; then Zab twice, where a, the older, goes with b before Z with a; then Z with ab."""
    tokenizer = Tokenizer.train(["aaabdaaabac"], 300)
    assert tokenizer.merges == ((b"a", b"a"), (b"a", b"b"), (b"aa", b"ab"))
    assert [tokenizer.tokens[i] for i in tokenizer.encode("aaabdaaabac")] == [b"aaab", b"d", b"aaab", b"a", b"c"]
    assert tokenizer.vocab_size == 260


def test_training_depends_on_nothing_but_the_texts() -> None:
    shuffled = TEXTS * 2
    random.Random(0).shuffle(shuffled)
    assert Tokenizer.train(iter(shuffled), 400, NAMES) == TOKENIZER


PIECES = {
    "I'll see it's\u2019s 'LL": ["I", "'ll", " see", " it", "'s", "\u2019", "s", " '", "LL"],
    "'m're've'd'tx": ["'m", "'re", "'ve", "'d", "'t", "x"],
    "a  b \n\n c  ": ["a", " ", " b", " \n\n", " c", "  "],
    "x_1 _y 12km": ["x", "_", "1", " _", "y", " 12", "km"],
    "½² Ⅷ 中三": ["½²", " Ⅷ", " 中三"],
    "a \x1c\x1fb \x85c\u3000 d": ["a", " \x1c\x1f", "b", " ", "\x85", "c", "\u3000", " d"],
    "हिन्दी": ["ह", "ि", "न", "्", "द", "ी"],
}


@pytest.mark.parametrize("text", PIECES)
def test_pieces_are_those_of_the_pattern(text: str) -> None:
    assert split(text) == PIECES[text]


def test_a_piece_of_any_length_is_encoded() -> None:
    """Quadratic work would be ten thousand million steps."""
    for unit in (" ", "ab", "\xff"):
        text = unit * 100_000
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 5)
    tokenizer = Tokenizer(TOKENIZER.tokens, TOKENIZER.merges)
    assert [tokenizer.encode(text) for text in TEXTS] == [TOKENIZER.encode(text) for text in TEXTS]
    assert 0 < len(tokenizer._remembered) <= 5


def test_files_are_those_of_gpt_2(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "run")
    vocab = json.loads((tmp_path / "run/vocab.json").read_bytes())
    merges = (tmp_path / "run/merges.txt").read_text("utf-8").split("\n")
    assert [vocab[c] for c in "!~¡ÿĀĠŃ"] == [0, 93, 94, 187, 188, 220, 255] and vocab["<|endoftext|>"] == 398
    assert merges[0].startswith("#version") and merges[-1] == "" and len(merges) == 2 + len(TOKENIZER.merges)
    assert all("".join(merge.split(" ")) in vocab for merge in merges[1:-1])
    assert Tokenizer.load(tmp_path / "run") == TOKENIZER == pickle.loads(pickle.dumps(TOKENIZER))
    assert sorted(file.name for file in tmp_path.rglob("*.*")) == ["merges.txt", "vocab.json"]


def test_ids_may_stand_in_any_order(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps({token: len(vocab) - 1 - i for token, i in vocab.items()}))
    assert Tokenizer.load(tmp_path).encode(TEXTS[0]) == [len(vocab) - 1 - i for i in TOKENIZER.encode(TEXTS[0])]


def test_a_save_that_stops_leaves_the_file_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TOKENIZER.save(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Tokenizer.train(["abab"], 258).save(tmp_path)
    assert Tokenizer.load(tmp_path) == TOKENIZER
    assert sorted(file.name for file in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]


def test_a_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    """Whoever has it open, here by another name, reads the old one to its end."""
    TOKENIZER.save(tmp_path / "run")
    for name in ("vocab.json", "merges.txt"):
        os.link(tmp_path / "run" / name, tmp_path / name)
    SMALL.save(tmp_path / "run")
    assert Tokenizer.load(tmp_path) == TOKENIZER and Tokenizer.load(tmp_path / "run") == SMALL


SMALL = Tokenizer.train(["abab"], 258)  # a b is its one merge
BROKEN: dict[str, tuple[str, Callable[[str], str], str]] = {
    "not JSON": ("vocab.json", lambda text: text[:-1], "vocab.json: must be JSON"),
    "nested deeply": ("vocab.json", lambda text: "[" * 10**5, "vocab.json: must be JSON"),
    "no object": ("vocab.json", lambda text: "[1]", "vocab.json: must be an object"),
    "not UTF-8": ("vocab.json", lambda text: text + "\udcff", "vocab.json: must be UTF-8"),
    "an id twice": ("vocab.json", lambda text: text.replace(": 5,", ": 6,"), "vocab.json: ids must be the integers"),
    "an id left out": ("vocab.json", lambda text: text.replace(": 257", ": 258"), "vocab.json: ids must be the integers"),
    "an id that is true": ("vocab.json", lambda text: text.replace(": 1,", ": true,"), "vocab.json: ids must be the integers"),
    "a token twice": ("vocab.json", lambda text: text.replace('"ab"', '"a"'), "tokens: each must stand once"),
    "no such character": ("vocab.json", lambda text: text.replace('"ab"', '"a b"'), "vocab.json: a token must be spelled"),
    "a byte left out": ("vocab.json", lambda text: text.replace('"Ġ"', '"<a>"'), "every byte .* missing \\[b' '\\]"),
    "a special token by chance": ("vocab.json", lambda text: text.replace('"<|endoftext|>"', '"abc"'), "a special token is"),
    "a merge without a token": ("vocab.json", lambda text: text.replace('"ab"', '"<b>"'), "missing \\[b'ab'\\]"),
    "no version": ("merges.txt", lambda text: text[1:], "merges.txt:1: must begin with #version"),
    "three parts": ("merges.txt", lambda text: text + "a b c\n", "merges.txt:3: must be two tokens"),
    "an empty line": ("merges.txt", lambda text: text + "\n", "merges.txt:3: must be two tokens"),
    "Windows lines": ("merges.txt", lambda text: text.replace("\n", "\r\n"), "merges.txt:2: a token must be spelled"),
    "merges not UTF-8": ("merges.txt", lambda text: text + "\udcff", "merges.txt: must be UTF-8"),
    "an unknown part": ("merges.txt", lambda text: text + "ab abc\n", "merges\\[1\\] must join bytes or what merges before"),
    "a merge twice": ("merges.txt", lambda text: text + "a b\n", "merges: each must stand once"),
    "another's merges": ("merges.txt", lambda text: text.replace("a b", "b a"), "missing \\[b'ba'\\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    name, broken, message = BROKEN[case]
    SMALL.save(tmp_path)
    text = broken((tmp_path / name).read_text("utf-8"))
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)


REFUSED: dict[str, Callable[[], object]] = {
    "texts must be an iterable": lambda: Tokenizer.train("a text", 300),
    "texts: must be a string": lambda: Tokenizer.train([b"bytes"], 300),  # type: ignore[list-item]
    "texts: must hold no lone surrogate": lambda: Tokenizer.train(["\ud800"], 300),
    "vocab_size must be an integer >= 256 .* got 256": lambda: Tokenizer.train([], 256),
    "vocab_size .* got 300.0": lambda: Tokenizer.train([], 300.0),  # type: ignore[arg-type]
    "special_tokens: .* got .*pad": lambda: Tokenizer.train([], 300, ["pad"]),
    "special_tokens: .* got .*<-->": lambda: Tokenizer.train([], 300, ["<-->"]),
    "special_tokens: .* got .*'<s>', b'<s>'": lambda: Tokenizer.train([], 300, ["<s>", "<s>"]),
    "special_tokens: .* got \\[\\]": lambda: Tokenizer.train([], 300, []),
    "text: must be a string, got bytes": lambda: TOKENIZER.encode(b"bytes"),  # type: ignore[arg-type]
    "text: must hold no lone surrogate, got '.udc80' at 2": lambda: TOKENIZER.encode("ab\udc80"),
    "ids must be integers in \\[0, 400\\), got -1": lambda: TOKENIZER.decode([5, -1]),
    "ids must be integers in \\[0, 400\\), got 400": lambda: TOKENIZER.decode_bytes([400]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_bad_argument_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_the_example_is_true() -> None:
    assert doctest.testmod(module).attempted == 2 and not doctest.testmod(module).failed


PEER = """
import json, sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
folder, texts, probes, size = json.load(sys.stdin)
trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                              special_tokens=["<|endoftext|>"], show_progress=False)
ours, theirs = Tokenizer(models.BPE.from_file(folder + "/vocab.json", folder + "/merges.txt")), Tokenizer(models.BPE())
ours.pre_tokenizer = theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
theirs.train_from_iterator(texts, trainer)
theirs.model.save(folder + "/theirs")
json.dump([[encoding.ids for encoding in tokenizer.encode_batch(probes)] for tokenizer in (ours, theirs)], sys.stdout)
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-trl: the library tokenizers is not installed")
def test_the_library_tokenizers_learns_the_same_merges_and_gives_the_same_ids(tmp_path: Path) -> None:
    """On texts without <|endoftext|>, which theirs would find there, and on what this Python's Unicode has assigned.

    Of the hundred thousand letters without case (Lo: ideographs, for the most part) each fiftieth.
    """
    assigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    some = [c for c in assigned if unicodedata.category(c) != "Lo" or ord(c) % 50 == 0]
    probes = [text for text in TEXTS if "<|endoftext|>" not in text]
    probes += ["".join(f"a{c}1{c}!{c} {c}" for c in some[n : n + 999]) for n in range(0, len(some), 999)]
    tokenizer = Tokenizer.train(TEXTS * 2, 500)
    tokenizer.save(tmp_path)
    (tmp_path / "theirs").mkdir()
    request = json.dumps([str(tmp_path), TEXTS * 2, probes, 500])
    child = subprocess.run([PYTHON, "-c", PEER], input=request, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    with_our_files, with_theirs = json.loads(child.stdout)
    theirs = Tokenizer.load(tmp_path / "theirs")
    assert theirs.merges == tokenizer.merges and theirs.eos == 0
    same = [tokenizer.encode(text) == ids for text, ids in zip(probes, with_our_files, strict=True)]
    same += [theirs.encode(text) == ids for text, ids in zip(probes, with_theirs, strict=True)]
    assert all(same), [probes[n % len(probes)] for n, equal in enumerate(same) if not equal][:1]
