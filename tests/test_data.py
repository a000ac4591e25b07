"""Preference data: formats against rows written by hand, bad lines by file and line, nothing lost on the way to a batch."""

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_tiny import data
from gpt_tiny.data import DataError, Judged, Pair, Place, Prompt, Row, Text

AT = Place("nowhere", 1)
EOS = 256


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def write(path: Path, *lines: Any) -> Path:
    """Each line as it is where it is bytes, else as JSON."""
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return path


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED, YES, NO = said("user", "Is it?"), said("assistant", "Yes."), said("assistant", "No.")
MARKED = "\n\nHuman: Is it?\n\nAssistant:"

# --- Formats -----------------------------------------------------------------------------------------------------------------

FORMATS: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"prompt": "Q:", "chosen": " a", "rejected": " b"}, (Pair, "Q:", " a", " b")),
    ({"prompt": "Q:", "chosen": " ", "rejected": "\n", "score": None}, (Pair, "Q:", " ", "\n")),
    ({"chosen": MARKED + " Yes.", "rejected": MARKED + " No."}, (Pair, MARKED, " Yes.", " No.")),
    ({"chosen": MARKED + " ", "rejected": MARKED + " No."}, (Pair, MARKED, " ", " No.")),
    ({"chosen": MARKED * 2 + " Yes.", "rejected": MARKED * 2 + " No."}, (Pair, MARKED * 2, " Yes.", " No.")),
    # The last common mark: a turn that only one side goes on to is part of its response.
    (
        {"chosen": MARKED + " Yes.\n\nAssistant: So.", "rejected": MARKED + " Yes."},
        (Pair, MARKED, " Yes.\n\nAssistant: So.", " Yes."),
    ),
    ({"chosen": "Q: who? A: nobody", "rejected": "Q: who? A: none"}, (Pair, "Q: who? A:", " nobody", " none")),
    ({"chosen": "Q?\n\nyes", "rejected": "Q?\n\nno"}, (Pair, "Q?", "\n\nyes", "\n\nno")),
    ({"chosen": "a b", "rejected": "a b c"}, (Pair, "a", " b", " b c")),
    ({"prompt": [ASKED], "chosen": [YES], "rejected": [NO]}, (Pair, MARKED, " Yes.", " No.")),
    ({"chosen": [ASKED, YES], "rejected": [ASKED, NO]}, (Pair, MARKED, " Yes.", " No.")),
    (
        {
            "chosen": [said("system", "Short."), ASKED, YES, ASKED, YES],
            "rejected": [said("system", "Short."), ASKED, YES, ASKED, NO],
        },
        (Pair, "\n\nSystem: Short." + MARKED + " Yes." + MARKED, " Yes.", " No."),
    ),
    ({"prompt": "Q", "completion": "a", "label": False}, (Judged, "Q", "a", False)),
    ({"prompt": [ASKED], "completion": [YES], "label": True}, (Judged, MARKED, " Yes.", True)),
    ({"text": "all\u2028of it"}, (Text, "all\u2028of it")),
    ({"prompt": "Q"}, (Prompt, "Q")),
    ({"prompt": [ASKED]}, (Prompt, MARKED)),
]


@pytest.mark.parametrize(("line", "expected"), FORMATS)
def test_each_format(line: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", json.dumps(line, ensure_ascii=False).encode(), line)
    kind, *values = expected
    assert data.load(path) == [kind(Place(str(path), number), *values) for number in (1, 2)]
    assert all(type(row) is kind for row in data.load(path))


def test_gzip_and_line_ends(tmp_path: Path) -> None:
    plain = b'{"text": "a"}\r\n{"text": "b"}'
    (tmp_path / "d.jsonl").write_bytes(plain)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(plain[:9]) + gzip.compress(plain[9:]))
    for name in ("d.jsonl", "d.jsonl.gz"):
        assert [row[1:] for row in data.load(tmp_path / name)] == [("a",), ("b",)]


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.jsonl"):
        data.load(tmp_path / "gone.jsonl")


# --- Bad lines ---------------------------------------------------------------------------------------------------------------

PAIR = {"prompt": "Q", "chosen": "a", "rejected": "b"}
MESSAGES = {"prompt": [ASKED], "chosen": [YES], "rejected": [NO]}
JUDGED = {"prompt": "Q", "completion": "a", "label": True}

