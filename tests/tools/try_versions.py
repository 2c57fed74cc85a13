"""Run the tests with other versions of Python and of the packages than usual: the lowest allowed, and the newest.

    pip install uv
    python tests/tools/try_versions.py 3.11:lowest-direct 3.13:highest
    python tests/tools/try_versions.py --docs docs/reliability.md    # nothing is run; the table of what was run so far

Each PYTHON:RESOLUTION (uv's words) gets an environment of its own under outputs/versions, with requirements-dev.txt
installed, and runs all tests but the slow ones there, two at a time. The exit code is 1 if a test fails.
"""

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tables import put, rows

from camlib.console import ROOT, ArgumentParser, UserError, run_script
from camlib.files import read_json, write_json

SHOWN = ("tensorflow", "keras", "jax", "numpy", "opencv-python", "matplotlib", "h5py", "pillow", "scipy")
COUNTS = re.compile(r"([0-9]+) (passed|failed|skipped|error)")


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("sets", nargs="*", metavar="PYTHON:RESOLUTION", help="for example 3.11:lowest-direct")
    output = "folder of environments and results; default: outputs/versions"
    parser.add_argument("--output", type=Path, default=Path("outputs/versions"), metavar="DIR", help=output)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table of all results there")
    settings = parser.parse_args(arguments)
    for one in settings.sets:
        if not re.fullmatch(r"3\.[0-9]+:(highest|lowest|lowest-direct)", one):
            parser.error(f"{one}: expected PYTHON:RESOLUTION, as 3.11:lowest-direct or 3.13:highest")
    return settings


def called(*command, **more):
    """Run a command of uv's.

    Raises:
        UserError: it failed, or is not there.
    """
    try:
        return subprocess.run(command, check=True, cwd=ROOT, text=True, **more)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{' '.join(map(str, command[:3]))} failed ({error}); expected pip install uv") from error


def tried(python, resolution, output):
    """Make the environment, and run the tests in it.

    Returns:
        dict of versions (of SHOWN), passed, failed, skipped, error (how many tests), failing (their names) and day.
    """
    place = (output / f"{python}-{resolution}").absolute()
    interpreter = place / "bin" / "python"
    if not interpreter.exists():
        called("uv", "venv", "--quiet", "--python", python, place)
    # --upgrade: what an earlier run installed is no reason to keep it
    called("uv", "pip", "install", "--quiet", "--upgrade", "--python", interpreter, "--resolution", resolution, "-r",
           "requirements-dev.txt")  # fmt: skip
    frozen = called("uv", "pip", "freeze", "--quiet", "--python", interpreter, stdout=subprocess.PIPE).stdout
    versions = dict(line.split("==") for line in frozen.splitlines() if "==" in line)
    command = [interpreter, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    with open(output / f"{python}-{resolution}.log", "w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
    said = Path(log.name).read_text("utf-8", "replace")
    counts = {kind: int(number) for number, kind in COUNTS.findall(said.strip().splitlines()[-1])}
    if not counts.get("passed"):
        raise UserError(f"no test ran with {python} and {resolution}: see the end of {log.name}")
    failing = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    shown = {name: versions.get(name, "-") for name in SHOWN}
    found = {kind: counts.get(kind, 0) for kind in ("passed", "failed", "skipped", "error")}
    return found | {"versions": shown, "day": date.today().isoformat(), "failing": failing}


def table(known):
    """The lines of a table: a row for each environment."""
    cells = [
        [name, *one["versions"].values(), one["passed"], one["failed"] + one["error"], one["skipped"], one["day"]]
        for name, one in known.items()
    ]
    return rows(["Python", *SHOWN, "passed", "failed", "skipped", "day"], cells)


def main(arguments=None):
    settings = parse_arguments(arguments)
    settings.output.mkdir(parents=True, exist_ok=True)
    known_file, failed = settings.output / "results.json", False
    known = read_json(known_file) if known_file.exists() else {}
    for one in settings.sets:
        result = known[one] = tried(*one.split(":"), settings.output)
        failed |= bool(result["failed"] or result["error"])
        print(one, result, flush=True)
        write_json(known_file, known)
    if settings.docs:
        put(settings.docs, "versions", table(known))
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
