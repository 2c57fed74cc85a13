"""Teaching: the teacher's answers and their file, the loss, what a batch carries, and training that is resumed."""

import json

import keras
import numpy as np
import pytest
from conftest import read_csv
from PIL import Image
from small_training import CONVOLUTIONS, QUICK, assert_same_training, colour_files

from camlib.console import UserError, duration
from camlib.networks.checkpoint import load_network, save_network
from camlib.photos import PhotoError, read_photo
from camlib.preprocessing import InputSpec
from camlib.training.batches import Batches
from camlib.training.class_folders import LabelledPhotos
from camlib.training.distillation import Distillation, Lesson, Teacher, photo_logits, read_views, view_logits, views_of
from camlib.training.recipes import RECIPES
from train_cam_4class import main

CLASSES = ["dog", "cat", "horse", "bird"]
OTHER_ORDER = ["bird", "cat", "dog", "horse"]
WEIGHTS = np.random.default_rng(1).normal(size=(3, 4)) * 6  # of OTHER_ORDER
BIASES = np.array([0.5, -1.0, 0.0, 0.25])


def teacher_file(path, names=OTHER_ORDER, size=8, ending="softmax", channels=3, fixed=None):
    """A network that answers by the mean colour alone, so that NumPy can tell what it answers."""
    x = image = keras.Input((fixed, fixed, channels))
    pooled = keras.layers.GlobalAveragePooling2D() if fixed is None else keras.layers.AveragePooling2D(fixed)
    x = keras.layers.Flatten()(pooled(x))
    network = keras.Model(image, keras.layers.Dense(len(names), activation=ending)(x))
    network.set_weights([WEIGHTS[:channels, : len(names)], BIASES[: len(names)]])
    save_network(network, path, InputSpec(names, size, size, channels))
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return Teacher(teacher_file(tmp_path_factory.mktemp("teacher") / "net.h5"), CLASSES)


def logits_of_means(means):
    """float64 (..., 3), mean colours in 0..255 -> (..., 4), in the order of CLASSES."""
    return (means / 255 @ WEIGHTS + BIASES)[..., [OTHER_ORDER.index(name) for name in CLASSES]]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def exchanged(answers, labels):
    """Answers (..., C) in which the likeliest class and the true one have changed places, one row at a time."""
    result = np.array(answers)
    for row, label in zip(result.reshape(-1, result.shape[-1]), np.ravel(labels), strict=True):
        said = row.argmax()
        row[said], row[label] = row[label], row[said]
    return result


