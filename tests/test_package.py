"""What Python reaches by `from camlib import ...`."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ENVIRONMENT, ROOT
from keras import ops

import camlib
from camlib.attribution.cam import class_activation_maps, pooled_classifier
from camlib.networks import GAP_NETWORK
from camlib.networks.checkpoint import load_network

NAMES = ["explain", "Classifier", "CAM", "GradCAM", "METHODS", "read_photo", "UserError", "WatchedMaps"]


@pytest.mark.any_backend
def test_what_needs_no_keras_does_without():
    program = (
        "import sys, camlib; from camlib import METHODS, UserError, read_photo; assert 'grad-cam' in METHODS\n"
        "assert issubclass(UserError, Exception) and callable(read_photo)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'keras', 'tensorflow', 'jax'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


@pytest.mark.any_backend
def test_all_names_are_there_and_no_others():
    assert sorted(NAMES) == sorted(camlib.__all__) and set(NAMES) <= set(dir(camlib))
    assert all(getattr(camlib, name) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'gradcam'"):
        _ = camlib.gradcam


def test_cam_of_photos_of_any_size_is_the_equation_in_float64():
    """M_c(y, x) = sum_k w_kc f_k(y, x), its mean plus the bias the logit."""
    photos = [np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8), np.full((9, 30, 3), 80, np.uint8)]
    cam = camlib.CAM(camlib.Classifier.load(GAP_NETWORK, size=(24, 32)))
    known = "\nit knows dog, cat, horse, bird only; gradcam_vgg16.py --weights imagenet knows 1,000 classes"
    assert cam.classifier.description.endswith(known)
    maps, logits = cam(photos)
    network, _ = load_network(GAP_NETWORK)
    pooling, dense, _ = pooled_classifier(network)
    inputs = cam.classifier.prepare(cam.classifier.inputs(photos))
    features = np.asarray(ops.convert_to_numpy(type(network)(network.input, pooling.input)(inputs)), np.float64)
    kernel, bias = (np.asarray(weights, np.float64) for weights in dense.get_weights())
    expected = np.einsum("nhwk,kc->nchw", features, kernel)
    assert maps.shape == (2, 4, 24, 32) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(logits, expected.mean(axis=(2, 3)) + bias, atol=1e-4)
    with pytest.raises(ValueError, match="differ in K"):
        class_activation_maps(ops.convert_to_tensor(features), kernel[1:])


@pytest.mark.any_backend
def test_classes_are_named_in_the_call():
    photo, names = np.zeros((16, 16, 3), np.uint8), ["ant", "bee", "cow", "doe"]
    given = {"guided": False, "size": (16, 16)}
    found = camlib.explain(GAP_NETWORK, [photo], classes=["doe", "bee"], class_names=names, **given)
    assert found.chosen.tolist() == [[3], [1]]
    for wrong, why in ((["ant", "Ant"], "class_names repeats 'ant'"), (["ant"], "1 class names for 4 outputs")):
        with pytest.raises(camlib.UserError, match=why):
            camlib.explain(GAP_NETWORK, [photo], class_names=wrong, **given)


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_gradcam_is_asked_again_and_again():
    """One object, photos of several sizes; the same as one call of explain for each."""
    photos = [np.random.default_rng(1).integers(0, 256, size, np.uint8) for size in ((50, 40, 3), (20, 90, 3))]
    gradcam = camlib.GradCAM(camlib.Classifier.load(GAP_NETWORK, size=(16, 16)), guided=False, classes=["dog", "bird"])
    for photo in photos:
        found = gradcam([photo])
        once = camlib.explain(GAP_NETWORK, [photo], classes=["dog", "bird"], guided=False, size=(16, 16))
        np.testing.assert_allclose(found.cams, once.cams, atol=1e-6)
        assert found.cams.shape == (2, 1, 16, 16) and found.guided is None
