"""Explain any Keras network: Grad-CAM and its family, guided backpropagation and guided Grad-CAM.

    python gradcam_vgg16.py                                   # the demo pictures, about half a minute
    python gradcam_vgg16.py my_photos --classes all --output outputs/mine
    python gradcam_vgg16.py my_photos --weights imagenet      # Keras's own VGG-16, 553 MB once
    python gradcam_vgg16.py my_photos --weights resnet.keras --preprocess tf --method layer-cam

For each photo and class it writes, below the output folder, gradcam_for_<class>, guided_backprop_for_<class> and
guided_gradcam_for_<class> as .npy, unscaled, and as .jpg, panel_for_<class>.jpg with the photo and all three, and a
row of predictions.csv. The same command again does only what is missing. A file of weights may hold any network of
Keras's own layers: Sequential, functional or nested, ending in softmax, sigmoid or neither.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from camlib.backend import compiled, device_name, differentiate

# isort: split
import keras
import numpy as np
from keras import ops

from camlib.cam_family import METHODS, score_cam_masks
from camlib.console import ArgumentParser, UserError, run_script
from camlib.maps import PANEL_TITLES, SIGNED, MapRun, photo_folder, probabilities_of, scale_of, write_map, write_panel
from camlib.networks import (
    IMAGENET_GROUPS,
    PREPROCESSING,
    Meaning,
    file_sha256,
    imagenet_names,
    imagenet_vgg16,
    input_shape_of,
    load_network,
    parse_preprocessing,
    read_class_names,
    set_dtype,
)
from camlib.photos import find_photos
from camlib.watching import both_sides, guided_rule, survey, watched
from data.draw_demo import demo_folder

# ---------------------------------------------------------------- settings

MODEL = Path(__file__).parent / "models" / "vgg16_4class.h5"
OUTPUT = Path("outputs/gradcam")
CHUNK = 32  # changed photos per forward pass of Score-CAM and Ablation-CAM
CONVENTIONS = (
    "gradcam_for_<class>.npy: float32 (h, w), the map of `method` of the layer at its own size, Y_c the logit; "
    "grad-cam is ReLU(sum_k alpha_k A_k), alpha_k = mean of dY_c/dA_k. guided_backprop_for_<class>.npy: float32 "
    "(H, W, 3), signed gradient of Y_c with respect to the network's input, RGB. guided_gradcam_for_<class>.npy: the "
    "latter times the former, enlarged bilinearly. None is scaled; the pictures are, to the largest value among the "
    "photo's classes."
)
CLASSES_AT_ONCE = 8  # per forward pass: each takes its own part of the compiled program
FLOAT16_SCALE = 4096.0  # of gradients, which float16 holds down to 6e-8 only
PREDICTED = -1  # stands for "the class the network predicts" among class indices

# ---------------------------------------------------------------- mathematics


class Explanation(NamedTuple):
    """What an explainer returns, for R classes of each of N photos.

    Attributes:
        logits: float32 (N, C).
        outputs: float32 (N, C), the network's own.
        chosen: int32 (R, N), the classes explained.
        features: float32 (N, h, w, K), the layer's output A.
        cams: float32 (R, N, h, w).
        guided: float32 (R, N, H, W, channels), guided gradients of the score with respect to the network's input.
        products: float32 like guided, guided Grad-CAM. Both None where they are not asked for.
    """

    logits: object
    outputs: object
    chosen: object
    features: object
    cams: object
    guided: object
    products: object


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


def targets_of(class_count, groups=()):
    """Which classes each class, and each group of classes, stands for: bool (C + groups, C)."""
    targets = np.eye(class_count + len(groups), class_count, dtype=bool)
    for row, group in enumerate(groups, start=class_count):
        targets[row, list(group)] = True
    return targets


def guided_grad_cam(guided_gradients, cam):
    """Multiply guided gradients (N, H, W, C) by the map (N, h, w), enlarged bilinearly with half-pixel centres."""
    size = tuple(guided_gradients.shape[1:3])
    return guided_gradients * ops.image.resize(cam[..., None], size, interpolation="bilinear")


def explainer(network, plan, layer=None, method="grad-cam", **settings):
    """Compile one kind of map, guided backpropagation and guided Grad-CAM.

    Args:
        network: keras.Model, images to logits or probabilities.
        plan: Survey of the network.
        layer: str, path of the layer whose output is A; default: plan.target.
        method: str, a key of METHODS.
        settings: as for `joint_explainer`.

    Returns:
        as `joint_explainer`, of an Explanation whose `features` and `cams` are those of the one map, and `products`
        its guided Grad-CAM.
    """
    layer = layer or plan.target
    explain_all = joint_explainer(network, plan, [(layer, method)], **settings)

    def explain(images, classes, count=None):
        found = explain_all(images, classes, count)
        cams, products = found.cams[0], None
        if found.guided is not None:
            products = ops.stack([guided_grad_cam(*pair) for pair in zip(found.guided, cams, strict=True)])
        return found._replace(features=found.features[layer], cams=cams, products=products)

    return explain


def joint_explainer(network, plan, maps, counterfactual=False, with_guided=True, groups=()):
    """Compile several kinds of map of a network together, and guided backpropagation.

    True and guided gradients of all maps come from the same forward pass, one for every CLASSES_AT_ONCE classes.
    Score-CAM runs the network again for each feature, Ablation-CAM what of it lies behind the layer.

    Args:
        network: keras.Model, images to logits or probabilities.
        plan: Survey of the network.
        maps: list of (layer, method): the path of the layer whose output is A, of its last run if it is shared, and a
            key of METHODS.
        counterfactual: bool, negate the gradients: what speaks against the class (Selvaraju et al. 2017, section 3.3).
        with_guided: bool, do guided backpropagation too.
        groups: list of lists of class indices, each explained as one class and numbered after the network's own.

    Returns:
        function of (images float32 (N, H, W, channels), classes int32 (R, N), PREDICTED where the network is to choose,
        count: how many of the images matter, default all) -> Explanation; its `features` are a dict by layer, its
        `cams` a list in the order of `maps`, zero for images that do not matter where a method takes long.
    """
    maps = [(layer, METHODS[method]) for layer, method in maps]
    layers = list(dict.fromkeys(layer for layer, _ in maps))
    targets = targets_of(plan.class_count, groups)
    sign = -1.0 if counterfactual else 1.0

    def run(images, tap):
        """(logits, outputs) of the network; `tap` is handed each layer's features and returns what to go on with."""
        runs_left = {layer: plan.runs[layer] for layer in layers}

        def tap_last_run(path, output):
            if path in runs_left:
                runs_left[path] -= 1
                return output if runs_left[path] else tap(path, output)
            return output

        with watched(tap_last_run) as record:
            outputs = network(images, training=False)
        return both_sides(record.logits_of(outputs)), outputs

    def explain(images, classes):
        logits, outputs, features, pull_to_features, pull_to_images = differentiate(run, images)
        # in float16 small gradients would vanish; they are linear in u, so that it may be large
        scale = FLOAT16_SCALE if keras.backend.standardize_dtype(logits.dtype) == "float16" else 1.0
        predicted = ops.cast(ops.argmax(logits, axis=1), "int32")
        features = {layer: ops.cast(values, "float32") for layer, values in features.items()}
        found = []
        for wanted in ops.unstack(classes, axis=0):
            chosen = ops.where(wanted == PREDICTED, predicted, wanted)  # (N,)
            _, u = score_of_targets(ops.cast(logits, "float32"), ops.take(targets, chosen, axis=0))
            u = ops.cast(u * scale, logits.dtype)
            gradients = pull_to_features(u) if any(method.needs == "gradients" for _, method in maps) else {}
            gradients = {layer: sign / scale * ops.cast(values, "float32") for layer, values in gradients.items()}
            cams = [cam_of_one_pass(method, features[layer], gradients.get(layer)) for layer, method in maps]
            guided = None
            if with_guided:
                with guided_rule():
                    guided = ops.cast(pull_to_images(u), "float32") / scale
            found.append((chosen, guided, *cams))
        parts = [None if part[0] is None else ops.stack(part) for part in zip(*found, strict=True)]
        chosen, guided, *cams = parts
        return Explanation(
            ops.cast(logits, "float32"), ops.cast(outputs, "float32"), chosen, features, cams, guided, None
        )

    explain_some = compiled(explain, network)
    changers = [changer_of(method, layer, network, run) for layer, method in maps]

    def explain_all(images, classes, count=None):
        count = len(images) if count is None else count
        found = joined([explain_some(images, rows) for rows in portions(classes)], len(classes))
        cams = list(found.cams)
        for number, ((layer, method), logits_of_changes) in enumerate(zip(maps, changers, strict=True)):
            if logits_of_changes:
                features = found.features[layer]
                pairs = zip(images[:count], features[:count], strict=True)
                changed = ops.stack([logits_of_changes(*pair) for pair in pairs])  # (count, K, C)
                some = [
                    cam_of_scores(method, features[:count], changed, found.logits[:count],
                                  ops.take(targets, chosen[:count], axis=0))
                    for chosen in found.chosen
                ]  # fmt: skip
                cams[number] = ops.pad(ops.stack(some), ((0, 0), (0, len(images) - count), (0, 0), (0, 0)))
        return found._replace(cams=cams)

    return explain_all


