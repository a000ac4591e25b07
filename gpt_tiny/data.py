"""Preference data from JSON lines to token ids: nothing guessed, nothing cut or dropped in silence, nothing in random order.

    fields of a line              row       a field's value
    prompt, chosen, rejected      Pair      strings, or lists of messages {"role": ..., "content": ...}
    chosen, rejected              Pair      two transcripts that begin with the same prompt, as strings or lists of messages
    prompt, completion, label     Judged    strings or lists of messages; the label is true or false
    text                          Text      a string
    prompt                        Prompt    a string or a list of messages

Other fields are ignored. The first line whose fields are a row of this table sets the format of its file. Strings are taken as
they are: who wants a space between prompt and response writes it. A response of white space is legal, it has a token; the empty
string is not. Messages become the text of the transcripts: "\\n\\nHuman: question\\n\\nAssistant:" and " answer".

A row is read (`load`), tokenized (`tokenize`), given to a fold (`split`) and to a batch (`batches`). The last two are pure
functions of what they are given, the same on every machine: where a run stopped is known from epoch and batches done.
"""

import gzip
import hashlib
import json
import os
import re
import reprlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .checkpoint import write_whole

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
MARKS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": ASSISTANT}
LISTED = 20  # problems that an error spells out
SHOWN = reprlib.Repr()  # how an error shows a value: cut, so that a long text stays one line
SHOWN.maxstring = 80
POOL = 16  # batches that are sorted by length together

Ids = list[int]


class Place(NamedTuple):
    """Where a row came from; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Pair(NamedTuple):
    """A prompt and two responses, of which a person chose one."""

    place: Place
    prompt: str
    chosen: str
    rejected: str


class Judged(NamedTuple):
    """A prompt and one response, found desirable (label True) or not."""

    place: Place
    prompt: str
    completion: str
    label: bool


class Text(NamedTuple):
    """A text all of which is learned."""

    place: Place
    text: str


class Prompt(NamedTuple):
    """A prompt that the policy is to answer."""

    place: Place
    prompt: str


Row = Pair | Judged | Text | Prompt


class Problem(NamedTuple):
    """A row that cannot be used: where it stands, why, and the line as it was read."""

    place: Place
    reason: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class DataError(ValueError):
    """Data that cannot be used: `problems`, of which the message lists the first 20 and counts the rest."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        rest = len(problems) - LISTED
        super().__init__("\n".join([*map(str, problems[:LISTED]), *([f"and {rest} more"] if rest > 0 else [])]))
        self.problems = list(problems)


class Read(NamedTuple):
    """The rows of a file in its order, and its bad lines."""

    rows: list[Row]
    dropped: list[Problem]


class _Bad(Exception):
    """A reason without its place."""


def _need(holds: object, rule: str, value: object, error: type[Exception] = _Bad) -> None:
    if not holds:
        raise error(f"{rule}, but is {SHOWN.repr(value)}")


# --- Reading -----------------------------------------------------------------------------------------------------------------


def load(path: str | Path) -> list[Row]:
    """The rows of a JSONL file (gzip where the name ends in .gz).

    Raises DataError for bad lines, a damaged archive and a file without a row; OSError for a file that cannot be opened.
    """
    rows, bad = scan(path)
    if bad:
        raise DataError(bad)
    return rows


def load_skip_bad(path: str | Path, dropped: str | Path) -> Read:
    """As `load`, but bad lines are left out, returned and written to `dropped`. Raises DataError where no good line is left."""
    read = scan(path)
    write_dropped(dropped, read.dropped)
    if not read.rows:
        raise DataError(read.dropped)
    return read


def write_dropped(path: str | Path, dropped: Iterable[Problem]) -> None:
    """Write problems as JSON lines with file, line, reason and text: the whole file, or on a crash the one that stood there."""
    lines = ({"file": place.file, "line": place.line, "reason": reason, "text": text} for place, reason, text in dropped)
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def scan(path: str | Path) -> Read:
    """Every line of a file as a row or a problem; a file without any line is a problem too. Raises OSError as `open` does."""
    read, form = Read([], []), None
    for place, line in _lines(Path(path), read.dropped):
        try:
            fields = parse(line)
            found = recognise(fields)
            form = form or found
            _need(found == form, f"mixed formats: must be {form}, as in the lines before", found)
            read.rows.append(convert(place, fields, form))
        except _Bad as bad:
            read.dropped.append(Problem(place, str(bad), line.decode(errors="backslashreplace").rstrip("\r\n")))
    if not read.rows and not read.dropped:
        read.dropped.append(Problem(Place(str(path), 1), "the file must have a row, but is empty"))
    return read


