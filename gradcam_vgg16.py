"""Explain a network that takes photos and scores classes: Grad-CAM and its family, guided backpropagation, and both.

    python gradcam_vgg16.py                                   # the demo pictures, about half a minute
    python gradcam_vgg16.py my_photos --classes all --output outputs/mine
    python gradcam_vgg16.py my_photos --weights imagenet      # Keras's own VGG-16, 553 MB once
    python gradcam_vgg16.py my_photos --weights ResNet50V2    # or any other network of keras.applications
    python gradcam_vgg16.py my_photos --weights resnet.keras --preprocess tf --method layer-cam

For each photo and class it writes, below the output folder, gradcam_for_<class>, guided_backprop_for_<class> and
guided_gradcam_for_<class> as .npy, unscaled, and as .jpg, spp_for_<class>.jpg (superposition: the map over the photo),
panel_for_<class>.jpg with all of them, and a row of predictions.csv. The same command again does only what is missing.
A file of weights may hold any network of Keras's own layers: Sequential, functional or nested, ending in softmax,
sigmoid or neither, a vision transformer, or a segmentation.
"""

from pathlib import Path

from camlib.attribution.methods import METHODS
from camlib.console import ArgumentParser, command, counted, run_script
from camlib.files import file_sha256, parse_place
from camlib.options import (
    add_machine_options,
    add_map_run_options,
    add_network_options,
    add_port_options,
    add_style_options,
    check_store_options,
)
from camlib.pixel_budget import PIXELS, add_pixel_option
from camlib.runs.ray import check_machine_options, engine_of

# ---------------------------------------------------------------- settings

OUTPUT = Path("outputs/gradcam")
CONVENTIONS = (
    "gradcam_for_<class>.npy: float32 (h, w), the map of `method` of the layer at its own size, Y_c the logit; "
    "grad-cam is ReLU(sum_k alpha_k A_k), alpha_k = mean of dY_c/dA_k. guided_backprop_for_<class>.npy: float32 "
    "(H, W, 3), signed gradient of Y_c with respect to the network's input, RGB. guided_gradcam_for_<class>.npy: the "
    "latter times the former, enlarged bilinearly. None is scaled; the pictures are, to the largest value among the "
    "photo's classes, gradients to the 99.5th percentile. Of a network that computes in float64 all are float64."
)

# ---------------------------------------------------------------- options


def parse_arguments(arguments=None):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=parse_place, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="default: the demo set's val and both")  # fmt: skip
    add_pixel_option(parser)
    maps = parser.add_argument_group("maps")
    maps.add_argument("--method", default="grad-cam", choices=METHODS, help="the kind of map")
    maps.add_argument("--classes", nargs="+", default=["predicted"], metavar="predicted|all|NAME|INDEX",
                      help="which classes to explain; with ImageNet's also dog, cat, bird, horse")  # fmt: skip
    maps.add_argument("--layer", metavar="NAME", help="whose output the method weighs, nested/layer in a nested "
                      "network; default: the last that computes features with a spatial output")  # fmt: skip
    maps.add_argument("--counterfactual", action="store_true", help="map what speaks against the class")
    maps.add_argument("--no-guided", action="store_true", help="leave guided backpropagation out")
    maps.add_argument("--guided-anyway", action="store_true",
                      help="use the true gradient at activations that are no ReLU")  # fmt: skip
    network = parser.add_argument_group("network")
    network.add_argument("--weights", default="4class", metavar="4class|imagenet|NAME|FILE",
                         help="the network: the shipped one, Keras's VGG-16 of ImageNet, another of keras.applications "
                         "(ResNet50V2), or a .h5 or .keras file")  # fmt: skip
    add_network_options(network)
    add_port_options(parser.add_argument_group("networks with several inputs or outputs"))
    add_style_options(parser.add_argument_group("pictures"))
    add_map_run_options(parser.add_argument_group("output"), OUTPUT, batch_size=8)
    add_machine_options(parser.add_argument_group("several machines"))
    settings = parser.parse_args(arguments)
    parser.require(settings, batch_size=1)
    check_store_options(parser, settings)
    check_machine_options(parser, settings)
    if settings.counterfactual and METHODS[settings.method].needs != "gradients":
        parser.error(
            f"--counterfactual negates gradients, which {settings.method} does without; expected another --method"
        )
    if settings.architecture and settings.weights in ("4class", "imagenet"):
        parser.error(f"--weights {settings.weights} needs no --architecture; expected a file of weights alone")
    return settings


if __name__ == "__main__":
    parse_arguments()  # before Keras is imported, which takes seconds

