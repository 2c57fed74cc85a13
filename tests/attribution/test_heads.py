"""Networks with several inputs or outputs, or with a score for each pixel."""

import io
import os
import zipfile

import keras
import numpy as np
import pytest
from conftest import ended_within
from keras import layers, ops
from oracle import cam_of, gradient_of
from PIL import Image

from camlib import explain
from camlib.attribution.classifier import Classifier
from camlib.attribution.gradcam import GradCAM
from camlib.attribution.heads import Signature, feed_of
from camlib.attribution.inspection import inspect_network
from camlib.console import UserError
from camlib.preprocessing import PREPROCESSING, InputSpec
from gradcam_vgg16 import main

SHAPE = (24, 32, 3)
PHOTOS = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.uint8)
INPUT_SPEC = InputSpec(["a", "b", "c"], *SHAPE, **PREPROCESSING["none"])


def trunk():
    keras.utils.set_random_seed(4)
    image = keras.Input(SHAPE, name="photo")
    x = layers.Conv2D(6, 3, activation="relu", name="first")(layers.Rescaling(1 / 255)(image))
    return image, layers.Conv2D(5, 3, strides=2, activation="relu", name="second")(x)


def cams_of(classifier, classes=("0",), method="grad-cam"):
    return GradCAM(classifier, method=method, guided=False, classes=list(classes))(PHOTOS)


# ---------------------------------------------------------------- several outputs


@pytest.fixture(scope="module")
def two_outputs():
    """(the network with both, the one with the second alone)."""
    image, x = trunk()
    pooled = layers.GlobalAveragePooling2D()(x)
    kind = layers.Dense(3, activation="softmax", name="kind")(pooled)
    boxes = layers.Dense(4, name="boxes")(pooled)
    return keras.Model(image, [boxes, kind]), keras.Model(image, kind), keras.Model(image, {"b": boxes, "k": kind})


def test_a_head_is_explained_as_if_it_were_alone(two_outputs):
    found = cams_of(Classifier(two_outputs[0], None, "net", head="kind"), "012")
    alone = cams_of(Classifier(two_outputs[1], None, "net"), "012")
    np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-5)
    np.testing.assert_allclose(found.cams, alone.cams, atol=1e-6)
    for network, head in ((two_outputs[0], "1"), (two_outputs[0], 1), (two_outputs[2], "k")):
        np.testing.assert_allclose(
            Signature(head=head).run(network, PHOTOS.astype(np.float32)), alone.outputs, rtol=1e-5
        )


@pytest.mark.any_backend
def test_what_is_in_other_heads_is_not_in_the_way():
    """A ReLU, a GELU and a convolution of theirs: neither guided gradients nor the default layer are of those."""
    image, x = trunk()
    pooled = layers.GlobalAveragePooling2D()(x)
    kind = layers.Dense(3, activation="softmax", name="kind")(layers.Dense(8, activation="relu", name="own")(pooled))
    beside = layers.Dense(8, activation="gelu")(layers.Dense(8, activation="relu", name="hidden")(pooled))
    where = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, activation="relu", name="later")(x))
    network = keras.Model(image, [kind, layers.Dense(2, name="size")(beside), layers.Dense(2, name="place")(where)])
    alone = keras.Model(image, kind)
    found, expected = (
        explain(one, PHOTOS, classes=[0], preprocess="none", **head)
        for one, head in ((network, {"head": "kind"}), (alone, {}))
    )
    structure = inspect_network(network, SHAPE, Signature(head=0))
    assert structure.target == "second" and structure.others == [] and "later" not in structure.sizes
    for name in ("cams", "guided", "products"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)
    assert inspect_network(network, SHAPE, Signature(head="place")).target == "later"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, r"has 2 outputs; expected --head with one of boxes \(N, .*4\), kind \(N, 3\)"),
        ("kin", "--head kin is no output"),
        ("2", "--head 2 is no output"),
    ],
)
def test_heads_are_listed_when_none_is_named(two_outputs, head, message):
    with pytest.raises(UserError, match=message):
        inspect_network(two_outputs[0], SHAPE, Signature(head=head))
    with pytest.raises(UserError, match="has one output only"):
        inspect_network(two_outputs[1], SHAPE, Signature(head="kind"))


