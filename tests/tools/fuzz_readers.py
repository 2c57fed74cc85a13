"""Coverage-guided fuzzing of every reader of files that may come from somebody else, with Atheris and libFuzzer.

    pip install atheris
    python tests/tools/fuzz_readers.py --minutes 30                # all readers, one after the other
    python tests/tools/fuzz_readers.py photo store --minutes 1
    python tests/tools/fuzz_readers.py --minutes 0 --docs docs/reliability.md    # the table of what was run so far

A reader (tests/tools/fuzzed_readers.py) gets files that libFuzzer makes out of small whole ones, guided by the lines of
camlib that each of them reaches. It may return something, or raise what its callers make one line of. Any other error,
a crash, more than 10 seconds or more than 2 GB is a finding, kept under outputs/fuzz, and the exit code is 1. Model
files are read in the fuzzer's own process here; one that crashes HDF5's library, which the scripts leave to a process
of its own, is read once more as they do it, and has to end in one line. Another run goes on from the inputs before.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import date
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tables import put, rows

from camlib.console import ROOT, ArgumentParser, UserError, counted, run_script
from camlib.files import read_json, write_json
from camlib.networks.reader import read_contents

PROGRAM = ROOT / "tests" / "tools" / "fuzzed_readers.py"
MOST_SECONDS, MOST_MEGABYTES = 10, 2048
MOST_SECONDS_OF_A_CHILD = 2  # so that less time goes into waiting; the child itself has more
LIBRARIES = 1024  # MB that TensorFlow and the other libraries take before anything is read
READ_BY_A_CHILD = ("model-hdf5", "model-archive")
ENVIRONMENT = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"} | os.environ  # which starts sooner after each crash
COUNTS = "counts.json"  # in the folder of a reader, so that several may be fuzzed side by side
GIVEN_UP = 5  # starts in a row without one execution


def readers():
    """The names of all readers, without importing what reads."""
    return re.findall(r'^    "([a-z0-9-]+)": Reader\(', PROGRAM.read_text("utf-8"), re.MULTILINE)


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    known = readers()
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"{', '.join(known)}; default: all")
    parser.add_argument("--minutes", type=float, default=30, metavar="M", help="for each reader; default: 30")
    output = "folder of inputs, findings and counts; default: outputs/fuzz"
    parser.add_argument("--output", type=Path, default=Path("outputs/fuzz"), metavar="DIR", help=output)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table of all counts there")
    settings = parser.parse_args(arguments)
    parser.require(settings, minutes=0)
    if unknown := set(settings.readers) - set(known):
        parser.error(f"{unknown.pop()}: expected some of {', '.join(known)}")
    settings.readers = settings.readers or list(known)
    return settings


# ---------------------------------------------------------------- one reader


def fuzz(name, seconds, output):
    """Fuzz one reader for so long, whatever crashes meanwhile.

    Returns:
        dict of executions, seconds, inputs (how many reach something that no other does), contained (crashes
        and hangs of a library that end in one line in the scripts), findings (names of files).
    """
    corpus, findings, contained = (output / name / part for part in ("corpus", "findings", "contained"))
    for folder in (corpus, findings, contained):
        folder.mkdir(parents=True, exist_ok=True)
    count = findings / "executions"
    count.unlink(missing_ok=True)
    begin, without = time.monotonic(), 0
    while (left := begin + seconds - time.monotonic()) > 0 and without < GIVEN_UP:
        before = executions(count)
        seconds_each = MOST_SECONDS_OF_A_CHILD if name in READ_BY_A_CHILD else MOST_SECONDS
        limits = f"-max_total_time={left:.0f} -timeout={seconds_each} -rss_limit_mb={MOST_MEGABYTES + LIBRARIES}"
        options = [*limits.split(), "-print_final_stats=1", f"-artifact_prefix={findings}/", "-report_slow_units=1000"]
        command = [sys.executable, PROGRAM, name, corpus, findings, *options]
        with open(output / name / "log.txt", "ab") as log:
            subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, env=ENVIRONMENT)
        without = without + 1 if executions(count) == before else 0
        if name in READ_BY_A_CHILD:
            set_aside(findings, contained)
    done = executions(count)
    count.unlink(missing_ok=True)
    if not done:
        raise UserError(f"{name} was not fuzzed: see the end of {output / name / 'log.txt'}")
    return {
        "executions": done,
        "seconds": time.monotonic() - begin,
        "inputs": len(list(corpus.iterdir())),
        "contained": len(list(contained.iterdir())),
        "findings": sorted(path.name for path in findings.iterdir()),
        "day": date.today().isoformat(),
    }


def executions(count):
    return int.from_bytes(count.read_bytes(), "little") if count.exists() else 0


def set_aside(findings, contained):
    """Move the inputs with which a library crashes or hangs, once the scripts are seen to make one line of them."""
    for path in [path for kind in ("crash", "timeout", "oom") for path in findings.glob(f"{kind}-*")]:
        try:
            read_contents(path)
        except UserError as error:
            if "\n" in str(error):
                continue
        shutil.move(path, contained / path.name)


# ---------------------------------------------------------------- the table


def table(known):
    """The lines of a table: what was run, and the counts."""
    header = ["reader", "minutes", "executions", "inputs kept", "crashes and hangs contained", "findings"]
    cells = []
    for name, one in known.items():
        row = [name, round(one["seconds"] / 60), f"{one['executions']:,}", one["inputs"], one["contained"]]
        cells.append([*row, len(one["findings"])])
    total = sum(counts["executions"] for counts in known.values())
    found = sum(len(counts["findings"]) for counts in known.values())
    days = sorted({counts["day"] for counts in known.values()})
    about = f"{days[0]} to {days[-1]}, Atheris {metadata.version('atheris')}, Python {sys.version.split()[0]}."
    return [*rows(header, cells), "", f"{total:,} executions, {counted(found, 'finding')} left; {about}"]


def main(arguments=None):
    settings = parse_arguments(arguments)
    for name in settings.readers if settings.minutes else ():
        print(f"{name} ...", flush=True)
        counts, path = fuzz(name, 60 * settings.minutes, settings.output), settings.output / name / COUNTS
        if path.exists():  # what was executed before counts too; what is found is of now
            before = read_json(path)
            counts |= {key: counts[key] + before[key] for key in ("executions", "seconds")}
        write_json(path, counts)
        print(json.dumps({name: counts}), flush=True)
    known = {name: read_json(path) for name in readers() if (path := settings.output / name / COUNTS).exists()}
    if settings.docs:
        put(settings.docs, "fuzzing", table(known))
    return 1 if any(counts["findings"] for counts in known.values()) else 0


if __name__ == "__main__":
    run_script(main)
