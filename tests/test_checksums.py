"""JSON, lines and texts that carry a checksum: whatever byte is changed, the reader notices or reads the same."""

import json
import random

import pytest

from limbeck.checksums import (
    add_checksum_line,
    append_line,
    has_checksum,
    is_unchanged,
    read_json,
    read_lines,
    write_json,
)
from limbeck.errors import DataError

VALUE = {"arms": {"a": [0.25, 1e-7, None]}, "seed": 3, "name": "é\u2028", 5: {10: "x", 9: "y"}}


def test_a_file_comes_back_as_it_was_written(tmp_path):
    write_json(VALUE, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == json.loads(json.dumps(VALUE))
    assert has_checksum(tmp_path / "a.json")
    (tmp_path / "old.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "old.json") == {"a": 1}
    assert not has_checksum(tmp_path / "old.json")


def test_no_changed_byte_is_read_as_good(tmp_path):
    write_json(VALUE, file := tmp_path / "a.json")
    whole, good = file.read_bytes(), read_json(file)
    draw = random.Random(0)
    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << draw.randrange(8)
        file.write_bytes(spoilt)
        try:
            found = read_json(file)
        except DataError:
            continue
        # A space, or the name of the checksum itself.
        assert {key: value for key, value in found.items() if key in good} == good


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}", b"3"])
def test_what_is_no_mapping_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


def test_a_damaged_line_is_counted_and_a_cut_one_is_not(tmp_path):
    file = tmp_path / "a.jsonl"
    assert read_lines(file) == ([], 0)
    for number in range(3):
        append_line({"number": number}, file)
    assert read_lines(file) == ([{"number": n} for n in range(3)], 0)
    whole = file.read_text()
    file.write_text(whole.replace('"number": 1', '"number": 7'))
    assert read_lines(file) == ([{"number": 0}, {"number": 2}], 1)
    file.write_text(whole[:-9])
    assert read_lines(file) == ([{"number": 0}, {"number": 1}], 0)
    append_line({"number": 2}, file)
    assert file.read_text() == whole
    file.write_text('{"number": 4}\n' + "[" * 100_000 + "\n3\n")
    assert read_lines(file) == ([{"number": 4}], 2)


def test_a_signed_text_tells_whether_it_was_changed():
    text = add_checksum_line("data: digits\nseeds: 3\n")
    assert is_unchanged(text) is True
    assert is_unchanged(text.replace("3", "4", 1)) is False
    assert is_unchanged("data: digits\n") is None
    assert is_unchanged(text + "\n") is True
    assert is_unchanged(add_checksum_line("")) is True
    lines = text.splitlines(keepends=True)
    for cut in range(len(lines[0]), len(text.rstrip())):  # its last line is not whole, or not there
        assert is_unchanged(text[:cut]) is False
    for number in range(len(lines)):
        assert is_unchanged("".join(lines[:number] + lines[number + 1 :])) is False
    assert is_unchanged("".join(lines[1:-1])) is None  # by hand