# ---------------------------------------------------------------- several inputs


@pytest.fixture(scope="module")
def two_inputs():
    image, x = trunk()
    age = keras.Input((2,), name="age")
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), age])
    return keras.Model({"photo": image, "age": age}, layers.Dense(3, name="class")(x))


def test_the_other_inputs_come_from_a_file(two_inputs, tmp_path):
    np.savez(tmp_path / "others.npz", age=np.array([3.0, -4.0], np.float32))
    others = tmp_path / "others.npz"
    found = cams_of(Classifier(two_inputs, None, "net", image_input="photo", other_inputs=others))
    ages = np.repeat([[3.0, -4.0]], 2, axis=0).astype(np.float32)
    expected = two_inputs({"photo": PHOTOS.astype(np.float32), "age": ages})
    np.testing.assert_allclose(found.logits, ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-5)
    assert (found.cams > 0).any()


@pytest.mark.any_backend
def test_inputs_that_do_not_fit_are_told(two_inputs, two_outputs, tmp_path):
    np.savez(tmp_path / "wide.npz", age=np.zeros(3))
    np.savez(tmp_path / "none.npz", size=np.zeros(2))
    (tmp_path / "text.npz").write_text("age")
    for arguments, message in (
        ((None, None), "has several inputs, one of them takes the photos; expected --image-input with one of"),
        (("image", None), "--image-input image is none of them"),
        (("photo", None), r"takes age \(2,\) beside the photos; expected --other-inputs FILE.npz"),
        (("photo", tmp_path / "wide.npz"), r"has shape \(3,\) for age; expected age \(2,\)"),
        (("photo", tmp_path / "none.npz"), "has nothing for age"),
        (("photo", tmp_path / "text.npz"), "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            feed_of(two_inputs, *arguments)
    with pytest.raises(UserError, match="has one input only"):
        feed_of(two_outputs[0], "photo", None)
    with pytest.raises(UserError, match=r"takes 2 inputs \((photo, age|age, photo)\); expected .*image_input="):
        Classifier(two_inputs, preprocess="none")


def test_an_input_of_several_that_takes_no_photos_is_told(tmp_path):
    inputs = keras.Input((20, 16, 1), name="photo"), keras.Input((12, 9), name="noise")
    both = layers.Concatenate()(
        [layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs[0])), layers.Flatten()(inputs[1])]
    )
    network = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(both))
    np.savez(tmp_path / "photo.npz", photo=np.zeros((20, 16, 1), np.float32))
    with pytest.raises(UserError, match=r"takes \(N, 12, 9\); expected one input of photos"):
        Classifier(network, preprocess="none", image_input="noise", other_inputs=tmp_path / "photo.npz")


