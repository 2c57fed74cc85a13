"""Small files on which a reader once failed, found by tests/tools/fuzz_readers.py, are read or told in one line."""

from pathlib import Path

import pytest
from fuzzed_readers import EXPECTED, READERS

FOUND = sorted(path for path in (Path(__file__).parent / "tools" / "found_by_fuzzing").glob("*/*"))


@pytest.mark.any_backend
@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_is_one_line(path, tmp_path):
    try:
        READERS[path.parent.name].read(path.read_bytes(), tmp_path)
    except EXPECTED as error:
        assert str(error) and "\n" not in str(error)


@pytest.mark.thorough
@pytest.mark.any_backend
@pytest.mark.parametrize("name", READERS)
def test_whole_files_go_through_the_readers(name, tmp_path):
    """What the fuzzer begins with reaches far; a reader that refuses all would find nothing."""
    read = 0
    for number, seed in enumerate(READERS[name].seeds()):
        (tmp_path / str(number)).mkdir()
        try:
            READERS[name].read(seed, tmp_path / str(number))
            read += 1
        except EXPECTED:
            continue
    assert read