def portions(classes):
    """Split classes (R, N) into rows of CLASSES_AT_ONCE; the last is filled up, so that all have one shape."""
    rows = len(classes)
    if rows <= CLASSES_AT_ONCE:
        return [classes]
    chosen = [
        np.minimum(np.arange(start, start + CLASSES_AT_ONCE), rows - 1) for start in range(0, rows, CLASSES_AT_ONCE)
    ]
    return [ops.take(classes, indices, axis=0) for indices in chosen]


def joined(parts, rows):
    """The Explanations of `portions` as one of so many rows."""
    if len(parts) == 1:
        return parts[0]

    def join(values):
        return None if values[0] is None else ops.concatenate(values)[:rows]

    cams = [join(values) for values in zip(*(part.cams for part in parts), strict=True)]
    chosen, guided = join([part.chosen for part in parts]), join([part.guided for part in parts])
    return parts[0]._replace(chosen=chosen, cams=cams, guided=guided)


def cam_of_one_pass(method, features, gradients):
    """A map (N, h, w) from features and gradients (N, h, w, K); None where a method needs scores of changed photos."""
    if method.needs == "gradients":
        return method.function(features, gradients)
    return method.function(features) if method.needs == "nothing" else None


def cam_of_scores(method, features, changed, logits, targets):
    """A map (N, h, w) from logits of changed photos (N, K, C), those of the photos (N, C) and targets bool (N, C)."""
    scores, _ = score_of_targets(changed, targets[:, None])  # (N, K)
    score, _ = score_of_targets(logits, targets)
    return method.function(features, scores, score)