def noise_photos(folder, count):
    """Photos of 40x40 that differ in each quarter, and their pixels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    quarters = generator.integers(0, 256, (count, 2, 2, 3)).repeat(20, 1).repeat(20, 2)
    pixels = np.clip(quarters + generator.integers(-20, 20, (count, 40, 40, 3)), 0, 255).astype(np.uint8)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, values in zip(paths, pixels, strict=True):
        Image.fromarray(values).save(path)
    return paths, pixels


# ---------------------------------------------------------------- answers


@pytest.mark.any_backend
def test_views_are_the_photo_its_mirror_image_and_four_corners():
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    seen = views_of(image, InputSpec(CLASSES, 8, 16, 3)).astype(int)
    corners = [image[:32, :64], image[:32, 16:, :][:, ::-1], image[8:, :64][:, ::-1], image[8:, 16:]]
    for view, cut in zip(seen, [image, image[:, ::-1], *corners], strict=True):
        side = cut.shape[0] // 8
        expected = cut.reshape(8, side, 16, side, 3).mean((1, 3))
        assert np.abs(view - expected).max() <= 0.5


@pytest.mark.any_backend
def test_views_of_a_large_jpeg_are_decoded_small_and_no_smaller(tmp_path):
    """A view of 0.8 of the photo in 64 pixels takes 80 of the whole: of 520 pixels a quarter, not an eighth."""
    blocks = np.random.default_rng(0).integers(60, 200, (65, 65, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(blocks).save(tmp_path / "photo.jpg", quality=95)
    whole = views_of(read_photo(tmp_path / "photo.jpg"), InputSpec(CLASSES, 64, 64, 3)).astype(int)
    found = read_views(tmp_path / "photo.jpg", InputSpec(CLASSES, 64, 64, 3), most_pixels=130 * 130)
    assert found.shape == (6, 64, 64, 3) and np.abs(found - whole).mean() < 1.5  # of an eighth: 2.6
    with pytest.raises(PhotoError, match="expected at most 16,900"):  # cubic sampling needs the photo as it is
        read_views(tmp_path / "photo.jpg", InputSpec(CLASSES, 64, 64, 3, interpolation="cubic"), 130 * 130)


def test_answers_are_the_teachers_for_each_view_in_the_students_order(teacher, tmp_path):
    paths, pixels = noise_photos(tmp_path / "photos", 5)
    logits = photo_logits(teacher, paths, tmp_path)
    cuts = [pixels, pixels, pixels[:, :32, :32], pixels[:, :32, 8:], pixels[:, 8:, :32], pixels[:, 8:, 8:]]
    expected = np.stack([logits_of_means(cut.astype(float).mean((1, 2))) for cut in cuts], axis=1)
    np.testing.assert_allclose(logits, expected, atol=0.02)  # the views are rounded to 8 bits
    assert np.ptp(expected, axis=1).max() > 0.5
    means = softmax(expected[[4, 1]] / 3).mean(1)
    answers = Lesson(lambda chosen, _: logits[chosen], 3.0, 0.1).answers(np.array([4, 1]), None, means.argmax(1))
    np.testing.assert_allclose(answers, means, atol=0.002)


@pytest.mark.any_backend
def test_a_wrong_answer_and_the_true_class_change_places():
    """By hand: of the first photo the teacher is wrong, of the second right, of the third least sure of the truth."""
    logits = np.log([[0.1, 0.6, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1], [0.3, 0.01, 0.29, 0.4]])[:, None].astype(np.float32)
    lesson = Lesson(lambda chosen, _: logits[chosen], 1.0, 0.2)
    answers = lesson.answers(np.array([0, 1, 2]), None, np.array([2, 1, 1]))
    np.testing.assert_allclose(answers, [[0.1, 0.2, 0.6, 0.1], [0.1, 0.6, 0.2, 0.1], [0.3, 0.4, 0.29, 0.01]], atol=1e-6)
    np.testing.assert_array_equal(answers, lesson.answers(np.array([0, 1, 2]), None, np.array([2, 1, 1])))  # nor kept
    of_none = lesson.answers(np.array([0, 1]), None, np.array([4, 1]))
    np.testing.assert_allclose(of_none, [[0.25] * 4, [0.1, 0.6, 0.2, 0.1]], atol=1e-6)


@pytest.mark.any_backend
def test_answers_are_kept_by_content(teacher, tmp_path, capsys):
    paths, _ = noise_photos(tmp_path / "photos", 4)
    logits = photo_logits(teacher, paths, tmp_path / "out")
    (kept,) = (tmp_path / "out").iterdir()
    assert kept.name.startswith("net_answers_") and kept.suffix == ".npz"
    assert "the teacher answers 4 photos once, 6 views each\n" in capsys.readouterr().out
    moved = [path.rename(tmp_path / f"moved_{path.name}") for path in paths]
    np.testing.assert_array_equal(photo_logits(teacher, moved[::-1], tmp_path / "out"), logits[::-1])
    assert "once" not in capsys.readouterr().out
    Image.new("RGB", (40, 40), (255, 0, 0)).save(moved[2])  # another photo under the name of the old
    again = photo_logits(teacher, moved, tmp_path / "out")
    assert "answers 1 photo once, 6 views each\n" in capsys.readouterr().out
    np.testing.assert_array_equal(again[[0, 1, 3]], logits[[0, 1, 3]])
    np.testing.assert_allclose(again[2], [logits_of_means(np.array([255.0, 0, 0]))] * 6, atol=1e-5)
    kept.write_bytes(kept.read_bytes()[:500])  # a disk that was full
    np.testing.assert_array_equal(photo_logits(teacher, moved, tmp_path / "out"), again)
    other_file = teacher_file(tmp_path / "net.h5", size=4)
    for other in (Teacher(other_file, CLASSES), Teacher(teacher.path, CLASSES, 6), Teacher(teacher.path, OTHER_ORDER)):
        assert not np.array_equal(photo_logits(other, moved, tmp_path / "out"), again)  # of the same name
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.any_backend
def test_ctrl_c_keeps_the_answers_had(teacher, tmp_path, monkeypatch, capsys):
    paths, _ = noise_photos(tmp_path / "photos", 6)
    whole = photo_logits(teacher, paths, tmp_path / "whole")
    left = [4]

    def interrupted(images):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return Teacher.logits(teacher, images)

    monkeypatch.setattr(teacher, "logits", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        photo_logits(teacher, paths, tmp_path / "stopped")
    monkeypatch.undo()
    capsys.readouterr()
    np.testing.assert_array_equal(photo_logits(teacher, paths, tmp_path / "stopped"), whole)
    assert "answers 2 photos once" in capsys.readouterr().out


@pytest.mark.any_backend
def test_a_photo_that_went_bad_is_one_line(teacher, tmp_path):
    paths, _ = noise_photos(tmp_path / "photos", 3)
    paths[1].write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(UserError, match="1.png cannot be read .*; expected the photo that was there"):
        photo_logits(teacher, paths, tmp_path / "out")
    assert len(np.load(next((tmp_path / "out").iterdir()))["photos"]) == 1


@pytest.mark.any_backend
def test_costs_in_words():
    assert [duration(s) for s in (0.01, 40, 3000, 9000)] == ["about 1 s", "about 40 s", "about 50 min", "about 2.5 h"]


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("shape", [(5,), (3, 2, 2)])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.0, 0.2), (4.0, 1.0)])
def test_loss_against_float64(shape, temperature, share):
    generator = np.random.default_rng(0)
    logits, answers = generator.normal(size=(*shape, 4)) * 5, softmax(generator.normal(size=(*shape, 4)) * 2)
    labels = np.eye(4)[generator.integers(0, 4, shape)]
    p = softmax(logits / temperature)
    divergence = (answers * (np.log(answers) - np.log(p))).sum(-1)
    cross_entropy = -np.log((labels * softmax(logits)).sum(-1))
    expected = (1 - share) * temperature**2 * divergence + share * cross_entropy
    loss = Distillation(temperature, share)
    targets = np.concatenate((labels, answers), -1).astype(np.float32)
    probabilities = softmax(logits).astype(np.float32)
    found = keras.ops.convert_to_numpy(loss.call(keras.ops.convert_to_tensor(targets), probabilities))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    weights = generator.random(shape).astype(np.float32)
    mean = keras.ops.convert_to_numpy(loss(targets, probabilities, sample_weight=weights))
    assert mean == pytest.approx((expected * weights).mean(), rel=1e-4)


def test_certain_answers_leave_the_loss_a_number():
    targets = np.array([[1, 0, 0, 0, 0, 1, 0, 0]], np.float32)
    for probabilities in ([[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 0, 1]]):
        for temperature in (1.0, 4.0):
            value = Distillation(temperature, 0.5)(targets, np.array(probabilities, np.float32))
            assert np.isfinite(float(value))


# ---------------------------------------------------------------- batches


def noise_batches(lesson, count=14):
    generator = np.random.default_rng(0)
    levels = generator.integers(60, 196, (count, 1, 1, 3))
    images = np.clip(levels + generator.integers(-30, 30, (count, 96, 96, 3)), 0, 255).astype(np.uint8)
    photos = LabelledPhotos(images, np.arange(count) % 4)
    recipe = RECIPES["modern"].__class__(**{**vars(RECIPES["modern"]), "batch_size": 8})
    return photos, recipe, Batches(photos, InputSpec(CLASSES, 96, 96, 3), recipe, 3, lesson)


@pytest.mark.any_backend
def test_cells_of_mosaics_have_the_answer_of_their_own_photo():
    table, asked = np.random.default_rng(2).normal(size=(14, 6, 4)).astype(np.float32), []

    def logits_of(chosen, views):
        asked.append((chosen, views))
        return table[chosen]

    photos, recipe, batches = noise_batches(Lesson(logits_of, 2.0, 0.2))
    plain = noise_batches(None)[2]
    for number, side in ((0, 2), (1, 1)):
        images, targets, weights = batches.make(0, number)  # not ahead, so that it is the last asked for
        for part, other in zip((images, targets[..., :4], weights), plain[number], strict=True):
            np.testing.assert_array_equal(part, other)  # a teacher changes nothing of what is seen
        chosen, views = asked[-1]
        rows = targets.reshape(-1, 8)
        assert targets.shape[1:] == (side, side, 8) and weights.shape == targets.shape[:3]
        np.testing.assert_array_equal(rows[:, :4].argmax(1), photos.labels[chosen])
        expected = exchanged(softmax(table[chosen] / 2.0).mean(1), photos.labels[chosen])
        np.testing.assert_allclose(rows[:, 4:], expected, atol=1e-6)
        cells = images.reshape(-1, side, recipe.cut, side, recipe.cut, 3).transpose(0, 1, 3, 2, 4, 5)
        cells, fades = (
            np.round(cells.reshape(views.shape) * 255).astype(np.uint8),
            slice(recipe.cut // 8, -recipe.cut // 8),
        )
        np.testing.assert_array_equal(cells[:, fades, fades], views[:, fades, fades])  # a border may be soft


def test_the_teacher_sees_the_students_very_views(teacher):
    def logits_of(chosen, views):
        return view_logits(teacher, views, 8)

    _, recipe, batches = noise_batches(Lesson(logits_of, 2.0, 0.2))
    for number, side in ((0, 2), (1, 1)):  # the second is smaller than a batch
        images, targets, _ = batches[number]
        cells = images.reshape(-1, side, recipe.cut, side, recipe.cut, 3).astype(float) * 255
        expected = softmax(logits_of_means(cells.mean((2, 4))) / 2.0)  # (N, g, g, C)
        expected = exchanged(expected, targets[..., :4].argmax(-1))
        np.testing.assert_allclose(targets[..., 4:], expected, atol=0.005)  # 72x72 becomes 8x8
        assert np.ptp(expected.reshape(-1, 4), axis=0).max() > 0.1


# ---------------------------------------------------------------- training


@pytest.fixture
def colour_photos(photo_folder):
    return photo_folder(colour_files())


@pytest.mark.slow
def test_stopped_and_resumed_with_a_teacher_ends_with_the_same_weights(
    colour_photos, tmp_path, monkeypatch, capsys, end_of, stopped_after_an_epoch
):
    monkeypatch.setattr("camlib.networks.architectures.MODERN_CONVOLUTIONS", CONVOLUTIONS)
    path = teacher_file(tmp_path / "teacher.h5")

    def command(name, *more):
        taught = ["--teacher", path, "--teacher-sees", "views", "--output", tmp_path / name / "net.h5", "--epochs", 2]
        return [str(word) for word in ["--data", colour_photos, *taught, *QUICK, *more]]

    assert main(command("whole")) == 0
    said = capsys.readouterr().out.split("epoch 1 of 2")[0]
    assert "the teacher answers each of the 20 views of an epoch\n" in said
    assert stopped_after_an_epoch(main, command("stopped"))[0] == 130
    other = teacher_file(tmp_path / "other.h5", size=9)
    for more, names in (
        (["--temperature", 3, "--teacher", other], "teacher_sha256, teacher_size, temperature"),
        (["--teacher-sees", "photos"], "teacher_sees"),
    ):
        code, said = end_of(main, command("stopped", "--resume", *more))
        assert code == 2 and f"other settings ({names})" in said
    code, said = end_of(main, [*command("stopped", "--resume")[:2], *command("stopped", "--resume")[6:]])
    names = "teacher_sha256, teacher_size, teacher_dtype, teacher_sees, temperature, label_share"
    assert code == 2 and f"({names})" in said
    assert main(command("stopped", "--resume")) == 0
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")
    assert_judged_by_true_labels(tmp_path / "whole")


def assert_judged_by_true_labels(folder):
    """The lowest val_loss is the cross-entropy of the network kept with the labels of val."""
    network, input_spec = load_network(folder / "net.h5")  # folded it is the very same network
    labels = np.array(json.loads((folder / "net_photos.json").read_text())["labels"]["val"])
    images = np.load(folder / "net_photos.npy")[-len(labels) :]
    probabilities = network.predict(input_spec.prepare(images), verbose=0)
    expected = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    rows = read_csv(folder / "net_history.csv")
    assert min(float(row["val_loss"]) for row in rows) == pytest.approx(expected, abs=1e-4)
    assert len(images) == 4


# ---------------------------------------------------------------- what is refused


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"names": ["ant", "cat", "dog", "horse"]}, "knows ant, cat, dog, horse; expected the classes of the photos"),
        ({"names": ["dog", "cat"]}, "knows dog, cat; expected the classes of the photos, dog, cat, horse, bird"),
        ({"ending": "sigmoid"}, "ends in a sigmoid of each class, which does not choose one of them"),
        ({"fixed": 8}, "--teacher-size 16: .*t.h5 takes 8x8 only"),
    ],
)
def test_teachers_that_do_not_fit(tmp_path, file, message):
    path = teacher_file(tmp_path / "t.h5", **file)
    with pytest.raises(UserError, match=message):
        Teacher(path, CLASSES, 16 if "fixed" in file else None)


def test_half_precision_answers_nearly_the_same(teacher, tmp_path):
    half = Teacher(teacher.path, CLASSES, dtype="float16")
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    logits = half.logits(images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, teacher.logits(images), atol=0.02)
    assert not np.array_equal(logits, teacher.logits(images))


@pytest.mark.any_backend
def test_answers_that_are_no_numbers_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("test_distillation.BIASES", BIASES * np.nan)
    broken = Teacher(teacher_file(tmp_path / "net.h5"), CLASSES)
    with pytest.raises(UserError, match="net.h5 answers what is no number; expected --dtype float32, or another file"):
        broken.logits(np.zeros((1, 8, 8, 3), np.uint8))