def _lines(path: Path, bad: list[Problem]) -> Iterator[tuple[Place, bytes]]:
    # Bytes, because only b"\n" ends a line of JSONL: text readers also break at characters that a JSON string may hold.
    number = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                yield Place(str(path), number), line
        except (EOFError, OSError, zlib.error) as error:
            bad.append(Problem(Place(str(path), number + 1), f"the file cannot be read further: {error}"))


def parse(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Strict: UTF-8, no field twice, no NaN and no Infinity."""
    try:
        value = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _Bad(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise _Bad(f"not JSON: {error}") from error
    _need(isinstance(value, dict), "the line must be a JSON object", value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    _need(len(fields) == len(pairs), "each field must stand once in an object", [name for name, _ in pairs])
    return fields


def _no_constant(constant: str) -> None:
    raise _Bad(f"not JSON: {constant}")


class Format(NamedTuple):
    """The fields that make a row, and whether their values are strings or messages."""

    fields: tuple[str, ...]
    values: str

    def __str__(self) -> str:
        return f"{', '.join(self.fields)} ({self.values})"


def recognise(fields: dict[str, Any]) -> Format:
    """The format of a line. All of its fields that occur in any format count, so that none is overlooked."""
    names = tuple(name for name in NAMES if name in fields)
    rule = f"the fields must be {'; or '.join(', '.join(known) for known in ROWS)}"
    _need(names in ROWS, rule, ", ".join(names or fields))
    lists = names != ("text",) and any(isinstance(fields[name], list) for name in names)
    return Format(names, "messages" if lists else "strings")


def convert(place: Place, fields: dict[str, Any], form: Format) -> Row:
    """The row that stands in a line of a format."""
    values = {name: fields[name] for name in form.fields}
    if form.values == "messages":
        values = _from_messages(values)
    for name, value in values.items():
        (_check_label if name == "label" else _check_string)(name, value)
    if "chosen" in values:
        _need(values["chosen"] != values["rejected"], "rejected: must differ from chosen", values["rejected"])
        values = values if "prompt" in values else _split_prompt(**values)
    return ROWS[form.fields](place, **values)


ROWS: dict[tuple[str, ...], Callable[..., Row]] = {
    ("prompt", "chosen", "rejected"): Pair,
    ("chosen", "rejected"): Pair,
    ("prompt", "completion", "label"): Judged,
    ("text",): Text,
    ("prompt",): Prompt,
}
NAMES = ("prompt", "chosen", "rejected", "completion", "label", "text")


def _split_prompt(chosen: str, rejected: str) -> dict[str, str]:
    prompt = common_prompt(chosen, rejected)
    _need(prompt, "rejected: must begin with the same prompt as chosen", rejected)
    values = {"prompt": prompt, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}
    for name, value in values.items():
        _check_string(name, value)
    return values


def common_prompt(chosen: str, rejected: str) -> str:
    """The prompt that two transcripts share: it ends with the last "\\n\\nAssistant:" of their common beginning.

    Without that mark it is the common beginning less its last, perhaps broken, word and the white space before, which then
    begins both responses. Empty where no whole word is common.
    """
    common = os.path.commonprefix([chosen, rejected])
    if ASSISTANT in common:
        return common[: common.rindex(ASSISTANT) + len(ASSISTANT)]
    # The added letter stands for the word that goes on: white space at the end is cut off with it.
    words = (common + "w").rsplit(None, 1)
    return words[0] if len(words) == 2 else ""


def _check_label(name: str, value: Any) -> None:
    _need(isinstance(value, bool), f"{name}: must be true or false", value)


def _check_string(name: str, value: Any) -> None:
    _need(isinstance(value, str), f"{name}: must be a string", value)
    _need(value, f"{name}: must not be empty", value)
    _need(not re.search("[\ud800-\udfff]", value), f"{name}: must be Unicode without lone surrogates", value)


def _from_messages(values: dict[str, Any]) -> dict[str, Any]:
    turns = {name: _turns(name, value) for name, value in values.items() if name != "label"}
    if "chosen" in turns and "prompt" not in turns:
        _need(turns["chosen"] != turns["rejected"], "rejected: must differ from chosen", values["rejected"])
        shared = len(os.path.commonprefix(list(turns.values())))
        turns = {"prompt": turns["chosen"][:shared]} | {name: messages[shared:] for name, messages in turns.items()}
    return values | {name: _rendered(name, messages) for name, messages in turns.items()}


def _turns(name: str, messages: Any) -> list[tuple[str, str]]:
    _need(isinstance(messages, list), f"{name}: must be a list of messages, as other fields of the line are", messages)
    return [_turn(f"{name}, message {i}", message) for i, message in enumerate(messages, 1)]


def _turn(name: str, message: Any) -> tuple[str, str]:
    _need(isinstance(message, dict), f"{name}: must be an object", message)
    role, content = message.get("role"), message.get("content")
    _check_string(f"{name}, content", content)
    _need(isinstance(role, str) and role in MARKS, f"{name}, role: must be one of {', '.join(MARKS)}", role)
    forged = [mark for mark in MARKS.values() if mark in content]
    _need(not forged, f"{name}, content: must not hold the mark of a turn", forged)
    return role, content


def _rendered(name: str, turns: list[tuple[str, str]]) -> str:
    roles = [role for role, _ in turns]
    if name == "prompt":
        _need(roles[-1:] == ["user"], "prompt: must be messages that end with one of user", roles)
        return "".join(f"{MARKS[role]} {content}" for role, content in turns) + ASSISTANT
    _need(roles == ["assistant"], f"{name}: must be one message of assistant after the prompt", roles)
    return " " + turns[0][1]


# --- Tokens ------------------------------------------------------------------------------------------------------------------


class TokenizedPair(NamedTuple):
    """Token ids of a pair; each response ends with EOS, unless it was cut."""

    place: Place
    prompt_ids: Ids
    chosen_ids: Ids
    rejected_ids: Ids


class TokenizedCompletion(NamedTuple):
    """Token ids of one response; `label` is None for a text, whose prompt is EOS alone: the end of the text before it."""

    place: Place
    prompt_ids: Ids
    completion_ids: Ids
    label: bool | None


class TokenizedPrompt(NamedTuple):
    """Token ids of a prompt to answer."""

    place: Place
    prompt_ids: Ids


TokenizedRow = TokenizedPair | TokenizedCompletion | TokenizedPrompt


class Tokenized(NamedTuple):
    """Rows that fit, rows that were dropped, and the places of those that lost tokens of the prompt or of a response."""

    rows: list[TokenizedRow]
    dropped: list[Problem]
    cut_prompts: list[Place]
    cut_responses: list[Place]


RESPONSES = ("chosen", "rejected", "completion", "text")
ON_LONG = ("error", "drop", "truncate-response")


def tokenize(rows: Iterable[Row], encode: Callable[[str], Ids], eos: int, max_length: int, on_long: str = "error") -> Tokenized:
    """Encode prompt and responses apart, end each response with one EOS, and fit prompt and response into max_length tokens.

    A prompt loses tokens at its left. A response that leaves no room for one token of prompt is an error, or dropped, or loses
    tokens at its right, EOS first: that a text was cut is nothing to learn. A row that is unusable otherwise (no token, an EOS
    inside a response, chosen and rejected the same tokens once cut) is an error where a long one is, else dropped.
    `encode` must add no token of its own, such as a BOS: it would stand in the middle.

    Raises ValueError for bad arguments; DataError for rows, and where all were dropped.
    """
    _need(encode("") == [], "encode: must add no token of its own, and give [] for ''", encode(""), ValueError)
    _need(max_length >= 2, "max_length: must be at least 2, a token of prompt and one of response", max_length, ValueError)
    _need(on_long in ON_LONG, f"on_long: must be one of {', '.join(ON_LONG)}", on_long, ValueError)
    done = Tokenized([], [], [], [])
    for row in rows:
        try:
            _tokenize_row(done, row, encode, eos, max_length, on_long)
        except _Bad as bad:
            done.dropped.append(Problem(row.place, str(bad)))
    if done.dropped and (on_long == "error" or not done.rows):
        raise DataError(done.dropped)
    return done


def _tokenize_row(done: Tokenized, row: Row, encode: Callable[[str], Ids], eos: int, max_length: int, on_long: str) -> None:
    prompt = [eos] if isinstance(row, Text) else encode(row.prompt)
    _need(prompt, "prompt: must have a token", prompt)
    whole = {name: _ended(name, encode(text), eos) for name, text in row._asdict().items() if name in RESPONSES}
    responses = [_fitted(name, ids, max_length - 1, on_long) for name, ids in whole.items()]
    _need(len(set(map(tuple, responses))) == len(responses), "chosen and rejected: must not be the same tokens", responses[:1])
    kept = prompt[-(max_length - max(map(len, responses), default=0)) :]

    done.rows.append(_with_ids(row, kept, responses))
    done.cut_prompts.extend([row.place] * (kept != prompt))
    done.cut_responses.extend([row.place] * (responses != [*whole.values()]))


def _ended(name: str, ids: Ids, eos: int) -> Ids:
    text = ids[:-1] if ids[-1:] == [eos] else ids
    _need(text and eos not in text, f"{name}: must have a token, and EOS ({eos}) nowhere but at its end", ids)
    return [*text, eos]


def _fitted(name: str, ids: Ids, room: int, on_long: str) -> Ids:
    if on_long != "truncate-response":
        _need(len(ids) <= room, f"{name}: must be at most {room} tokens with EOS, beside one of prompt", len(ids))
    return ids[:room]


def _with_ids(row: Row, prompt: Ids, responses: list[Ids]) -> TokenizedRow:
    match responses:
        case [chosen, rejected]:
            return TokenizedPair(row.place, prompt, chosen, rejected)
        case [completion]:
            return TokenizedCompletion(row.place, prompt, completion, row.label if isinstance(row, Judged) else None)
        case _:
            return TokenizedPrompt(row.place, prompt)


# --- Order -------------------------------------------------------------------------------------------------------------------


def _draw(*key: object) -> bytes:
    # A hash and no generator of random numbers, whose streams may change from one version of a library to the next.
    return hashlib.sha256(json.dumps(key).encode()).digest()


def batches(lengths: Sequence[int], size: int, seed: int, epoch: int = 0) -> list[list[int]]:
    """Indices 0..N-1 once each, in batches of `size` (one may be smaller) of similar `lengths` [N, tokens], for one epoch.

    Shuffled, sorted by length within pools of 16 batches, cut into batches, and these shuffled: which rows meet changes from
    epoch to epoch. A pure function of its arguments: a run resumes at batches(...)[done:]. Raises ValueError for size < 1.
    """
    _need(size >= 1, "size: must be at least 1", size, ValueError)
    order = sorted(range(len(lengths)), key=lambda i: _draw("row", seed, epoch, i))
    pools = [sorted(order[i : i + POOL * size], key=lengths.__getitem__) for i in range(0, len(order), POOL * size)]
    cut = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    return sorted(cut, key=lambda batch: _draw("batch", seed, epoch, batch[0]))


def split(rows: Sequence[Row], folds: int, seed: int) -> list[list[Row]]:
    """`rows` in disjoint folds; rows with the same first human turn stay together, so that no fold knows another's questions.

    The largest groups first, each to the smallest fold: sizes differ by no more than the largest group. The order of the rows
    has no influence on who is with whom, and is kept within a fold. Raises ValueError for folds < 2 or more than groups.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[first_turn(row)].append(i)
    _need(2 <= folds <= len(groups), f"folds: must be at least 2 and at most the {len(groups)} first turns", folds, ValueError)

    members: list[list[int]] = [[] for _ in range(folds)]
    for turn in sorted(groups, key=lambda turn: (-len(groups[turn]), _draw("turn", seed, turn))):
        min(members, key=len).extend(groups[turn])
    return [[rows[i] for i in sorted(fold)] for fold in members]


def first_turn(row: Row) -> str:
    """What the human says first, without marks and outer white space; all before the first answer where no human is marked."""
    text = row.text if isinstance(row, Text) else row.prompt
    return text.split(HUMAN)[HUMAN in text].split(ASSISTANT)[0].strip()