def changer_of(method, layer, network, run):
    """What gives the logits (K, C) of a photo changed feature by feature, or None where a method does without."""
    if method.needs == "masked scores":
        logits_of = compiled(lambda images: run(images, lambda path, a: a)[0], network)
        return lambda image, features: logits_through_masks(logits_of, image, features)
    if method.needs == "ablated scores":

        def logits_behind(images, features):
            return run(images, lambda path, a: ops.cast(features, a.dtype) if path == layer else a)[0]

        logits_behind = compiled(logits_behind, network)
        return lambda image, features: logits_without_features(logits_behind, image, features)
    return None


def logits_through_masks(logits_of, image, features):
    """The logits of a photo seen through one feature at a time, for Score-CAM.

    Args:
        logits_of: function, (N, H, W, channels) -> (N, C).
        image: float32 (H, W, channels), the network's input; zero is what a mask hides.
        features: float32 (h, w, K).

    Returns:
        float32 (K, C).
    """
    masks = score_cam_masks(features[None], *image.shape[:2])[0]  # (H, W, K)
    masks = ops.moveaxis(masks, -1, 0)[..., None]  # (K, H, W, 1)
    return in_chunks(lambda chosen: logits_of(image * ops.take(masks, chosen, axis=0)), len(masks))


def logits_without_features(logits_behind, image, features):
    """The logits of a photo with one feature set to zero at a time, for Ablation-CAM.

    Args:
        logits_behind: function of (images (N, H, W, channels), features (N, h, w, K)) -> (N, C).
        image: float32 (H, W, channels), the network's input.
        features: float32 (h, w, K).

    Returns:
        float32 (K, C).
    """
    channels = features.shape[-1]
    images = ops.repeat(image[None], CHUNK, axis=0)

    def logits_without(chosen):
        kept = 1 - ops.one_hot(chosen, channels)[:, None, None]  # (CHUNK, 1, 1, K)
        return logits_behind(images, features * kept)

    return in_chunks(logits_without, channels)