def header(descr="<f4", shape=(2,)):
    """The beginning of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


BAD_MEMBERS = {
    "empty": b"", "text": b"3, 4", "no numbers": header(), "more numbers": header() + bytes(12),
    "claims 373 GiB": header("<f4", (10**11,)) + bytes(8), "objects": header("|O", (1,)) + bytes(8),
    "broken header": b"\x93NUMPY\x01\0\x76\0" + b"{'descr': " + b"(" * 106 + b"\n",
    "negative": header("<f4", (-1, -2)) + bytes(8),
}  # fmt: skip


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name", [*BAD_MEMBERS, "encrypted", "lies about its size", "packing", ".npy", "pipe", "text file"]
)
def test_bad_files_of_other_inputs_are_one_line(two_inputs, tmp_path, name):
    path, member = tmp_path / "others.npz", "age.npy,"
    if name == "pipe":
        os.mkfifo(path)
    elif name == ".npy":
        path.write_bytes(header() + bytes(8))
    elif name == "text file":
        path.write_text("age")
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if name == "packing" else zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("age.npy", BAD_MEMBERS.get(name, header() + bytes(8)))
    if name == "packing":
        content = bytearray(path.read_bytes())
        content[46:66] = bytes(range(100, 120))  # behind the member's header and the properties of LZMA
        path.write_bytes(content)
    if name == "encrypted":  # as the flags of both of its entries say
        content = bytearray(path.read_bytes())
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
    if name == "lies about its size":
        content = path.read_bytes()
        path.write_bytes(content.replace(len(header() + bytes(8)).to_bytes(4, "little"), (2**31).to_bytes(4, "little")))
    with ended_within(10), pytest.raises(UserError, match="--other-inputs .* cannot be read") as why:
        feed_of(two_inputs, "photo", path)
    assert (member in str(why.value)) == (name not in (".npy", "pipe", "text file")) and str(why.value).isprintable()


# ---------------------------------------------------------------- segmentation


@pytest.fixture(scope="module")
def segmenting():
    """A small U-net of three classes."""
    keras.utils.set_random_seed(5)
    image = keras.Input(SHAPE)
    left = layers.Conv2D(6, 3, padding="same", activation="relu", name="left")(layers.Rescaling(1 / 255)(image))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="bottom")(layers.MaxPooling2D()(left))
    x = layers.Concatenate()([layers.UpSampling2D()(x), left])
    return keras.Model(image, layers.Conv2D(3, 1, activation="softmax", name="pixels")(x))


def seg_grad_cam(network, photo, index, inside):
    """Seg-Grad-CAM by plain gradients: the score is the sum of the class's logits over `inside`."""
    layer = network.get_layer("pixels")
    trunk = keras.Model(network.inputs[0], [network.get_layer("bottom").output, network.get_layer("left").output])
    bottom, left = trunk(photo[None].astype(np.float32))
    enlarge = layers.UpSampling2D()

    def logits_of(bottom):
        x = ops.concatenate([enlarge(bottom), left], axis=-1)
        return ops.einsum("nhwk,kc->nhwc", x, layer.kernel[0, 0]) + layer.bias

    predicted = np.argmax(ops.convert_to_numpy(logits_of(bottom))[0], axis=-1)
    inside = (predicted == index if inside is None else inside).astype(np.float32)

    def score(bottom):
        return ops.sum(logits_of(bottom)[0, ..., index] * inside)

    gradients, features = gradient_of(score, bottom)[0], ops.convert_to_numpy(bottom)[0]
    return ops.convert_to_numpy(score(bottom)), np.maximum(features @ gradients.mean(axis=(0, 1)), 0)


@pytest.mark.parametrize("with_region", [False, True])
def test_a_segmentation_is_explained_by_its_pixels(segmenting, with_region, tmp_path):
    region = path = None
    if with_region:
        region, path = np.zeros(SHAPE[:2], bool), tmp_path / "region.png"
        region[3:9, 5:20] = True
        Image.fromarray(region).save(path)
    classifier = Classifier(segmenting, None, "net", region=path)
    assert classifier.layer_to_map() == "bottom" and classifier.structure.segments and not classifier.has_probabilities
    found = cams_of(classifier, "012")
    for index in range(3):
        score, cam = seg_grad_cam(segmenting, PHOTOS[0], index, region)
        np.testing.assert_allclose(found.logits[0, index], score, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.cams[index, 0], cam, atol=1e-4 * max(cam.max(), 1e-3))
    assert found.cams.any()
    shares = ops.convert_to_numpy(segmenting(PHOTOS.astype(np.float32))).mean(axis=(1, 2))
    np.testing.assert_allclose(found.outputs, shares, atol=1e-5)


@pytest.mark.any_backend
def test_regions_that_fit_nothing_are_told(segmenting, two_outputs):
    with pytest.raises(UserError, match="has no score for each pixel"):
        inspect_network(two_outputs[1], SHAPE, Signature(region=np.ones((4, 4), bool)))
    with pytest.raises(UserError, match="nothing of it is left at the network's 24x32"):
        inspect_network(segmenting, SHAPE, Signature(region=np.zeros((4, 4), bool)))


