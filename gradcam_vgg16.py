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
import numpy as np
from keras import ops

from camlib.cam_family import METHODS, score_cam_masks
from camlib.console import ArgumentParser, UserError, run_script
from camlib.images import find_photos
from camlib.maps import PANEL_TITLES, MapRun, photo_folder, probabilities_of, scale_of, write_map, write_panel
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
from camlib.watching import guided_rule, survey, watched
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
        products: float32 like guided, guided gradients times enlarged map. Both None where they are not asked for.
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


def guided_grad_cam(guided_gradients, cam):
    """Multiply guided gradients (N, H, W, C) by the map (N, h, w), enlarged bilinearly with half-pixel centres."""
    size = tuple(guided_gradients.shape[1:3])
    return guided_gradients * ops.image.resize(cam[..., None], size, interpolation="bilinear")


def explainer(network, plan, layer=None, method="grad-cam", counterfactual=False, with_guided=True, groups=()):
    """Compile the maps of a method, guided backpropagation and the product of both.

    The network runs once, whatever the number of classes: true and guided gradients come from the same forward pass.
    Score-CAM runs it again for each feature, Ablation-CAM what of it lies behind the layer.

    Args:
        network: keras.Model, images to logits or probabilities.
        plan: Survey of the network.
        layer: str, path of the layer whose output is A, of its last run if it is shared; default: plan.target.
        method: str, a key of METHODS.
        counterfactual: bool, negate the gradients: what speaks against the class (Selvaraju et al. 2017, section 3.3).
        with_guided: bool, do guided backpropagation too.
        groups: list of lists of class indices, each explained as one class and numbered after the network's own.

    Returns:
        function of (images float32 (N, H, W, channels), classes int32 (R, N), PREDICTED where the network is to choose)
        -> Explanation.
    """
    layer, method = layer or plan.target, METHODS[method]
    targets = np.eye(plan.class_count + len(groups), plan.class_count, dtype=bool)  # (C + groups, C)
    for row, group in enumerate(groups, start=plan.class_count):
        targets[row, list(group)] = True

    def run(images, tap):
        """(logits, outputs) of the network; `tap` is handed the features and returns what to go on with."""
        runs_left = plan.runs[layer]

        def tap_last_run(path, output):
            nonlocal runs_left
            runs_left -= path == layer
            return tap(output) if path == layer and not runs_left else output

        with watched(tap_last_run) as record:
            outputs = network(images, training=False)
        return record.logits_of(outputs)[0], outputs

    def explain(images, classes):
        logits, outputs, features, pull_to_features, pull_to_images = differentiate(run, images)
        predicted = ops.cast(ops.argmax(logits, axis=1), "int32")
        features32 = ops.cast(features, "float32")
        found = []
        for wanted in ops.unstack(classes, axis=0):
            chosen = ops.where(wanted == PREDICTED, predicted, wanted)  # (N,)
            _, u = score_of_targets(ops.cast(logits, "float32"), ops.take(targets, chosen, axis=0))
            u = ops.cast(u, logits.dtype)
            cam = guided = product = None
            if method.needs == "gradients":
                gradients = ops.cast(pull_to_features(u), "float32")
                cam = method.function(features32, -gradients if counterfactual else gradients)
            elif method.needs == "nothing":
                cam = method.function(features32)
            if with_guided:
                with guided_rule():
                    guided = ops.cast(pull_to_images(u), "float32")
                product = None if cam is None else guided_grad_cam(guided, cam)
            found.append((chosen, cam, guided, product))
        parts = [None if part[0] is None else ops.stack(part) for part in zip(*found, strict=True)]
        chosen, *maps = parts
        return Explanation(ops.cast(logits, "float32"), ops.cast(outputs, "float32"), chosen, features32, *maps)

    explain = compiled(explain, network)
    if method.needs in ("gradients", "nothing"):
        return explain
    logits_of = compiled(lambda images: run(images, lambda a: a)[0], network)
    logits_behind = compiled(lambda images, features: run(images, lambda a: ops.cast(features, a.dtype))[0], network)

    def explain_by_changes(images, classes):
        found = explain(images, classes)
        if method.needs == "masked scores":
            changed = [logits_through_masks(logits_of, *pair) for pair in zip(images, found.features, strict=True)]
        else:
            changed = [
                logits_without_features(logits_behind, *pair) for pair in zip(images, found.features, strict=True)
            ]
        changed = ops.stack(changed)  # (N, K, C)
        cams = []
        for chosen in found.chosen:
            wanted = ops.take(targets, chosen, axis=0)  # (N, C)
            scores, _ = score_of_targets(changed, wanted[:, None])  # (N, K)
            score, _ = score_of_targets(found.logits, wanted)
            cams.append(method.function(found.features, scores, score))
        cams = ops.stack(cams)
        if with_guided:
            products = [guided_grad_cam(*pair) for pair in zip(found.guided, cams, strict=True)]
            found = found._replace(products=ops.stack(products))
        return found._replace(cams=cams)

    return explain_by_changes


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
    for name, least in (("size", 8), ("batch_size", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} {value}: expected {least} or more")
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


def check_guided(plan, settings):
    """Say where guided backpropagation changes the gradient, or raise UserError where it is not defined."""
    if settings.no_guided:
        return
    if plan.others and not settings.guided_anyway:
        path, kind = plan.others[0]
        more = f" and {len(plan.others) - 1} more activations are" if len(plan.others) > 1 else " is"
        raise UserError(
            f"layer {path!r} ({kind}){more} no ReLU, for which guided backpropagation is not defined; --no-guided "
            "leaves it out, --guided-anyway takes the true gradient there"
        )
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
        elif name.isdigit() and int(name) < len(class_names):
            chosen.append(int(name))
        else:
            some = ", ".join([*groups, *class_names][:10]) + (", ..." if len(known) > 10 else "")
            raise UserError(
                f"--classes {name} is not a class; expected predicted, all, an index below {len(class_names)}, or "
                f"one of {some}"
            )
    return list(dict.fromkeys(chosen))


def write_explanations(folder, photo, maps, title):
    """Write one photo's maps and panels.

    Args:
        folder: Path.
        photo: uint8 (H, W, 3), for display.
        maps: dict of kind -> dict of class name -> float (h, w) or (H, W, 3).
        title: str, the method's name.
    """
    scales = {kind: scale_of(kind, of_classes.values()) for kind, of_classes in maps.items()}
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
        UserError: they are not.
    """
    expected = logits if ending == "linear" else probabilities_of(logits, ending)
    if not np.allclose(outputs, expected, atol=1e-4, rtol=2e-2):  # the least that half precision keeps
        raise UserError(
            f"the network's outputs are not the {ending} of the logits found in it; please report this network"
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


def announce(settings, meaning, whose, plan, layer):
    """Say what is about to be computed of what."""
    score = "its output" if plan.ending == "linear" else f"the input of its last {plan.ending}"
    print(f"network {settings.weights}: {meaning.preprocessing}, {whose}; the score is {score}")
    shared = f", the last of its {plan.runs[layer]} runs" if plan.runs[layer] > 1 else ""
    print(f"{settings.method} of layer {layer}, {'x'.join(map(str, plan.spatial[layer]))}{shared}")
    check_guided(plan, settings)


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
    run = MapRun(
        settings.output,
        {"script": "gradcam_vgg16.py", "photos": [str(place.resolve()) for place in places],
         "weights": settings.weights, "model_sha256": identity, "layer": layer, "classes": settings.classes,
         "method": settings.method, "counterfactual": settings.counterfactual, "guided": not settings.no_guided,
         "preprocessing": meaning.preprocessing, "dtype": settings.dtype},
        CONVENTIONS,
        meaning.class_names,
        settings.overwrite,
    )  # fmt: skip
    explain_batch = explainer(
        network, plan, layer, settings.method, settings.counterfactual, not settings.no_guided, list(groups.values())
    )
    zero_maps = []  # (photo's name, class name)

    def explain(images, done):
        classes = np.repeat(np.array(chosen, np.int32)[:, None], len(images), axis=1)  # (R, N)
        found = explain_batch(ops.convert_to_tensor(meaning.prepare(images)), ops.convert_to_tensor(classes))
        found = Explanation(*(None if part is None else ops.convert_to_numpy(part) for part in found))
        check_outputs(found.outputs, found.logits, plan.ending)
        for index, (photo, picture) in enumerate(done):
            maps = maps_of_photo(found, index, [*meaning.class_names, *groups], meaning.bgr)
            write_explanations(photo_folder(run.output, photo), picture, maps, method.title)
            zero_maps.extend((photo.name, name) for name, values in maps["gradcam"].items() if not values.any())
        return found.logits, probabilities_of(found.logits, plan.ending)

    print(f"{len(photos):,} photos on {device_name()}")
    code = run.make(photos, meaning, settings.batch_size, explain, f"python show_heatmaps.py {run.output}")
    if zero_maps:
        photo, name = zero_maps[0]
        print(
            f"{len(zero_maps):,} maps are zero everywhere, the first that of {name} for {photo}: the weighted features "
            "are nowhere positive there, and the ReLU cuts what is negative; --counterfactual shows that"
        )
    return code


if __name__ == "__main__":
    run_script(main)