def in_chunks(function, count):
    """Apply function((CHUNK,) indices) -> (CHUNK, C) to 0 .. count - 1: float32 (count, C)."""
    chosen = [np.minimum(np.arange(start, start + CHUNK), count - 1) for start in range(0, count, CHUNK)]
    return ops.cast(ops.concatenate([function(indices) for indices in chosen])[:count], "float32")


# ---------------------------------------------------------------- the script


def parse_arguments(arguments):
    parser = ArgumentParser(__doc__)
    parser.add_argument("places", type=Path, nargs="*", metavar="PHOTO_OR_FOLDER",
                        help="default: the demo set's val and both")  # fmt: skip
    parser.add_argument(
        "--weights", default="4class", metavar="4class|imagenet|FILE", help="the network, .h5 or .keras"
    )
    parser.add_argument("--layer", metavar="NAME", help="whose output the method weighs, nested/layer in a nested "
                        "network; default: the last with a spatial output, pooling aside")  # fmt: skip
    parser.add_argument("--classes", nargs="+", default=["predicted"], metavar="predicted|all|NAME|INDEX",
                        help="which classes to explain; with ImageNet's also dog, cat, bird, horse")  # fmt: skip
    parser.add_argument("--method", default="grad-cam", choices=METHODS, help="the kind of map")
    parser.add_argument("--counterfactual", action="store_true", help="map what speaks against the class")
    parser.add_argument("--no-guided", action="store_true", help="leave guided backpropagation out")
    parser.add_argument("--guided-anyway", action="store_true",
                        help="use the true gradient at activations that are no ReLU")  # fmt: skip
    parser.add_argument("--preprocess", metavar="|".join([*PREPROCESSING, "SCALE,OFFSET"]),
                        help="what a pixel of 0..255 becomes; default: what the file says")  # fmt: skip
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="one class a line; default: what the file says"
    )
    parser.add_argument("--size", type=int, metavar="N", help="network input, N x N pixels; default: as trained")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"),
                        help="what the network computes in")  # fmt: skip
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where the maps go")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos per forward pass")
    parser.add_argument("--overwrite", action="store_true", help="replace maps made with other settings")
    parser.add_argument("--trust-model", action="store_true", help="let the model file run code")
    settings = parser.parse_args(arguments)
    parser.require(settings, size=8, batch_size=1)
    if settings.counterfactual and METHODS[settings.method].needs != "gradients":
        parser.error(
            f"--counterfactual negates gradients, which {settings.method} does without; expected another --method"
        )
    return settings


