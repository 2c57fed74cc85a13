"""What scripts answer before they begin: --help, slips in the command, Ctrl-C, and the commands that they print."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import ENVIRONMENT, ROOT, ended_within, make_run
from PIL import Image

import show_heatmaps
from camlib import console
from camlib.attribution.classifier import check_layer
from camlib.console import ArgumentParser, UserError, command, counted, did_you_mean
from camlib.evaluation import parse_map
from camlib.preprocessing import chosen_classes
from camlib.runs.maps import find_maps, find_saved

pytestmark = pytest.mark.any_backend
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.py"), *ROOT.glob("data/*.py"))
    if "__main__" in path.read_text("utf-8")
)
HEAVY = {"keras", "tensorflow", "jax", "scipy"}
ASK = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "")
said, (_, script, commands) = [], sys.argv
for words in json.loads(commands):
    sys.argv = [script, *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            said.append([ended.code, *(stream.buffer.getvalue().decode() for stream in (out, err))])
print(json.dumps([said, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def asked(script, *commands, cwd=ROOT):
    """What a script says to commands, one after the other: ([(code, out, error), ...], modules imported by then)."""
    result = subprocess.run(
        [sys.executable, "-c", ASK, str(script), json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def answers():
    """What each script says to --help and to a slip, and which modules it had imported by then."""
    return {script: asked(script, ["--help"], ["--otput", "x"]) for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_slips_are_answered_without_keras(answers, script):
    ((code, text, _), (code_of_slip, _, error)), modules = answers[script]
    assert (code, code_of_slip) == (0, 2)
    assert not HEAVY & set(modules)
    assert error.startswith("error: ") and error.count("\n") == 1
    unknown = (
        "--otput" if any(word in text for word in ("PHOTO", "FOLDER", "ARCHIVE")) else "--otput x"
    )  # else x is a photo's name
    near = "; did you mean --output?" if "--output" in text else ";"
    assert error == f"error: unrecognized arguments: {unknown}{near} see python {script} --help\n"


def of_networks(option, new="new"):
    """Commands that name a network which is none, and what each is answered."""
    return [
        ([option, "resnet50v2", "--output", new], "resnet50v2 does not exist; did you mean ResNet50V2 or"),
        ([option, "pickled.h5", "--output", new], "pickled.h5 is a pickle, of a history or of another library's model"),
    ]


OF_OPTIONS = [
    (["--class-names", "twice.txt", "--output", "new"], "--class-names twice.txt repeats 'ant'; expected one class"),
    (["--preprocess", "tf2", "--output", "new"], "--preprocess tf2 is unknown; expected"),
    (["--output", "mine"], "mine holds files of another kind; expected a new or empty folder"),
]
NO_PHOTO = (["nowhere"], "nowhere does not exist; expected a photo or a folder of photos")
EARLY = {
    "make_cam_maps.py": [*of_networks("--model"), *OF_OPTIONS, NO_PHOTO],
    "gradcam_vgg16.py": [
        *of_networks("--weights"),
        *OF_OPTIONS,
        NO_PHOTO,
        (["--classes", "dgo"], "--classes dgo is not a class; did you mean dog? expected predicted, all, top1 to top4"),
        (["--classes", "4"], "--classes 4 is not a class; expected"),
        (["--classes", "top5"], "--classes top5 is not a class; expected"),
        (["--weights", "imagenet", "--classes", "tench", "hrose"], "--classes hrose is not a class; did you mean"),
        (["--class-names", "ants.txt", "--classes", "dog"], "--classes dog is not a class; expected"),
        (["--output", "ran"], "ran holds results of other settings (classes, "),
        (["--output", "ran", "--method", "layer-cam", "grad-cam"], "ran holds one run; expected another folder"),
    ],
    "evaluate_maps.py": [
        *[(["--maps", f"{words[1]}:cam", *words[2:]], error) for words, error in of_networks("")],
        *OF_OPTIONS,
        NO_PHOTO,
        (["--maps", "grad-cma"], "--maps grad-cma: no method 'grad-cma'; did you mean grad-cam"),
        (["photos", "--only", "network"], "the photos show photos; the networks know dog, cat, horse, bird"),
        (["--annotations", "nowhere"], "--annotations nowhere does not exist; expected"),
    ],
    "train_cam_4class.py": [
        *of_networks("--weights", "new.h5"),
        *of_networks("--teacher", "new.h5"),
        (["--data", "nowhere", "--output", "new.h5"], "nowhere is not a folder; expected train/ and val/ in it"),
        (["--data", "photos", "--output", "new.h5"], "1 photo and no class folders in photos; expected"),
        (["--output", "pickled.h5"], "pickled.h5 exists; expected --resume to go on, --overwrite to train anew"),
    ],
}


@pytest.mark.parametrize("script", EARLY)
def test_what_costs_nothing_to_find_is_found_without_keras(script, tmp_path):
    """Each in one line, with nothing written; the file or the name alone tells."""
    for name in ("mine", "ran", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "ran" / "run.json").write_text(json.dumps({"settings": {"script": script, "classes": ["all"]}}))
    (tmp_path / "pickled.h5").write_bytes(b"\x80\x04\x95")
    (tmp_path / "twice.txt").write_text("ant\nbee\nAnt\n")
    (tmp_path / "ants.txt").write_text("ant\nbee\n")
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.png")
    before = sorted(tmp_path.rglob("*"))
    words, expected = zip(*EARLY[script], strict=True)
    said, modules = asked(ROOT / script, *words, cwd=tmp_path)
    assert not HEAVY & set(modules)
    for (code, _, error), start in zip(said, expected, strict=True):
        assert code == 2 and error.startswith(f"error: {start}") and error.count("\n") == 1, (error, start)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_there_is_to_say(answers, script):
    text = answers[script][0][0][1]
    assert "default: None" not in text and "default: False" not in text and str(ROOT) not in text
    assert f"    python {script}" in text  # an example
    options = text[text.index("options:") :]
    flags = re.findall(r"^  (--[a-z-]+)", options, re.MULTILINE)
    if len(flags) > 8:  # in groups
        assert len(re.findall(r"^[a-z ]+:$", options, re.MULTILINE)) >= 3
    for flag in flags:  # each has words behind it, beside its metavar
        entry = re.search(rf"^  {flag}\b.*?(?=^  -|^\S|\Z)", options, re.MULTILINE | re.DOTALL).group()
        assert len(re.findall(r"[a-z]{2,}", entry.replace(flag, ""))) >= 2, flag


def test_what_may_have_been_meant():
    known = ["cat", "Dog", "horse"]
    assert did_you_mean("hrose", known) == "; did you mean horse?"
    assert did_you_mean("DOG", known) == "; did you mean Dog?"
    assert did_you_mean("elephant", known) == ";"


def test_what_may_have_been_meant_of_very_many_is_found_soon():
    """As of a misspelt --photo, in a run of as many photos."""
    names = [f"train/golden retriever/n02099601_{number:06d}.jpg" for number in range(50_000)]
    with ended_within(60):
        assert did_you_mean(names[4321].replace("train", "tarin") * 100, names) == ";"
        assert names[4321] in did_you_mean(names[4321].replace("train", "tarin"), names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "layercam"], "invalid choice: 'layercam'; did you mean layer-cam? expected grad-cam, layer-cam"),
        (["--method", "xyz"], "argument --method: invalid choice: 'xyz'; expected grad-cam, layer-cam"),
        (["--size", "1"], "error: --size 1: expected another"),
    ],
)
def test_what_is_wrong_in_a_value_is_one_line(words, message, capsys):
    def refuse(text):
        raise UserError(f"--size {text}: expected another")

    parser = ArgumentParser("")
    parser.add_argument("--method", choices=("grad-cam", "layer-cam", "cam"))
    parser.add_argument("--size", type=refuse)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and said.startswith("error: ") and said.count("\n") == 1


def test_counts_are_spoken():
    assert [counted(count, "photo") for count in (0, 1, 2, 1000)] == ["0 photos", "1 photo", "2 photos", "1,000 photos"]
    assert [counted(count, "class", "classes") for count in (1, 3)] == ["1 class", "3 classes"]


@pytest.mark.skipif(os.name == "nt", reason="asks a POSIX shell")
def test_a_printed_command_is_read_by_the_shell_as_it_was_meant(tmp_path, monkeypatch):
    folder = tmp_path / "my photos; it's $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    line = command("show_heatmaps.py", folder / "a b", "--class", "tiger cat", console.Path("-photos"))
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True).stdout.splitlines()
    assert words[0] == "python" and words[2:] == [str(folder / "a b"), "--class", "tiger cat", "./-photos"]
    assert os.path.samefile(words[1], ROOT / "show_heatmaps.py")
    monkeypatch.chdir(ROOT)
    assert command("show_heatmaps.py", "outputs/cam") == "python show_heatmaps.py outputs/cam"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to a process")
@pytest.mark.parametrize(
    ("script", "module", "number"),
    [
        ("make_cam_maps.py", "keras", signal.SIGINT),
        ("gradcam_vgg16.py", "keras", signal.SIGTERM),
        ("show_heatmaps.py", "matplotlib", signal.SIGHUP),
    ],
)
def test_what_ends_a_script_before_it_begins_is_one_line(tmp_path, script, module, number):
    """A stand-in for a library that takes forever, so that the moment is certain."""
    # In short steps: a signal that comes between Python's last look for one and a call that blocks is heeded after that
    # call, on 3.11 and 3.13 alike. One long sleep outlived 141 of 1,600 signals sent as its file appeared, these none.
    (tmp_path / module / "applications").mkdir(parents=True)
    (tmp_path / module / "applications" / "__init__.py").touch()  # where the names of Keras's networks are read
    (tmp_path / module / "__init__.py").write_text(
        "import time\nopen('begun', 'w')\nfor _ in range(600):\n    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, ROOT / script],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert error.startswith("\nstopped: every file written is whole; ") and error.count("\n") == 2


def test_a_program_that_imports_camlib_keeps_its_own_handlers(tmp_path):
    (tmp_path / "own.py").write_text(
        f"import signal, sys\nsys.path.insert(0, {str(ROOT)!r})\nbefore = signal.getsignal(signal.SIGTERM)\n"
        "import camlib.console\nassert signal.getsignal(signal.SIGTERM) is before\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, tmp_path / "own.py"], check=True)


# Where KeyboardInterrupt does not arrive: in a callback whose exceptions Python ignores, in a library that catches all
SWALLOWED = {
    "ignored": """
    gc.callbacks.append(lambda phase, _: phase == "start" and signal.raise_signal(signal.SIGINT))
    gc.collect()""",
    "caught": """
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        pass""",
}


@pytest.mark.skipif(os.name == "nt", reason="a POSIX signal")
@pytest.mark.parametrize("how", SWALLOWED)
def test_ctrl_c_ends_a_script_even_where_libraries_swallow_it(how):
    program = f"""
