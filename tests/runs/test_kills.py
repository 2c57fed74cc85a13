"""Commands that are killed go on and end as an undisturbed run; tests/tools/kill_scripts.py counts the kills."""

import pytest
from kill_scripts import COMMANDS, survived, write_inputs

pytestmark = pytest.mark.any_backend


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_as_if_it_had_not_been_killed(tmp_path, name):
    write_inputs(tmp_path / "in")
    result = survived(COMMANDS[name], tmp_path / "in", 4, seed=2)
    assert sum(result["kills"].values()) == 4 and result["differing"] == []