from camlib.backend import device_name, leave_gpus

# isort: split
import keras
import numpy as np
from keras import ops

from camlib.attribution.classifier import Subject, announce_guided, check_guided, kept_precision, zero_maps_of
from camlib.attribution.gradcam import (
    CLASSES_AT_ONCE,
    PHOTO_AXES,
    Explanation,
    explained_at_once,
    explained_with_changes,
    maps_of_photo,
    runner,
    targets_of,
)
from camlib.attribution.heads import port_of
from camlib.attribution.methods import enlarged
from camlib.attribution.tracing import guided_rule
from camlib.demo.scenes import demo_folder
from camlib.memory import check_subject, halving
from camlib.networks.checkpoint import VGG_NETWORK, identity_of, load_network
from camlib.photos import find_photos, network_input
from camlib.plots.colours import METHOD_TITLES, style_of_run, style_settings, titles_of
from camlib.runs.maps import write_explanations
from camlib.runs.run import Work
from camlib.runs.shards import Part
from camlib.runs.store_run import run_of

# ---------------------------------------------------------------- mathematics


def score_of_targets(logits, targets):
    """The score Y of a class, or of several taken together, and its gradient with respect to the logits.

    Y = log sum over the target's classes of exp(logit_c): of one class its logit, of several ("dog" for the breeds of
    ImageNet) the logit that belongs to the sum of their probabilities.

    Args:
        logits: float32 (..., C).
        targets: bool (..., C), the target's classes.

    Returns:
        (Y (...), dY/dlogits (..., C)), float32.
    """
    logits = ops.where(targets, logits, -np.inf)
    return ops.logsumexp(logits, axis=-1), ops.softmax(logits, axis=-1)


def gradient_maps(seen, u, maps, counterfactual=False):
    """Grad-CAM and its family: the features A of a layer, weighed by the score's gradients (Selvaraju et al. 2017).

    alpha_k = mean over y, x of dY/dA_k (eq. 1); L = ReLU(sum_k alpha_k A_k) (eq. 2). The counterfactual map takes
    -alpha_k (section 3.3). `camlib.attribution.methods` holds this equation and those of the other methods.

    Args:
        seen: ForwardPass.
        u: float32 (N, C), dY/dlogits.
        maps: list of (layer, Method).
        counterfactual: bool, map what speaks against the class.

    Returns:
        (list of maps float32 (N, h, w), None for methods that take the scores of changed photos; list of float32 (N,),
        the largest magnitude of each one's gradients, None for methods without).
    """
    sign = -1.0 if counterfactual else 1.0
    gradients = seen.gradients_at_features(u) if any(method.needs == "gradients" for _, method in maps) else {}
    cams, strengths = [], []
    for layer, method in maps:
        features, strength = seen.features[layer], None  # A (N, h, w, K)
        if method.needs == "gradients":
            cam = method.function(features, sign * gradients[layer])  # (N, h, w)
            strength = ops.max(ops.abs(gradients[layer]), axis=(1, 2, 3))  # (N,)
        else:
            cam = method.function(features) if method.needs == "nothing" else None
        cams.append(cam)
        strengths.append(strength)
    return cams, strengths


def guided_backpropagation(seen, u):
    """The score's gradient with respect to the photo, by another rule at each ReLU (Springenberg et al. 2015).

    A ReLU passes a gradient where its input and the gradient that arrives are both positive, see
    `camlib.attribution.tracing.rectify`. Signed, float32 (N, H, W, channels).
    """
    with guided_rule():
        return seen.gradients_at_images(u)


def guided_grad_cam(guided_gradients, cam):
    """Multiply guided gradients (N, H, W, C) by the map (N, h, w), enlarged bilinearly with half-pixel centres."""
    return guided_gradients * enlarged(cam[..., None], *guided_gradients.shape[1:3])


def score_map(method, features, changed, logits, targets):
    """Score-CAM and Ablation-CAM: the features weighed by how the score changes with each of them.

    Args:
        method: Method.
        features: float32 (N, h, w, K).
        changed: float32 (N, K, C), the logits of the photo seen through, or without, the k-th feature.
        logits: float32 (N, C), of the photos.
        targets: bool (N, C).

    Returns:
        float32 (N, h, w).
    """
    scores, _ = score_of_targets(changed, targets[:, None])  # (N, K)
    score, _ = score_of_targets(logits, targets)  # (N,)
    return method.function(features, scores, score)