def load(settings):
    """The network to explain, its Meaning or None, and what identifies it in run.json."""
    if settings.weights == "imagenet":
        return *imagenet_vgg16(), "keras imagenet"
    path = MODEL if settings.weights == "4class" else Path(settings.weights)
    return *load_network(path, settings.trust_model), file_sha256(path)


def check_layer(plan, name):
    """Raise UserError, with the names to choose from, unless the layer exists and its output is (N, h, w, K)."""
    if name is not None and name not in plan.spatial:
        names = ", ".join(plan.spatial)
        raise UserError(f"--layer {name} is not a layer with a spatial output; expected one of {names}")
    if name is None and plan.target is None:
        raise UserError("the network has no layer with a spatial output, so it has nothing to map")


def check_guided(plan, way_out):
    """Raise UserError, which ends with `way_out`, where guided backpropagation is not defined."""
    if plan.others:
        path, kind = plan.others[0]
        where = f"layer {path!r}" if path else "the network's own code"
        more = f" and {len(plan.others) - 1} more activations are" if len(plan.others) > 1 else " is"
        raise UserError(
            f"{where} ({kind}){more} no ReLU that is known as one, and guided backpropagation is not defined there; "
            f"{way_out}"
        )


def announce_guided(plan):
    """Say where guided backpropagation changes the gradient."""
    kinds = Counter(kind for _, kind in plan.relus)
    print(
        f"guided backpropagation through {', '.join(f'{count} {kind}' for kind, count in kinds.items()) or 'no ReLU'}"
    )


def chosen_classes(wanted, class_names, groups=()):
    """Class indices, PREDICTED and groups among them, for what the user wrote after --classes.

    Args:
        wanted: list of str.
        class_names: list of C str.
        groups: names of groups of classes, numbered from C on.
    """
    if wanted == ["all"]:
        return list(range(len(class_names)))
    known = [*class_names, *groups]
    chosen = []
    for name in wanted:
        if name == "predicted":
            chosen.append(PREDICTED)
        elif name in known:
            chosen.append(known.index(name))
        elif name.isdecimal() and int(name) < len(class_names):
            chosen.append(int(name))
        else:
            some = ", ".join([*groups, *class_names][:10]) + (", ..." if len(known) > 10 else "")
            raise UserError(
                f"--classes {name} is not a class; expected predicted, all, an index below {len(class_names)}, or "
                f"one of {some}"
            )
    return list(dict.fromkeys(chosen))


def write_explanations(folder, photo, maps, title, signed):
    """Write one photo's maps and panels.

    Args:
        folder: Path.
        photo: uint8 (H, W, 3), for display.
        maps: dict of kind -> dict of class name -> float (h, w) or (H, W, 3).
        title: str, the method's name.
        signed: bool, whether the method's maps have two signs.
    """
    scales = {
        kind: scale_of(SIGNED[kind] or (kind == "gradcam" and signed), of_classes.values())
        for kind, of_classes in maps.items()
    }
    for name in maps["gradcam"]:
        for kind, of_classes in maps.items():
            write_map(folder, kind, name, of_classes[name], photo, scales[kind])
        titles = PANEL_TITLES | {"gradcam": title}
        panels = [(titles[kind], of_classes[name], scales[kind]) for kind, of_classes in maps.items()]
        write_panel(folder / f"panel_for_{name}.jpg", photo, panels)