# The bad line, and part of what is said of it. Most stand alone, so that the bad line is also the one that sets the format.
BAD: list[tuple[Any, str]] = [
    (b"", "not JSON"),
    (b"   ", "not JSON"),
    (b"nonsense", "not JSON"),
    (b'{"text": "a"', "not JSON"),
    (b'{"text": "a"} {"text": "b"}', "not JSON: Extra data"),
    (b'{"text": "a",}', "not JSON"),
    (b"{'text': 'a'}", "not JSON"),
    (b'{"text": "a\tb"}', "not JSON: Invalid control character"),
    (b'\xef\xbb\xbf{"text": "a"}', "not JSON: Unexpected UTF-8 BOM"),
    (b'{"text": "a", "score": NaN}', "not JSON: NaN"),
    (b'{"text": "a", "score": -Infinity}', "not JSON: -Infinity"),
    (b'{"text": ' + b"9" * 5000 + b"}", "not JSON"),
    (b'{"text": ' + b"[" * 100_000 + b"}", "not JSON"),
    (b'{"text": "a\xff"}', "not UTF-8: invalid start byte at byte 11"),
    (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
    (b'{"text": "a"}'.decode().encode("utf-16"), "not UTF-8"),
    (b'{"text": "a", "text": "b"}', "each field must stand once"),
    (b'{"prompt": [{"role": "user", "role": "user", "content": "a"}]}', "each field must stand once"),
    (b'{"text": "\\ud800"}', "text: must be Unicode without lone surrogates"),
    (b"null", "the line must be a JSON object, but is None"),
    (b'["text"]', "the line must be a JSON object, but is ['text']"),
    (b'"text"', "the line must be a JSON object, but is 'text'"),
    (
        {},
        "the fields must be prompt, chosen, rejected; or chosen, rejected; or prompt, completion, label; or text; or prompt",
    ),
    ({"Text": "a"}, "the fields must be"),
    ({"chosen": "a"}, "but is 'chosen'"),
    ({"prompt": "Q", "chosen": "a"}, "but is 'prompt, chosen'"),
    ({"prompt": "Q", "completion": "a"}, "but is 'prompt, completion'"),
    ({"completion": "a", "label": True}, "but is 'completion, label'"),
    (PAIR | {"label": True}, "but is 'prompt, chosen, rejected, label'"),
    (PAIR | {"text": "a"}, "but is 'prompt, chosen, rejected, text'"),
    ({"text": None}, "text: must be a string, but is None"),
    ({"text": 3}, "text: must be a string, but is 3"),
    ({"text": [ASKED]}, "text: must be a string"),
    (PAIR | {"prompt": {"a": 1}}, "prompt: must be a string, but is {'a': 1}"),
    (PAIR | {"rejected": None}, "rejected: must be a string, but is None"),
    ({"text": ""}, "text: must not be empty"),
    (PAIR | {"prompt": ""}, "prompt: must not be empty"),
    (PAIR | {"chosen": ""}, "chosen: must not be empty"),
    (PAIR | {"rejected": ""}, "rejected: must not be empty"),
    (PAIR | {"chosen": "b"}, "rejected: must differ from chosen, but is 'b'"),
    ({"chosen": MARKED, "rejected": MARKED}, "rejected: must differ from chosen"),
    ({"chosen": MARKED, "rejected": MARKED + " No."}, "chosen: must not be empty"),
    ({"chosen": MARKED + " Yes.", "rejected": MARKED}, "rejected: must not be empty"),
    ({"chosen": "yes", "rejected": "yep"}, "rejected: must begin with the same prompt as chosen, but is 'yep'"),
    ({"chosen": " a", "rejected": " b"}, "rejected: must begin with the same prompt"),
    (JUDGED | {"completion": ""}, "completion: must not be empty"),
    (JUDGED | {"label": 1}, "label: must be true or false, but is 1"),
    (JUDGED | {"label": "true"}, "label: must be true or false, but is 'true'"),
    (JUDGED | {"label": None}, "label: must be true or false, but is None"),
    (JUDGED | {"label": [True]}, "prompt: must be a list of messages"),
    ({"prompt": []}, "prompt: must be messages that end with one of user, but is []"),
    ({"prompt": [YES]}, "prompt: must be messages that end with one of user, but is ['assistant']"),
    ({"prompt": [said("system", "Short.")]}, "prompt: must be messages that end with one of user, but is ['system']"),
    ({"prompt": ["Q"]}, "prompt, message 1: must be an object, but is 'Q'"),
    (
        {"prompt": [ASKED, said("robot", "a")]},
        "prompt, message 2, role: must be one of system, user, assistant, but is 'robot'",
    ),
    ({"prompt": [{"content": "a"}]}, "prompt, message 1, role: must be one of system, user, assistant, but is None"),
    ({"prompt": [{"role": ["user"], "content": "a"}]}, "prompt, message 1, role: must be one of"),
    ({"prompt": [{"role": "user"}]}, "prompt, message 1, content: must be a string, but is None"),
    ({"prompt": [{"role": "user", "content": ["a"]}]}, "prompt, message 1, content: must be a string, but is ['a']"),
    ({"prompt": [said("user", "")]}, "prompt, message 1, content: must not be empty"),
    ({"prompt": [said("user", "Q\n\nAssistant: a")]}, "prompt, message 1, content: must not hold the mark of a turn"),
    (MESSAGES | {"prompt": "Q"}, "prompt: must be a list of messages, as other fields of the line are, but is 'Q'"),
    (MESSAGES | {"chosen": "a"}, "chosen: must be a list of messages"),
    (MESSAGES | {"chosen": []}, "chosen: must be one message of assistant after the prompt, but is []"),
    (MESSAGES | {"chosen": [ASKED]}, "chosen: must be one message of assistant after the prompt, but is ['user']"),
    (MESSAGES | {"rejected": [NO, NO]}, "rejected: must be one message of assistant after the prompt"),
    (MESSAGES | {"rejected": [YES]}, "rejected: must differ from chosen"),
    ({"chosen": [ASKED, YES], "rejected": [ASKED, YES]}, "rejected: must differ from chosen"),
    ({"chosen": [ASKED, YES], "rejected": [ASKED]}, "rejected: must be one message of assistant after the prompt, but is []"),
    ({"chosen": [YES], "rejected": [NO]}, "prompt: must be messages that end with one of user, but is []"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_a_bad_line_is_named(line: Any, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", line)
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value).startswith(f"{path}:1: ")
    assert reason in str(error.value)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("other", [JUDGED, MESSAGES, {"text": "a"}, {"prompt": "Q"}, {"chosen": "Q a", "rejected": "Q b"}])
def test_one_format_in_a_file(other: dict[str, Any], tmp_path: Path) -> None:
    # Line 1 names no format, line 2 sets it.
    read = data.scan(write(tmp_path / "d.jsonl", {"chosen": "a"}, PAIR, other, PAIR))
    assert [row.place.line for row in read.rows] == [2, 4]
    assert [problem.place.line for problem in read.dropped] == [1, 3]
    assert "mixed formats: must be prompt, chosen, rejected (strings), as in the lines before" in str(read.dropped[1])


def test_damaged_archives(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"text": "%x"}\n' % random.Random(i).getrandbits(256) for i in range(2000)))
    path = tmp_path / "d.jsonl.gz"
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-4],
        whole[:-8] + bytes(8),
        whole + b"x",
        whole[:5000] + bytes(9) + whole[5009:],
    ):
        path.write_bytes(damaged)
        read = data.scan(path)
        assert read.dropped and read.dropped[-1].place.line > len(read.rows) > 0
        with pytest.raises(DataError, match=f"d.jsonl.gz:{read.dropped[-1].place.line}: the file cannot be read further: "):
            raise DataError(read.dropped[-1:])
    path.write_bytes(b'{"text": "a"}')
    with pytest.raises(DataError, match="d.jsonl.gz:1: the file cannot be read further"):
        data.load(path)


@pytest.mark.parametrize(
    ("name", "content"), [("d.jsonl", b""), ("d.jsonl.gz", b""), ("e.jsonl.gz", gzip.compress(b"", mtime=0))]
)
def test_an_empty_file_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}:1: the file must have a row"):
        data.load(tmp_path / name)