def joint_explainer(network, plan, maps, counterfactual=False, with_guided=True, groups=()):
    """Compile several kinds of map of a network together, and guided backpropagation.

    True and guided gradients of all maps come from the same forward pass, one for every CLASSES_AT_ONCE classes.
    Score-CAM runs the network again for each feature, Ablation-CAM what of it lies behind the layer.

    Args:
        network: keras.Model, images to logits or probabilities.
        plan: Survey of the network.
        maps: list of (layer, method): the path of the layer whose output is A, of its last run if it is shared, and a
            key of METHODS.
        counterfactual: bool, as for `gradient_maps`.
        with_guided: bool, do guided backpropagation too.
        groups: list of lists of class indices, each explained as one class and numbered after the network's own.

    Returns:
        function of (images float32 (N, H, W, channels), classes int32 (R, N), PREDICTED where the network is to choose,
        count: how many of the images matter, default all) -> Explanation; its `features` are a dict by layer, its
        `cams` a list in the order of `maps`, zero for images that do not matter where a method takes long.
    """
    maps = [(layer, METHODS[method]) for layer, method in maps]
    targets = targets_of(plan.class_count, groups)
    run = runner(network, plan, list(dict.fromkeys(layer for layer, _ in maps)))

    def maps_of_class(seen, chosen):
        _, u = score_of_targets(seen.logits, ops.take(targets, chosen, axis=0))  # (N, C)
        guided = guided_backpropagation(seen, u) if with_guided else None
        return *gradient_maps(seen, u, maps, counterfactual), guided

    explain_at_once = explained_at_once(network, plan, run, maps_of_class)
    return explained_with_changes(explain_at_once, maps, network, plan, run, targets, score_map)


def explainer(network, plan, layer=None, method="grad-cam", **settings):
    """Compile one kind of map, guided backpropagation and guided Grad-CAM.

    Args:
        network: keras.Model, images to logits or probabilities.
        plan: Survey of the network.
        layer: str, path of the layer whose output is A; default: plan.target.
        method: str, a key of METHODS.
        settings: as for `joint_explainer`.

    Returns:
        as `joint_explainer`, of an Explanation whose `features`, `cams` and `strengths` are those of the one map, and
        `products` its guided Grad-CAM.
    """
    layer = layer or plan.target
    explain_all = joint_explainer(network, plan, [(layer, method)], **settings)

    def explain(images, classes, count=None):
        found = explain_all(images, classes, count)
        cams, products = found.cams[0], None
        if found.guided is not None:
            products = ops.stack([guided_grad_cam(*pair) for pair in zip(found.guided, cams, strict=True)])
        return found._replace(
            features=found.features[layer], cams=cams, strengths=found.strengths[0], products=products
        )

    return explain


def explain(network, images, classes=None, method="grad-cam", layer=None, preprocess=None, guided=True, size=None):
    """Explain photos with a network, in one call; for many calls with one network compile an `explainer` once.

    Args:
        network: keras.Model, the path of a model file, or a name of keras.applications.
        images: list of uint8 (H, W, 3), RGB, of any sizes, or an array (N, H, W, 3).
        classes: list of names or indices, each explained for every photo; default: the class predicted.
        method: str, a key of METHODS.
        layer: str, path of the layer whose output is mapped; default: the last with a spatial output, pooling aside.
        preprocess: str, what a pixel of 0..255 becomes, as after --preprocess; default: what the network says.
        guided: bool, do guided backpropagation and guided Grad-CAM too.
        size: (height, width) of the network's input where it is open; default: as trained.

    Returns:
        Explanation of NumPy arrays, see `camlib.attribution.classifier.Subject.ask`.

    Raises:
        UserError: the file is no network, or something of what was asked for does not fit it.
    """
    if isinstance(network, keras.Model):
        source, meaning = f"the network {network.name!r}", None
    else:
        source, (network, meaning) = network, load_network(network)
    with kept_precision(network):  # the network may be in training
        subject = Subject(network, meaning, source, layer, preprocess, size=size)
        if guided:
            check_guided(subject.plan, "guided=False leaves it out")
        chosen = subject.chosen_classes([str(name) for name in classes or ["predicted"]])
        groups = list(subject.groups.values())
        explain_batch = explainer(network, subject.plan, subject.layer, method, with_guided=guided, groups=groups)
        return subject.ask(explain_batch, np.stack([network_input(image, subject.meaning) for image in images]), chosen)


# ---------------------------------------------------------------- the script