import gc, signal, time
from camlib import console
console.SECONDS_TO_STOP = 0.3
def main():
    {SWALLOWED[how]}
    time.sleep(20)
console.run_script(main)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    expected = "stopped: every file written is whole; the same command goes on from here"
    assert (result.returncode, result.stderr) == (130, f"\n{expected}\n")


def test_names_that_are_near_in_a_network():
    with pytest.raises(
        UserError, match="--classes hrose is not a class; did you mean horse[?] expected predicted, all"
    ):
        chosen_classes(["hrose"], ["dog", "horse"])
    with pytest.raises(UserError, match="--classes dgo is not a class; did you mean dog"):  # a group
        chosen_classes(["dgo"], ["tench"], {"dog": [0]})
    with pytest.raises(UserError, match="block5_conv3x is not .*; did you mean block5_conv3"):
        check_layer(SimpleNamespace(sizes={"block5_conv3": None, "add": None}), "block5_conv3x")
    with pytest.raises(UserError, match="--maps grad-cma: no method 'grad-cma'; did you mean grad-cam"):
        parse_map("grad-cma")


def test_examples_of_the_viewer_run_on_the_demo_sets_maps(tmp_path, monkeypatch):
    names = [f"val/{kind}/{kind}_{number:03d}.jpg" for kind in ("cat", "dog") for number in range(2)]
    make_run(tmp_path / "outputs" / "cam", names), make_run(tmp_path / "outputs" / "gradcam", names, "gradcam")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^    python show_heatmaps.py(.*)$", show_heatmaps.__doc__, re.MULTILINE)
    assert len(examples) == 8
    for example in examples:
        settings = show_heatmaps.parse_arguments(shlex.split(example, comments=True))
        photos = find_saved(settings.places[0])
        assert find_maps(photos[show_heatmaps.index_of(photos, settings.photo) if settings.photo else 0])
        written = settings.save or settings.html or settings.sheet or settings.strip
        if written:  # the others open a window
            assert show_heatmaps.main(shlex.split(example, comments=True)) == 0
            assert written.stat().st_size > 1000