def test_the_first_20_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    for bad, lines in ((20, 20), (21, 21), (33, 21)):
        with pytest.raises(DataError) as error:
            data.load(write(tmp_path / "d.jsonl", *[b"x"] * bad))
        message = str(error.value).splitlines()
        assert len(message) == lines and message[19].startswith(f"{tmp_path / 'd.jsonl'}:20: ")
        assert bad == 20 or message[20] == f"and {bad - 20} more"
        assert len(error.value.problems) == bad


def test_skipped_lines_are_returned_and_written(tmp_path: Path) -> None:
    path, dropped = write(tmp_path / "d.jsonl", PAIR, b'{"prompt": "\xff"}', PAIR), tmp_path / "dropped.jsonl"
    rows, problems = data.load_skip_bad(path, dropped)
    assert [row.place.line for row in rows] == [1, 3]
    (written,) = map(json.loads, dropped.read_text().splitlines())
    assert written == {"file": str(path), "line": 2, "reason": problems[0].reason, "text": '{"prompt": "\\xff"}'}
    assert sorted(os.listdir(tmp_path)) == ["d.jsonl", "dropped.jsonl"]

    data.load_skip_bad(write(path, PAIR), dropped)
    assert dropped.read_bytes() == b""
    with pytest.raises(DataError, match="d.jsonl:1: not JSON"):
        data.load_skip_bad(write(path, b"x"), dropped)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    dropped = tmp_path / "dropped.jsonl"
    data.write_dropped(dropped, [data.Problem(AT, "first")])
    before = dropped.read_bytes()
    with pytest.raises(TypeError):
        data.write_dropped(dropped, [data.Problem(AT, "second"), data.Problem(AT, "third", b"x")])  # type: ignore[arg-type]
    assert dropped.read_bytes() == before