def prepared(settings, worker=False):
    """Load the network and claim the folder of a run.

    Args:
        settings: Namespace, see `parse_arguments`.
        worker: bool, for another process, which did so before, see `camlib.runs.ray`.

    Returns:
        Work.
    """
    PIXELS.most, style = settings.most_pixels, style_of_run(settings)
    source = VGG_NETWORK if settings.weights == "4class" else settings.weights
    network, meaning = load_network(source, settings.trust_model, settings.architecture, settings.largest_model)
    subject = Subject(network, meaning, settings.weights, settings.layer, settings.preprocess, settings.class_names,
                      settings.size, settings.dtype, port_of(network, settings), settings.image_input)  # fmt: skip
    meaning, method = subject.meaning, METHODS[settings.method]
    chosen = subject.chosen_classes(settings.classes)
    groups = subject.groups_among(chosen)
    places = settings.places or [demo_folder() / "val", demo_folder() / "both"]
    photos = [] if worker else find_photos(places)
    if not worker:  # whose photos are dealt in batches of this size
        settings.batch_size = min(settings.batch_size, len(photos))
    # of many classes the maps of a batch would fill the memory
    batch_size = max(1, settings.batch_size // -(-len(chosen) // CLASSES_AT_ONCE))
    check_subject(subject, batch_size, with_gradients=True)
    print(*subject.sentences(settings.weights, settings.method), sep="\n")
    if not settings.no_guided:
        if not settings.guided_anyway:
            check_guided(subject.plan, "--no-guided leaves it out, --guided-anyway takes the true gradient there")
        announce_guided(subject.plan)
    run = run_of(
        settings,
        {"script": "gradcam_vgg16.py", "photos": [str(place.resolve()) for place in places],
         "weights": settings.weights, **identity_of(source, settings.architecture), "layer": subject.layer,
         "classes": settings.classes,
         "method": settings.method, "signed": method.signed, "counterfactual": settings.counterfactual,
         "guided": not settings.no_guided, "head": subject.plan.port.head,
         "region": settings.region and file_sha256(settings.region),
         "other_inputs": settings.other_inputs and file_sha256(settings.other_inputs),
         "preprocessing": meaning.preprocessing, "dtype": subject.dtype, "groups": groups or None,
         **style_settings(settings)},
        CONVENTIONS,
        meaning.class_names,
        explained=subject.class_names,
        classes_of_photo=len(chosen),
        with_probabilities=subject.has_probabilities,
        groups=groups,
        part=settings.shard and Part(settings.shard, photos, batch_size),
        worker=worker,
    )  # fmt: skip
    explain_batch = explainer(
        network, subject.plan, subject.layer, settings.method, counterfactual=settings.counterfactual,
        with_guided=not settings.no_guided, groups=list(subject.groups.values()),
    )  # fmt: skip
    ask = halving(lambda images, count, classes: subject.ask(explain_batch, images, classes, count), PHOTO_AXES)
    titles = titles_of(settings.method, settings.counterfactual)
    against = "against the class, " if settings.counterfactual else ""
    made = f"{METHOD_TITLES[settings.method]} {against}of layer {subject.layer}, {Path(settings.weights).name}"

    def explain_photos(images, count, classes=chosen):
        found = Explanation(*ask(images, count, classes))
        probabilities = subject.with_groups(subject.probabilities_of(found.logits), groups)

        def write(index, photo, folder, picture):
            maps = maps_of_photo(found, index, subject.class_names)
            headings = {name: [run.heading(photo, name, probabilities, index), made] for name in maps["gradcam"]}
            write_explanations(folder, picture, maps, headings, titles, method.signed, style)
            return zero_maps_of(photo, maps, found, index, method, settings.counterfactual)

        return found.logits, probabilities, write

    if settings.engine == "process":
        print(f"{counted(len(photos), 'photo')} on {device_name()}")
    if len(chosen) > CLASSES_AT_ONCE and settings.engine == "process":
        some = chosen[:CLASSES_AT_ONCE]
        run.announce(photos, meaning, lambda *batch: explain_photos(*batch, some), batch_size, len(some), len(chosen))
    return Work(run, photos, meaning, batch_size, explain_photos, settings.full_size)


def main(arguments=None):
    settings = parse_arguments(arguments)
    if settings.engine == "ray":
        leave_gpus()
    work = prepared(settings)
    code = work.make(command("show_heatmaps.py", work.run.output), engine_of("gradcam_vgg16", settings, work))
    # in order, whichever was written first
    zero = [one for photo in work.photos for one in work.run.notes.get(photo.name, [])]
    if zero:
        print(f"{counted(len(zero), 'map')} {'is' if len(zero) == 1 else 'are'} zero everywhere, the first {zero[0]}")
    return code


if __name__ == "__main__":
    run_script(main)
