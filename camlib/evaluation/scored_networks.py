"""Networks that are scored, with everything compiled that makes their maps, and that asks them of changed photos."""

from dataclasses import replace
from functools import partial

import numpy as np
from keras import ops

from camlib.attribution import GUIDED, METHODS, MapOptions
from camlib.attribution.cam import CAM
from camlib.attribution.classifier import Classifier, check_guided
from camlib.attribution.gradcam import CompiledMaps
from camlib.attribution.methods import targets_of
from camlib.attribution.sampling import options_for
from camlib.backend import compiled
from camlib.console import Progress, UserError
from camlib.memory import halving
from camlib.networks import identity_of
from camlib.networks.checkpoint import load_network
from camlib.plots.colours import reduced, resize_map

PHOTOS_AT_ONCE = 20  # changed photos per forward pass, at most


def of_gradients(method, guided, cam, extent=None):
    """One value a pixel of guided gradients: their largest magnitude among the channels (Simonyan et al. 2014).

    Args:
        method: one of GUIDED.
        guided: float32 (R, N, H, W, channels).
        cam: float32 (R, N, h, w), which guided Grad-CAM multiplies them by.
        extent: the part of the photo that it covers; nothing is left outside it.

    Returns:
        float32 (R, N, H, W).
    """
    values = np.abs(guided).max(axis=-1)
    if method == "guided-backprop":
        return values
    size = values.shape[2:]
    return values * np.stack([[resize_map(one, *size, extent) for one in of_class] for of_class in cam])


def one_value_of(kind, maps):
    """Maps (R, N, h, w) of a MapKind as they are, (R, N, H, W, channels) by one number a pixel: see `reduced`."""
    return maps if maps.ndim == 4 else np.stack([[reduced(kind.method, one) for one in of_class] for of_class in maps])