CONTENTS = st.sampled_from(["", " ", "a", "a b", MARKED, MARKED + " Yes.", "\ud800", "\u2028"]) | st.text(max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | CONTENTS
TURNS = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "x"]) | SCALARS, "content": CONTENTS})
VALUES = st.recursive(SCALARS | st.lists(TURNS, max_size=3), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
FIELDS = st.sampled_from(["prompt", "chosen", "rejected", "completion", "label", "text", "other"])
LINES = st.dictionaries(FIELDS, VALUES, max_size=5).map(lambda line: json.dumps(line).encode()) | st.binary(max_size=20)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=4), packed=st.booleans(), cut=st.integers(0, 30))
def test_the_reader_survives_anything(lines: list[bytes], packed: bool, cut: int, tmp_path: Path) -> None:
    content = b"\n".join(lines)
    path = tmp_path / ("d.jsonl.gz" if packed else "d.jsonl")
    path.write_bytes(gzip.compress(content)[: -cut or None] if packed else content)
    rows, problems = data.scan(path)
    assert all(str(problem).startswith(f"{path}:{problem.place.line}: ") for problem in problems)
    places = [row.place.line for row in rows] + [problem.place.line for problem in problems]
    assert len(set(places)) == len(places) and max(places) <= len(places)
    assert len({type(row) for row in rows}) <= 1
    assert all(value != "" for row in rows for value in row[1:])


# --- Tokens ------------------------------------------------------------------------------------------------------------------

PAIRS: list[Row] = [Pair(AT, "abcdef", "gh", "i")]


def test_rows_become_ids() -> None:
    rows = [*PAIRS, Judged(AT, "a", "b", False), Text(AT, "ab"), Prompt(AT, "abc")]
    done = data.tokenize(rows, bytes_of, EOS, 9)
    assert done.rows == [
        data.TokenizedPair(AT, [97, 98, 99, 100, 101, 102], [103, 104, EOS], [105, EOS]),
        data.TokenizedCompletion(AT, [97], [98, EOS], False),
        data.TokenizedCompletion(AT, [EOS], [97, 98, EOS], None),
        data.TokenizedPrompt(AT, [97, 98, 99]),
    ]
    assert done[1:] == ([], [], [])


def test_the_prompt_is_cut_at_its_left() -> None:
    for length, prompt in ((9, "abcdef"), (8, "bcdef"), (4, "f")):
        done = data.tokenize(PAIRS, bytes_of, EOS, length)
        assert done.rows == [data.TokenizedPair(AT, bytes_of(prompt), [103, 104, EOS], [105, EOS])]
        assert done.cut_prompts == ([] if length == 9 else [AT]) and done.cut_responses == []
    assert data.tokenize([Prompt(AT, "abc")], bytes_of, EOS, 2).rows == [data.TokenizedPrompt(AT, [98, 99])]


