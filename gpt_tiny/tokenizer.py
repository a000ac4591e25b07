"""Byte-level byte-pair encoding, in the files of GPT-2.

    text -> pieces (a word, a number, signs, blanks) -> bytes -> join pairs of tokens, those learned first before others -> ids

Byte pairs: Sennrich et al. 2016, arXiv:1508.07909v5, algorithm 1; on bytes, so that nothing is unknown: Radford et al. 2019,
section 2.2. Special tokens have ids of their own that no text yields: `<|endoftext|>` in a text is 13 characters as any others.

    >>> tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=260)
    >>> [tokenizer.decode([i]) for i in tokenizer.encode("lowly")], tokenizer.eos
    (['low', 'l', 'y'], 259)
"""

import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Any

Pair = tuple[int, int]

# GPT-2 spells a token in visible characters: a byte that is one in Latin-1 is itself, the others are U+0100 onwards, in order.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_SPELLING = {byte: chr(byte) for byte in _VISIBLE}
_SPELLING |= {byte: chr(0x100 + n) for n, byte in enumerate(byte for byte in range(0x100) if byte not in _SPELLING)}
_SPELLED = {character: byte for byte, character in _SPELLING.items()}
_BYTES = [bytes([byte]) for byte in _SPELLING]  # in GPT-2's order of ids

# No piece holds a sign such as < together with a letter or digit, so no text and no merge makes a token of this shape.
_SPECIAL = re.compile(rb"<[!-~]*[A-Za-z0-9][!-~]*>")
_SPECIAL_RULE = "a special token is visible ASCII from < to > with a letter or digit between, as <|endoftext|>"
_REMEMBERED = 1 << 16  # pieces


