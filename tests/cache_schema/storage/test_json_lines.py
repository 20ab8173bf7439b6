"""A log survives kills at any byte."""

import json

import pytest

from cache_schema.storage.json_lines import JsonLines, read_json_lines


def test_lines_are_appended_run_after_run(tmp_path):
    path = tmp_path / "log.jsonl"
    for number in range(2):
        with JsonLines(path) as log:
            log.write({"step": number})
            assert path.read_text().endswith(f'{{"step": {number}}}\n')  # flushed, not only at the end
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 0}, {"step": 1}]


def test_a_line_that_was_cut_short_takes_no_other_with_it(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    with JsonLines(path) as log:
        log.write({"step": 3})
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]


def test_only_objects_with_all_keys_are_returned(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'[1]\n7\nnull\n\xff\n{"kind": "a"}\n{"kind": "b", "step": 1}\n{"step"')
    assert read_json_lines(path, ("kind", "step")) == [{"kind": "b", "step": 1}]
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_disk_that_is_full_is_told_with_the_log_s_name(tmp_path):
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left .*log\.jsonl"), JsonLines(path) as log:
        log.write({"step": 1})