def test_a_long_response_is_never_cut_in_silence() -> None:
    rows = [*PAIRS, Pair(Place("d", 7), "a", "b", "c")]
    with pytest.raises(DataError, match="nowhere:1: chosen: must be at most 2 tokens with EOS, beside one of prompt, but is 3"):
        data.tokenize(rows, bytes_of, EOS, 3)
    done = data.tokenize(rows, bytes_of, EOS, 3, "drop")
    assert [row.place for row in done.rows] == [Place("d", 7)] and [problem.place for problem in done.dropped] == [AT]
    done = data.tokenize(rows, bytes_of, EOS, 3, "truncate-response")
    assert done.rows[0] == data.TokenizedPair(AT, [102], [103, 104], [105, EOS])
    assert (done.cut_prompts, done.cut_responses, done.dropped) == ([AT], [AT], [])


def test_what_truncation_makes_equal_is_dropped() -> None:
    rows = [Pair(AT, "a", "bbbc", "bbbd"), *PAIRS]
    done = data.tokenize(rows, bytes_of, EOS, 4, "truncate-response")
    assert len(done.rows) == 1 and "chosen and rejected: must not be the same tokens" in str(done.dropped[0])
    with pytest.raises(DataError, match="must not be the same tokens"):
        data.tokenize(rows[:1], bytes_of, EOS, 4, "truncate-response")


def test_one_eos_and_no_bos() -> None:
    def marks_end(text: str) -> list[int]:
        return [EOS if letter == "$" else ord(letter) for letter in text]

    (row,) = data.tokenize([Pair(AT, "$a", "b$", "c")], marks_end, EOS, 9).rows
    assert row == data.TokenizedPair(AT, [EOS, 97], [98, EOS], [99, EOS])
    for chosen in ("b$b", "b$$", "$"):
        with pytest.raises(DataError, match="chosen: must have a token, and EOS .256. nowhere but at its end"):
            data.tokenize([Pair(AT, "a", chosen, "c")], marks_end, EOS, 9)
    with pytest.raises(DataError, match="prompt: must have a token"):
        data.tokenize(PAIRS, lambda text: bytes_of(text)[6:], EOS, 9)
    with pytest.raises(ValueError, match="encode: must add no token of its own"):
        data.tokenize(PAIRS, lambda text: [1, *bytes_of(text)], EOS, 9)