@dataclass(frozen=True)
class Tokenizer:
    """tokens: the bytes of each id. merges: the two tokens to join, first to last, which make the token of their bytes.

    What is neither a byte nor made by a merge is a special token. ValueError where the 256 bytes or what a merge makes are no
    tokens, a merge or a token stands twice, a merge joins what none before it made, or special tokens are none or ill-named.
    """

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...]

    def __post_init__(self) -> None:
        made = set(_BYTES)
        for rank, merge in enumerate(self.merges):
            _require(made.issuperset(merge), f"merges[{rank}] must join bytes or what merges before it made, got {merge}")
            made.add(merge[0] + merge[1])
        _require(len(set(self.merges)) == len(self.merges), "merges: each must stand once")
        _require(len(self._ids) == len(self.tokens), "tokens: each must stand once")
        missing = made - self._ids.keys()
        _require(not missing, f"tokens: every byte and what merges make must be one, missing {sorted(missing)[:3]}")
        special = [token for token in self.tokens if token not in made]
        _require(special and all(map(_SPECIAL.fullmatch, special)), f"tokens: {_SPECIAL_RULE}, got {special[:3]}")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = ("<|endoftext|>",)) -> "Tokenizer":
        """Joins the most frequent pair of neighbours within pieces until there are vocab_size tokens, or no pair occurs twice.

        Of equally frequent pairs the one with the smaller ids, left before right; the order of the texts is nothing to it. Ids:
        bytes, then what was learned, then special tokens. ValueError for texts that are one string or hold what `encode`
        refuses, a vocab_size below 256 + special tokens, and special tokens that are ill-named, twice or none.
        """
        special = [name.encode() for name in special_tokens]
        rightly = special and len(set(special)) == len(special) and all(map(_SPECIAL.fullmatch, special))
        _require(rightly, f"special_tokens: {_SPECIAL_RULE}, each once, got {special}")
        size = vocab_size - len(special) if type(vocab_size) is int else 0
        _require(size >= 256, f"vocab_size must be an integer >= 256 + special tokens, got {vocab_size!r}")
        _require(not isinstance(texts, str), "texts must be an iterable of strings, got one string")
        pieces = Counter(piece for text in texts for piece in split(_checked(text, "texts")))
        tokens, merges = _learn(pieces, size)
        return cls((*tokens, *special), tuple((tokens[left], tokens[right]) for left, right in merges))

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Their ids by name, in the order of ids."""
        made = {*_BYTES, *(left + right for left, right in self.merges)}
        return {token.decode(): i for token, i in self._ids.items() if token not in made}

    @property
    def eos(self) -> int:
        """The first special token, which ends a text."""
        return next(iter(self.special_tokens.values()))

    def encode(self, text: str) -> list[int]:
        """Ids, never a special token's. ValueError for what is no string or holds a lone surrogate, which has no UTF-8."""
        return self._encode(_checked(text, "text"))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Of any bytes: where they are UTF-8, the ids of their text. A byte that is not is a sign, as far as pieces go."""
        return self._encode(data.decode("utf-8", "surrogateescape"))

    def decode(self, ids: Iterable[int]) -> str:
        """U+FFFD stands for what is not UTF-8, such as half a character. A special token is its name."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """decode_bytes(encode_bytes(data)) == data. ValueError for an id that is no integer in [0, vocab_size)."""
        try:
            return b"".join(self._bytes[i] for i in ids)
        except KeyError as error:
            raise ValueError(f"ids must be integers in [0, {self.vocab_size}), got {error}") from None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes vocab.json and merges.txt, each whole or not at all.

        After a kill between the two they load only if the new tokens are the old ones.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        merges = [f"{_spell(left)} {_spell(right)}\n" for left, right in self.merges]
        _replace(folder / "merges.txt", "".join(["#version: 0.2\n", *merges]))
        _replace(folder / "vocab.json", json.dumps({_spell(token): i for token, i in self._ids.items()}, ensure_ascii=False))

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Tokenizer":
        """vocab.json, ids in any order, and merges.txt, whose line n is merges[n - 2]. ValueError with file and rule."""
        tokens, merges = _read_vocab(Path(directory) / "vocab.json"), _read_merges(Path(directory) / "merges.txt")
        try:
            return cls(tokens, merges)
        except ValueError as error:
            raise ValueError(f"{directory}: vocab.json and merges.txt: {error}") from None

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {token: i for i, token in self._bytes.items()}

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return dict(enumerate(self.tokens))

    @cached_property
    def _joins(self) -> dict[Pair, Pair]:
        """The rank of a merge and the id that it makes, by the ids that it joins."""
        ids = self._ids
        return {(ids[left], ids[right]): (rank, ids[left + right]) for rank, (left, right) in enumerate(self.merges)}

    @cached_property
    def _remembered(self) -> dict[str, list[int]]:
        return {}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in split(text):
            known = self._remembered.get(piece)
            if known is None:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                known = self._remembered[piece] = self._join(piece.encode("utf-8", "surrogateescape"))
            ids += known
        return ids

    def _join(self, piece: bytes) -> list[int]:
        """Joins the leftmost pair of the lowest rank until no pair has a merge: n log n work in n bytes.

        parts[i] begins at byte i, and is -1 where a part to its left took it in. A last -1 joins nothing and closes the ring.
        """
        n, joins = len(piece), self._joins
        parts = [*(self._ids[piece[i : i + 1]] for i in range(n)), -1]
        before, after = [n, *range(n)], [*range(1, n + 1), 0]
        heap = [(*joins[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in joins]
        heapify(heap)
        while heap:
            rank, joined, i = heappop(heap)
            j = after[i]
            if joins.get((parts[i], parts[j])) != (rank, joined):
                continue  # a neighbour has changed since
            parts[i], parts[j] = joined, -1
            after[i] = after[j]
            before[after[j]] = i
            for k in (before[i], i):
                pair = parts[k], parts[after[k]]
                if pair in joins:
                    heappush(heap, (*joins[pair], k))
        return [part for part in parts if part >= 0]


def split(text: str) -> list[str]:
    """The pieces of GPT-2's pattern, within which pairs are joined; together they are the text.

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

    What is a letter (L) or number (N) is as in this Python's version of Unicode: 14 in Python 3.11, 15.1 in 3.13.
    """
    return _pattern().findall(text)


@cache
def _pattern() -> re.Pattern[str]:
    """Python's \\w is L, N and _, its \\d is part of N, and its \\s has U+001C to U+001F, which are no blanks in Unicode."""
    characters = map(chr, range(sys.maxunicode + 1))
    more = "".join(c for c in characters if c.isnumeric() and not c.isdecimal() and not c.isalpha())
    blank = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    words = rf" ?[^\W\d_{more}]+| ?[\d{more}]+| ?(?:[^\w{blank}]|_)+"
    return re.compile(rf"'(?:s|t|re|ve|m|ll|d)|{words}|[{blank}]+(?![^{blank}])|[{blank}]+")