@pytest.mark.any_backend
def test_the_script_explains_a_segmentation_over_a_mask(segmenting, photo_folder, tmp_path, capsys):
    segmenting.save(tmp_path / "seg.keras")
    mask = np.zeros((48, 64), np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    photos = photo_folder({"a.png": (200, 100, 50)}, size=(64, 48))
    output = tmp_path / "out"
    arguments = [str(photos), "--weights", str(tmp_path / "seg.keras"), "--region", str(tmp_path / "mask.png")]
    assert main([*arguments, "--classes", "all", "--output", str(output)]) == 0
    assert "added up over the region" in capsys.readouterr().out
    header, row = (output / "predictions.csv").read_text().splitlines()
    assert header == "path,predicted,logit_class_0,logit_class_1,logit_class_2" and row.startswith("a.png,class_")
    assert np.load(output / "a" / "gradcam_for_class_1.npy").shape == (12, 16)


# ---------------------------------------------------------------- vision transformers


def transformer(class_token, patches=3, width=8, heads=2, blocks=2, size=SHAPE):
    """A small ViT: patch embedding, pre-norm blocks, mean or class token, Dense."""

    class ClassToken(layers.Layer):
        def build(self, shape):
            self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal")

        def call(self, x):
            return ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)

    keras.utils.set_random_seed(6)
    image = keras.Input(size)
    step = size[0] // patches
    x = layers.Conv2D(width, step, strides=step, name="embed")(layers.Rescaling(1 / 127.5, -1)(image))
    count = x.shape[1] * x.shape[2]
    x = layers.Reshape((count, width))(x)
    x = ClassToken()(x) if class_token else x
    for block in range(blocks):
        y = layers.LayerNormalization(name=f"norm1_{block}")(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads, name=f"attention_{block}")(y, y)])
        y = layers.LayerNormalization(name=f"norm2_{block}")(x)
        y = layers.Dense(width, name=f"down_{block}")(layers.Dense(2 * width, activation="gelu", name=f"up_{block}")(y))
        x = layers.Add(name=f"block_{block}")([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    x = x[:, 0] if class_token else layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax", name="class")(x))


def behind_norm1(network, class_token, tokens, x):
    """The logits from the last block's first normalisation and what it normalises, by Keras's own layers."""
    add = x + network.get_layer("attention_1")(tokens, tokens)
    y = network.get_layer("down_1")(network.get_layer("up_1")(network.get_layer("norm2_1")(add)))
    x = network.get_layer("norm")(add + y)
    x = x[:, 0] if class_token else ops.mean(x, axis=1)
    dense = network.get_layer("class")
    return ops.matmul(x, dense.kernel) + dense.bias


@pytest.mark.thorough
@pytest.mark.parametrize(("class_token", "method"), [(False, "grad-cam"), (True, "layer-cam")])
def test_tokens_become_maps(class_token, method):
    network = transformer(class_token)
    classifier = Classifier(network, None, "net")
    assert classifier.layer_to_map() == "norm1_1" and classifier.structure.sizes["norm1_1"] == (3, 4, 8)
    found = cams_of(classifier, "012", method)
    norm1 = network.get_layer("norm1_1")
    seen = keras.Model(network.inputs[0], [norm1.output, norm1.input])
    tokens, x = seen(PHOTOS.astype(np.float32))
    for index in range(3):

        def scores(tokens, index=index):
            return behind_norm1(network, class_token, tokens, x)[:, index]

        g = gradient_of(lambda tokens: ops.sum(scores(tokens)), tokens)[:, class_token:].reshape(2, 3, 4, 8)
        a = ops.convert_to_numpy(tokens).astype(np.float64)[:, class_token:].reshape(2, 3, 4, 8)
        expected = cam_of(method, a, g)
        np.testing.assert_allclose(found.logits[:, index], ops.convert_to_numpy(scores(tokens)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.cams[index], expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.any_backend
def test_a_normalisation_in_another_precision_than_attention_is_found():
    network = transformer(True)
    for layer in network._flatten_layers():
        layer.dtype_policy = "float32" if isinstance(layer, layers.LayerNormalization) else "mixed_bfloat16"
    assert inspect_network(network, SHAPE).target == "norm1_1"


def test_ablation_leaves_the_class_token_out_of_the_map():
    classifier = Classifier(transformer(True, blocks=1), None, "net")
    found = cams_of(classifier, "0", "ablation-cam")
    assert found.cams.shape == (1, 2, 3, 4) and found.features.shape == (2, 3, 4, 8)