@pytest.mark.parametrize(("length", "on_long", "named"), [(1, "drop", "max_length.*but is 1"), (9, "cut", "on_long.*'cut'")])
def test_bad_arguments(length: int, on_long: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        data.tokenize(PAIRS, bytes_of, EOS, length, on_long)


@settings(deadline=None)
@given(
    texts=st.lists(st.tuples(*[st.text(min_size=1, max_size=9)] * 3), min_size=1, max_size=5),
    length=st.integers(2, 30),
    on_long=st.sampled_from(["drop", "truncate-response"]),
)
def test_every_row_is_kept_or_listed(texts: list[tuple[str, str, str]], length: int, on_long: str) -> None:
    rows: list[Row] = [Pair(Place("d", i), *three) for i, three in enumerate(texts)]
    try:
        done = data.tokenize(rows, bytes_of, EOS, length, on_long)
    except DataError as error:
        assert {problem.place for problem in error.problems} == {row.place for row in rows}
        return
    assert sorted([*(row.place for row in done.rows), *(problem.place for problem in done.dropped)]) == [
        row.place for row in rows
    ]
    for row in done.rows:
        assert isinstance(row, data.TokenizedPair)
        prompt, *responses = texts[row.place.line]
        assert row.prompt_ids and bytes_of(prompt)[-len(row.prompt_ids) :] == row.prompt_ids
        assert (row.place in done.cut_prompts) == (bytes_of(prompt) != row.prompt_ids)
        full = [[*bytes_of(response), EOS] for response in responses]
        assert all(ids and ids == whole[: len(ids)] for ids, whole in zip(row[2:], full, strict=True))
        assert (row.place in done.cut_responses) == (full != [*row[2:]])
        assert len(row.prompt_ids) + max(map(len, row[2:])) <= length


# --- Order -------------------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 99), max_size=90), size=st.integers(1, 7), seed=st.integers(), epoch=st.integers(0, 9))
def test_batches_hold_every_row_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    cut = data.batches(lengths, size, seed, epoch)
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    assert sorted(map(len, cut), reverse=True) == [size] * (len(lengths) // size) + [len(lengths) % size] * (
        len(lengths) % size > 0
    )
    assert cut == data.batches(lengths, size, seed, epoch)


def test_batches_waste_little_and_change_with_seed_and_epoch() -> None:
    lengths = [random.Random(i).randrange(1, 1000) for i in range(1000)]
    orders = [data.batches(lengths, 8, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({str(order) for order in orders}) == len({str(sorted(map(sorted, order))) for order in orders}) == 3
    for order in orders:
        assert sum(len(batch) * max(lengths[i] for i in batch) for batch in order) <= 1.15 * sum(lengths)
        longest = [max(lengths[i] for i in batch) for batch in order]
        assert longest != sorted(longest)
    # As of the first version: a run that is resumed by a later one must find the same order.
    assert data.batches([3, 1, 2, 5, 4], 2, seed=0) == [[0, 4], [3], [1, 2]]


def test_split_keeps_questions_together() -> None:
    rows: list[Row] = [Pair(Place("d", i), f"\n\nHuman: {i % 17} \n\nAssistant:{' x' * i}", "a", "b") for i in range(60)]
    folds = data.split(rows, 3, seed=0)
    assert sorted(row for fold in folds for row in fold) == sorted(rows)
    assert all(fold == sorted(fold) for fold in folds)
    homes = [{row.place.line % 17 for row in fold} for fold in folds]
    assert sum(map(len, homes)) == 17 and max(map(len, folds)) - min(map(len, folds)) <= 4

    mixed = random.Random(0).sample(rows, len(rows))
    assert [set(fold) for fold in data.split(mixed, 3, seed=0)] == [set(fold) for fold in folds]
    assert {frozenset(home) for home in homes} != {
        frozenset(row.place.line % 17 for row in fold) for fold in data.split(rows, 3, seed=1)
    }
    large: list[Row] = [Prompt(Place("d", i), str(max(i, 10))) for i in range(21)]
    assert all(sorted(map(len, data.split(large, 2, seed))) == [10, 11] for seed in range(9))
    for count in (1, 18):
        with pytest.raises(ValueError, match=f"folds: must be at least 2 and at most the 17 first turns, but is {count}"):
            data.split(rows, count, seed=0)


@pytest.mark.parametrize(
    ("row", "turn"),
    [
        (Pair(AT, MARKED + " Yes.\n\nHuman: Why?\n\nAssistant:", "a", "b"), "Is it?"),
        (Prompt(AT, "\n\nSystem: Short." + MARKED), "Is it?"),
        (Prompt(AT, "\n\nAssistant: Hello." + MARKED), "Is it?"),
        (Prompt(AT, "\n\nHuman: a\n\nHuman: b\n\nAssistant:"), "a"),
        (Prompt(AT, " Q\n\nAssistant:"), "Q"),
        (Text(AT, MARKED + " Yes."), "Is it?"),
        (Judged(AT, "plain", "a", True), "plain"),
    ],
)
def test_first_turn(row: Row, turn: str) -> None:
    assert data.first_turn(row) == turn


def test_size_is_checked() -> None:
    with pytest.raises(ValueError, match="size: must be at least 1, but is 0"):
        data.batches([1], 0, 0)


@pytest.mark.skipif(
    "MINIPREF_DATA" not in os.environ, reason="MINIPREF_DATA names no file of real transcripts (harmless-base, test)"
)
def test_real_transcripts() -> None:
    rows = data.load(os.environ["MINIPREF_DATA"])
    pairs = [row for row in rows if isinstance(row, Pair)]
    assert len(rows) == len(pairs) == 2312
    assert all(row.prompt.endswith(data.ASSISTANT) and row.chosen[0] == row.rejected[0] == " " for row in pairs)
    assert sum(row.chosen == " " for row in pairs) == 4
    turns = Counter(map(data.first_turn, rows))
    assert len(rows) - len(turns) == 134

    folds = data.split(rows, 3, seed=0)
    assert sorted(map(len, folds)) == [770, 771, 771]
    assert sum(len({data.first_turn(row) for row in fold}) for fold in folds) == len(turns)
    done = data.tokenize(rows, bytes_of, EOS, 1024, "drop")
    assert len(done.rows) + len(done.dropped) == 2312 and len(done.dropped) == 34