def complete_meaning(meaning, settings, plan, shape):
    """The Meaning of a network's input and output, and where each part of it comes from, in words.

    Args:
        meaning: Meaning, what the file says, or None.
        settings: the user's.
        plan: Survey of the network.
        shape: (H, W, channels) of its input.

    Raises:
        UserError: nobody says what the network makes of a pixel, or the class names are not as many as its outputs.
    """
    if settings.preprocess:
        preprocessing, whose = parse_preprocessing(settings.preprocess), f"--preprocess {settings.preprocess}"
    elif meaning:
        preprocessing, whose = {name: getattr(meaning, name) for name in ("scale", "offset", "bgr")}, "as its file says"
    elif plan.rescaling:
        preprocessing, whose = PREPROCESSING["none"], f"since its layer {plan.rescaling!r} rescales"
    else:
        raise UserError(
            f"nothing says what {settings.weights} makes of a pixel; expected --preprocess as the network was trained "
            f"with: {', '.join(PREPROCESSING)} or SCALE,OFFSET"
        )
    for values in (preprocessing["scale"], preprocessing["offset"]):
        if isinstance(values, list) and len(values) != shape[2] or preprocessing["bgr"] and shape[2] != 3:
            raise UserError(f"--preprocess {settings.preprocess} is for RGB; the network takes {shape[2]} channel(s)")
    count = plan.class_count
    if settings.class_names:
        names = read_class_names(settings.class_names)
    elif meaning:
        names = meaning.class_names
    else:
        names = imagenet_names() if count == 1000 else [f"class_{index}" for index in range(count)]
    if len(names) != count:
        raise UserError(f"{len(names):,} class names for {count:,} outputs of the network; expected one each")
    interpolation = meaning.interpolation if meaning else "area"
    return Meaning(names, *shape, **preprocessing, interpolation=interpolation), whose


def check_outputs(outputs, logits, ending):
    """Make sure that the logits found in the network are those behind its outputs.

    Raises:
        UserError: they are not, or the numbers are not finite.
    """
    if not np.isfinite(outputs).all() or not np.isfinite(logits).all():
        raise UserError(
            "the network's outputs are not finite numbers; expected another --preprocess, or --dtype float32 if it was "
            "float16"
        )
    expected = logits if ending == "linear" else probabilities_of(logits, ending)
    # of a single unit the logits are those of both sides
    if not np.allclose(outputs, expected[:, -outputs.shape[1] :], atol=1e-4, rtol=2e-2):  # as half precision keeps it
        raise UserError(
            f"the network's outputs are not the {ending} of the logits found in it; please report this network"
        )
    # Logits add up to one only by chance, which the rounding of a softmax leaves little room for
    in_half = np.array_equal(outputs, outputs.astype(np.float16))
    add_up = (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-2 if in_half else 1e-5)
    if ending == "linear" and outputs.shape[1] > 1 and add_up:
        raise UserError(
            "the network's outputs are probabilities, but no softmax was found that makes them, so that its "
            "logits cannot be told; expected a network that ends in softmax, sigmoid or neither"
        )


def maps_of_photo(found, index, names, bgr):
    """One photo's maps: dict of kind -> dict of class name -> float (h, w), or (H, W, channels) in RGB.

    Args:
        found: Explanation of a batch, NumPy arrays.
        index: int, of the photo in the batch.
        names: list of str, classes and groups of classes.
        bgr: bool, the network's channels are blue, green, red.
    """
    chosen = [names[row[index]] for row in found.chosen]
    maps = {"gradcam": [values[index] for values in found.cams]}
    if found.guided is not None:
        order = slice(None, None, -1) if bgr else slice(None)
        maps["guided_backprop"] = [values[index][..., order] for values in found.guided]
        maps["guided_gradcam"] = [values[index][..., order] for values in found.products]
    return {kind: dict(zip(chosen, of_kind, strict=True)) for kind, of_kind in maps.items()}


def why_zero(method, counterfactual, features):
    """Why a map of a method, and why guided gradients may be zero everywhere: dict of kind -> a sentence's end."""
    if not features.any():
        cut = "the layer's features are zero there"
    elif method.signed or method.needs == "nothing":
        cut = "the class's score does not depend on the layer there"
    else:
        cut = "its weighted features are nowhere positive, and the ReLU cuts what is negative"
        if method.needs == "gradients" and not counterfactual:
            cut += "; --counterfactual shows that"
    return {"gradcam": cut, "guided_backprop": "no positive gradient reaches the photo"}