def _learn(pieces: Counter[str], size: int) -> tuple[list[bytes], list[Pair]]:
    """At most size tokens, the bytes first, and the merges that make them. A merge visits the pieces with its pair."""
    tokens, merges = list(_BYTES), list[Pair]()
    ids = {token[0]: i for i, token in enumerate(tokens)}
    words = _Words([[ids[byte] for byte in piece.encode()] for piece in pieces], list(pieces.values()))
    heap = [(-count, pair) for pair, count in words.counts.items()]
    heapify(heap)
    while len(tokens) < size and heap:
        count, pair = heappop(heap)
        if count != -words.counts[pair]:
            continue  # whatever changed it pushed it again
        if count > -2:
            break
        for changed in words.join(pair, len(tokens)):
            heappush(heap, (-words.counts[changed], changed))
        merges.append(pair)
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
    return tokens, merges


class _Words:
    """Distinct pieces as ids with how often each occurs, and the count of every pair of neighbours, overlapping ones too."""

    def __init__(self, words: list[list[int]], times: list[int]) -> None:
        self.words, self.times = words, times
        self.counts: Counter[Pair] = Counter()
        self.holders: defaultdict[Pair, set[int]] = defaultdict(set)
        for n in range(len(words)):
            self._count(n, times[n], self.counts)

    def join(self, pair: Pair, joined: int) -> list[Pair]:
        """Writes the pair as one id wherever it stands, left to right; the pairs whose counts have changed."""
        changes: Counter[Pair] = Counter()
        for n in self.holders.pop(pair):
            self._count(n, -self.times[n], changes)
            self.words[n] = _joined(self.words[n], pair, joined)
            self._count(n, self.times[n], changes)
        changed = [pair for pair, change in changes.items() if change]
        self.counts.update({pair: changes[pair] for pair in changed})
        return changed

    def _count(self, n: int, times: int, counts: Counter[Pair]) -> None:
        for pair in pairwise(self.words[n]):
            counts[pair] += times
            self.holders[pair].add(n)


def _joined(word: list[int], pair: Pair, joined: int) -> list[int]:
    result: list[int] = []
    i = 0
    while i < len(word):
        found = (word[i], *word[i + 1 : i + 2]) == pair
        result.append(joined if found else word[i])
        i += 2 if found else 1
    return result


def _read_vocab(path: Path) -> tuple[bytes, ...]:
    try:
        entries = json.loads(_read(path), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be JSON: {error}") from None
    _require(isinstance(entries, tuple) and entries, f"{path}: must be an object with tokens as its keys")
    ids = {i: spelling for spelling, i in entries if type(i) is int}
    whole = len(ids) == len(entries) and sorted(ids) == list(range(len(ids)))
    _require(whole, f"{path}: ids must be the integers from 0 to {len(entries) - 1}, each once")
    return tuple(_despell(ids[i], str(path)) for i in range(len(ids)))


def _read_merges(path: Path) -> tuple[tuple[bytes, bytes], ...]:
    lines = _read(path).removesuffix("\n").split("\n")
    _require(lines[0].startswith("#version"), f"{path}:1: must begin with #version, got {lines[0]!r}")
    merges = []
    for number, line in enumerate(lines[1:], 2):
        parts = line.split(" ")
        _require(len(parts) == 2, f"{path}:{number}: must be two tokens with a space between, got {line!r}")
        merges.append((_despell(parts[0], f"{path}:{number}"), _despell(parts[1], f"{path}:{number}")))
    return tuple(merges)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8: {error}") from None


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _spell(token: bytes) -> str:
    return "".join(_SPELLING[byte] for byte in token)


def _despell(spelling: str, place: str) -> bytes:
    right = spelling and _SPELLED.keys() >= set(spelling)
    _require(right, f"{place}: a token must be spelled in GPT-2's 256 characters, got {spelling!a}")
    return bytes(_SPELLED[character] for character in spelling)


def _checked(text: Any, name: str) -> str:
    _require(isinstance(text, str), f"{name}: must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: must hold no lone surrogate, got {text[error.start]!a} at {error.start}") from None
    return text


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)