class ScoredNetwork(Classifier):
    """A network whose maps are scored, with everything of it compiled once.

    Args:
        path: Path of its file.
        kinds: list of its MapKind.
        steps: int, of the deletion and insertion curves.
        options: as for NetworkOptions.

    Raises:
        UserError: the network has no probabilities, or a kind of map does not apply to it.
    """

    def __init__(self, path, kinds, steps, **options):
        self.path = path
        architecture = options.get("architecture")
        network, input_spec = load_network(path, options.get("trust", False), architecture, options.get("largest"))
        self.identity = "/".join(identity_of(path, architecture).values())
        super().__init__(network, input_spec, path, **options)
        if self.input_spec.channels > 3:
            raise UserError(
                f"{path} takes bands, whose photos are not scored; expected a network of RGB or grey photos"
            )
        self.name, self.layer = path.stem, self.layer_to_map()
        if not self.has_probabilities:
            raise UserError(
                f"{path} gives scores without probabilities, which an evaluation needs; expected a classifier (a "
                "single linear unit is one with two --class-names)"
            )
        groups, structure = list(self.groups.values()), self.structure
        self.targets_of = partial(targets_of, class_count=structure.class_count, groups=groups)
        for kind in kinds:
            if kind.layer:
                self.layer_to_map(kind.layer)
        self.guided = any(kind.method in GUIDED for kind in kinds)
        if self.guided:
            check_guided(structure, f"leave {' and '.join(GUIDED)} of {path} out of --maps")
        if any(kind.method == "deconvnet" for kind in kinds):
            check_guided(structure, f"leave deconvnet of {path} out of --maps", "deconvnet")
        self.fast_kinds = [kind for kind in kinds if not kind.is_slow]
        self.compiled_kinds = [kind for kind in self.fast_kinds if kind.method != "cam"]
        self.explain_cam = None
        if len(self.compiled_kinds) < len(self.fast_kinds):
            cam = CAM(self)
            self.explain_cam, self.cam_cover = cam.run, cam.cover
        self.kinds = {kind.name: replace(kind, cover=self.cover_of_kind(kind)) for kind in kinds}
        self.pairs = list(dict.fromkeys(map(self.pair_of, self.compiled_kinds)))
        self.explain_fast = None
        if self.pairs or not self.explain_cam:  # the network's answers are needed in any case
            self.explain_fast = CompiledMaps(network, structure, self.pairs, with_guided=self.guided, groups=groups)
        self.explain_slow = {kind.name: self.slow_map(kind, groups) for kind in kinds if kind.is_slow}
        self.in_portions = halving(self.maps_at_once, axes=(0, *[1 for _ in self.fast_kinds]))
        self.probability = probability_function(network, structure.output_activation)
        self.curves = deletion_insertion_function(network, structure.output_activation, steps)

    def pair_of(self, kind):
        """(layer, method) whose map the kind is, or is made from."""
        method = "grad-cam" if kind.method in GUIDED else kind.method
        return (kind.layer or self.layer) if METHODS[method].of_layer else None, method

    def slow_map(self, kind, groups):
        """The CompiledMaps of a kind of map that runs the network many times."""
        settings = {"groups": groups, "options": options_for(MapOptions(), self, kind.method)}
        return CompiledMaps(self.network, self.structure, [self.pair_of(kind)], with_guided=False, **settings)

    def cover_of_kind(self, kind):
        """The Cover of photos by a kind of map."""
        return self.cam_cover if kind.method == "cam" else self.cover_of(self.pair_of(kind)[0])

    def labels_of(self, items, count=1):
        """The items' classes, int32, the last again up to `count`, as a batch is filled up."""
        labels = np.array([self.class_names.index(item.class_name) for item in items], np.int32)
        return np.pad(labels, (0, max(0, count - len(labels))), "edge")

    def fast_maps(self, images, labels):
        """All maps that need no more than a forward and a backward pass.

        Args:
            images: float32 (N, H, W, channels), prepared.
            labels: int32 (R, N), the classes to explain.

        Returns:
            (probabilities float (N, C), NaN where the network's numbers or a map are not finite, dict of name ->
            float32 (R, N, h, w)).
        """
        probabilities, *maps = self.in_portions(np.arange(len(images)), len(images), images, labels)
        return probabilities, {kind.name: values for kind, values in zip(self.fast_kinds, maps, strict=True)}

    def maps_at_once(self, chosen, _, images, labels):
        """What `fast_maps` finds for the chosen photos, int (n,), as a tuple."""
        images, labels = images[chosen], labels[:, chosen]
        maps, photos = {}, np.arange(len(images))
        if self.explain_cam:
            of_classes, logits, outputs = map(ops.convert_to_numpy, self.explain_cam(ops.convert_to_tensor(images)))
            cams = np.stack([of_classes[photos, classes] for classes in labels])
            logits = self.checked_logits(outputs, logits, cams)
            maps = {kind.name: cams for kind in self.fast_kinds if kind.method == "cam"}
        if self.explain_fast:
            found = self.explain_fast(ops.convert_to_tensor(images), ops.convert_to_tensor(labels))
            guided = ops.convert_to_numpy(found.guided) if self.guided else None
            for kind in self.compiled_kinds:
                cam = ops.convert_to_numpy(found.cams[self.pairs.index(self.pair_of(kind))])
                if kind.method in GUIDED:
                    extent = self.structure.extent_of(self.pair_of(kind)[0])
                    cam = of_gradients(kind.method, guided, cam, extent)
                maps[kind.name] = one_value_of(kind, cam)
            answers = map(ops.convert_to_numpy, (found.outputs, found.logits))
            logits = self.checked_logits(*answers, *maps.values())
        return self.probabilities(logits), *[maps[kind.name] for kind in self.fast_kinds]

    def slow_maps(self, images, labels):
        """The maps that run the network many times.

        Args:
            images: dict of name -> float32 (N, H, W, channels), prepared: what each map is of.
            labels: int32 (R, N), the classes to explain.

        Returns:
            dict of name -> float32 (R, N, h, w).
        """
        labels, maps = ops.convert_to_tensor(labels), {}
        for number, (name, explain) in enumerate(self.explain_slow.items()):
            with Progress.part(number, len(self.explain_slow)):
                found = ops.convert_to_numpy(explain(ops.convert_to_tensor(images[name]), labels).cams[0])
            maps[name] = one_value_of(self.kinds[name], found)
        return maps