def announce(settings, meaning, whose, plan, layer):
    """Say what is about to be computed of what."""
    score = "its output" if plan.ending == "linear" else f"the input of its last {plan.ending}"
    print(f"network {settings.weights}: {meaning.preprocessing}, {whose}; the score is {score}")
    shared = f", the last of its {plan.runs[layer]} runs" if plan.runs[layer] > 1 else ""
    print(f"{settings.method} of layer {layer}, {'x'.join(map(str, plan.spatial[layer]))}{shared}")
    if not settings.no_guided:
        if not settings.guided_anyway:
            check_guided(plan, "--no-guided leaves it out, --guided-anyway takes the true gradient there")
        announce_guided(plan)


def main(arguments=None):
    settings = parse_arguments(arguments)
    network, meaning, identity = load(settings)
    set_dtype(network, settings.dtype)
    shape = input_shape_of(network, meaning, settings.size)
    plan = survey(network, shape)
    check_layer(plan, settings.layer)
    layer, method = settings.layer or plan.target, METHODS[settings.method]
    meaning, whose = complete_meaning(meaning, settings, plan, shape)
    groups = IMAGENET_GROUPS if meaning.class_names == imagenet_names() else {}
    chosen = chosen_classes(settings.classes, meaning.class_names, groups)
    places = settings.places or [demo_folder() / "val", demo_folder() / "both"]
    photos = find_photos(places)
    announce(settings, meaning, whose, plan, layer)
    signed = method.signed
    run = MapRun(
        settings.output,
        {"script": "gradcam_vgg16.py", "photos": [str(place.resolve()) for place in places],
         "weights": settings.weights, "model_sha256": identity, "layer": layer, "classes": settings.classes,
         "method": settings.method, "signed": signed, "counterfactual": settings.counterfactual,
         "guided": not settings.no_guided,
         "preprocessing": meaning.preprocessing, "dtype": settings.dtype},
        CONVENTIONS,
        meaning.class_names,
        settings.overwrite,
    )  # fmt: skip
    explain_batch = explainer(
        network, plan, layer, settings.method, counterfactual=settings.counterfactual,
        with_guided=not settings.no_guided, groups=list(groups.values()),
    )  # fmt: skip
    zero_maps = []  # (photo's name, class name, why)

    def explain(images, done):
        classes = np.repeat(np.array(chosen, np.int32)[:, None], len(images), axis=1)  # (R, N)
        found = explain_batch(ops.convert_to_tensor(meaning.prepare(images)), ops.convert_to_tensor(classes), len(done))
        found = Explanation(*(None if part is None else ops.convert_to_numpy(part) for part in found))
        check_outputs(found.outputs, found.logits, plan.ending)
        for index, (photo, picture) in enumerate(done):
            maps = maps_of_photo(found, index, [*meaning.class_names, *groups], meaning.bgr)
            write_explanations(photo_folder(run.output, photo), picture, maps, method.title, signed)
            zero_maps.extend(
                (photo.name, name, kind, why_zero(method, settings.counterfactual, found.features[index]))
                for kind in ("gradcam", "guided_backprop")
                for name, values in maps.get(kind, {}).items()
                if not values.any()
            )
        return found.logits, probabilities_of(found.logits, "sigmoid" if plan.units == 1 else plan.ending)

    print(f"{len(photos):,} photos on {device_name()}")
    # of many classes the maps of a batch would fill the memory
    batch_size = max(1, settings.batch_size // -(-len(chosen) // CLASSES_AT_ONCE))
    code = run.make(photos, meaning, batch_size, explain, f"python show_heatmaps.py {run.output}")
    if zero_maps:
        photo, name, kind, why = zero_maps[0]
        print(f"{len(zero_maps):,} maps are zero everywhere, the first {kind}_for_{name} of {photo}: {why[kind]}")
    return code


if __name__ == "__main__":
    run_script(main)