# ---------------------------------------------------------------- what a network says of changed photos


def probability(network, output_activation, images, targets):
    """The sum of the probabilities of each target's classes: float32 (N,).

    Logits become probabilities by softmax. Of one output the second class's probability is that, or its sigmoid.
    """
    outputs = ops.cast(network(images, training=False), "float32")
    if outputs.shape[-1] == 1:  # one unit stands for two classes
        second = ops.sigmoid(outputs) if output_activation == "linear" else outputs
        outputs = ops.concatenate((1 - second, second), axis=-1)
    elif output_activation == "linear":
        outputs = ops.softmax(outputs, axis=-1)
    return ops.sum(outputs * ops.cast(targets, "float32"), axis=-1)


def filled_chunks(count, size):
    """The numbers below `count` in rows of one size, int (R, size); the last row is filled up with the last."""
    return np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)


def probability_function(network, output_activation):
    """Compile the probability of a target among changed photos.

    Args:
        network: keras.Model, images to logits or probabilities.
        output_activation: "softmax", "sigmoid" or "linear", what the network ends in.

    Returns:
        function of (images float32 (N, H, W, channels), targets bool (N, C)) -> float32 (N,): the sum of the
        probabilities of each target's classes. N may be anything; it is filled up to whole chunks.
    """

    of_chunk = compiled(partial(probability, network, output_activation), network)

    def of_all(images, targets):
        found = [
            of_chunk(ops.convert_to_tensor(images[rows]), ops.convert_to_tensor(targets[rows]))
            for rows in filled_chunks(len(images), PHOTOS_AT_ONCE)
        ]
        return np.concatenate([ops.convert_to_numpy(part) for part in found])[: len(images)]

    return of_all


def deletion_insertion_function(network, output_activation, steps):
    """Compile the deletion and insertion curves of a photo (Petsiuk et al. 2018, section 3.2 and algorithm 1).

    Deletion replaces ever more of the photo by the fill, what the map holds for most relevant first; insertion starts
    with the fill and puts the photo's pixels in, in the same order. Pixels are exchanged on the device, 2 steps photos
    for both curves.

    Args:
        network: keras.Model.
        output_activation: as in `probability_function`.
        steps: int, of equal numbers of pixels.

    Returns:
        function of (image float32 (H, W, channels), fill of the same shape, order float32 (H, W) from `pixel_order`,
        target bool (C,)) -> (deletion, insertion), float32 (steps + 1,): the target's probability at each share.
    """
    # what is kept of the photo: pixels whose rank is in [first, last). Deletion's ends are insertion's too.
    shares = np.arange(steps + 1, dtype=np.float32) / steps
    first = np.concatenate((shares, np.zeros(steps - 1, np.float32)))
    last = np.concatenate((np.full(steps + 1, 2, np.float32), shares[1:-1]))
    chosen = filled_chunks(2 * steps, min(PHOTOS_AT_ONCE, 2 * steps))

    def of_kept(image, fill, order, first, last, target):
        kept = (order >= first[:, None, None]) & (order < last[:, None, None])  # (chunk, H, W)
        return probability(network, output_activation, ops.where(kept[..., None], image, fill), target)

    of_kept = compiled(of_kept, network)

    def curves(image, fill, order, target):
        image, fill, order, target = (ops.convert_to_tensor(part) for part in (image, fill, order, target))
        ends = [[ops.convert_to_tensor(bound[rows]) for bound in (first, last)] for rows in chosen]
        parts = [ops.convert_to_numpy(of_kept(image, fill, order, *pair, target)) for pair in ends]
        found = np.concatenate(parts)[: 2 * steps]
        deletion = found[: steps + 1]
        return deletion, np.concatenate((deletion[-1:], found[steps + 1 :], deletion[:1]))

    return curves
