"""Maps from many changed photos: SmoothGrad, integrated and expected gradients, occlusion, RISE; and smoothing.

Each is a function of an `Asked`, a photo and how to ask the network about it, and gives a map of each of R classes:
(R, H, W, channels) of gradients, (R, H, W) of scores, float64. x is the network's input, Y_c the score, g its gradient
dY_c/dx. What is random is drawn from the seed and the photo's content alone: a photo has the same map in any batch,
shard and order.
"""

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from keras import ops

from camlib.attribution import METHODS, windows_of
from camlib.attribution.methods import CLASSES_AT_ONCE
from camlib.attribution.tracing import ForwardPass, tapped_run
from camlib.backend import compiled, widened
from camlib.console import Progress, UserError
from camlib.memory import available_memory, halving
from camlib.photos import SHIPPED_PHOTOS, find_photos
from camlib.preprocessing import chosen_classes

SAMPLES_AT_ONCE = 32  # changed photos per pass, where memory has room for them
SHARE_OF_MEMORY = 0.5  # that they may take of what is free
MASK_CELLS, KEPT = 8, 0.5  # of RISE: cells along each side of a mask, and the probability that one is seen
MOST_BACKGROUNDS = 64  # photos that stand for no photo at expected gradients
MOST_SHIFT = 1 / 16  # of a side, by which augmentation smoothing moves a photo

# ---------------------------------------------------------------- what a photo is compared with


def options_for(options, classifier, method):
    """The MapOptions that a Classifier's maps by a method are made with, whatever is left open chosen.

    Raises:
        UserError: one is out of range, of another method, or there is no such class.
    """
    options.check(method)
    names, channels = classifier.input_spec.class_names, classifier.input_spec.channels
    contrast = None
    if options.contrast is not None:
        try:
            (contrast, *others) = chosen_classes([options.contrast], names, classifier.groups)
        except UserError as error:
            raise UserError(str(error).replace("--classes", "--contrast")) from None
        if contrast < 0 or others:
            raise UserError(f"--contrast {options.contrast}: expected the name or index of one class")
    if options.baseline == "white" and channels > 3:
        raise UserError(f"--baseline white: {channels} bands have no white; expected black, mean or blur")
    black, white = (classifier.prepare(np.full((1, 1, 1, channels), value, np.uint8))[0] for value in (0, 255))
    made = dataclasses.replace(
        options,
        contrast=contrast,
        contrast_name=None if contrast is None else classifier.class_names[contrast],
        samples=options.samples or METHODS[method].samples,
        noise=0.15 if options.noise is None else options.noise,
        baseline=options.baseline or METHODS[method].baseline,
        seed=options.seed or 0,
        black=black,
        white=white,
    )
    return with_backgrounds(made, classifier) if method == "expected-gradients" else made


def with_backgrounds(options, classifier):
    """The options with `backgrounds` as the network takes them, float (M, H, W, channels)."""
    given = options.backgrounds
    if given is None:
        given = [photo.path for photo in find_photos([SHIPPED_PHOTOS])]
    photos = classifier.inputs(given)
    chosen = np.random.default_rng(options.seed).permutation(len(photos))[:MOST_BACKGROUNDS]
    return dataclasses.replace(options, backgrounds=classifier.prepare(photos[np.sort(chosen)]))


# ---------------------------------------------------------------- the equations: gradients


def smooth_grad(asked):
    """SmoothGrad: the mean of g(x + e), e ~ N(0, sigma^2) (Smilkov et al. 2017, section 3).

    sigma is `noise` times the largest less the least value of x.
    """
    mean, _ = asked.moments(asked.noisy_photos)
    return mean


def var_grad(asked):
    """VarGrad: the variance of g(x + e) over the noise of `smooth_grad` (Adebayo et al. 2018, section 3)."""
    mean, of_squares = asked.moments(asked.noisy_photos)
    return np.maximum(of_squares - mean**2, 0)


def integrated_gradients(asked):
    """Integrated gradients: (x - x') times the mean of g on the line from x' to x (Sundararajan et al. 2017, eq. 1).

    x' is the baseline; the mean is of `samples` points at (k + 1/2) / samples of the way, the midpoint rule. The sum
    of a map is Y(x) - Y(x') in the limit; what is missing is its completeness gap, see `completeness_gap`.
    """
    x, baseline = asked.photo, asked.baseline

    def on_the_line(chosen):
        share = (np.reshape(chosen, (-1, 1, 1, 1)) + 0.5) / asked.options.samples
        return baseline + share * (x - baseline), None

    mean, _ = asked.moments(on_the_line)
    return (x - baseline) * mean


def completeness_gap(asked, maps):
    """The sum of integrated gradients (R, H, W, channels) less Y(x) - Y(x'): float64 (R,), logit units."""
    ends = np.stack([asked.photo, asked.baseline])
    of_photo, of_baseline = asked.scores(lambda chosen: ends[chosen], count=2)
    return maps.sum(axis=(1, 2, 3)) - (of_photo - of_baseline)


def expected_gradients(asked):
    """Expected gradients: the mean of (x - x') g(x' + a (x - x')), a ~ U(0, 1) (Erion et al. 2021, eq. 3).

    x' is one of `backgrounds`, drawn for each sample. The sum of a map is about Y(x) less the mean score of these.
    """
    count, backgrounds = asked.options.samples, asked.options.backgrounds
    which, share = asked.generator.integers(len(backgrounds), size=count), asked.generator.random(count)

    def on_lines(chosen):
        others = backgrounds[which[chosen]]
        return others + share[chosen, None, None, None] * (asked.photo - others), asked.photo - others

    mean, _ = asked.moments(on_lines)
    return mean


# ---------------------------------------------------------------- the equations: scores


def occlusion(asked):
    """Occlusion: how far the score falls where a window is hidden (Zeiler and Fergus 2014, section 4.1).

    Each pixel has the mean of Y(x) - Y(x with the window replaced by the baseline) over the windows that cover it.
    """
    windows = [*windows_of(asked.photo.shape[:2], asked.options.samples), (np.s_[:0],)]  # the last hides nothing

    def hidden(chosen):
        photos = np.repeat(asked.photo[None], len(chosen), axis=0)
        for photo, number in zip(photos, chosen, strict=True):
            photo[windows[number]] = asked.baseline[windows[number]]
        return photos

    scores = asked.scores(hidden, len(windows))  # (n + 1, R)
    falls = scores[-1] - scores
    total, covered = np.zeros((falls.shape[1], *asked.photo.shape[:2])), np.zeros(asked.photo.shape[:2])
    for window, fall in zip(windows, falls, strict=True):
        total[:, *window] += fall[:, None, None]
        covered[window] += 1
    return total / covered


def rise(asked):
    """RISE: the mean score over random masks in which a pixel is seen (Petsiuk et al. 2018, eq. 5 and section 3.2).

    S = sum_i (Y_i - mean Y) M_i / sum_i M_i, Y_i the score of x through mask M_i, the baseline where that is 0. Masks
    are 8 x 8 cells, each seen with probability 1/2, enlarged bilinearly and cut out at a random place. The paper's
    score is a probability, and its divisor the expected sum of the masks. A logit has no zero of its own: the mean
    score is subtracted, and the masks' own sum taken, so that a constant added to Y changes nothing.
    """
    count, size = asked.options.samples, asked.photo.shape[:2]
    cells = asked.generator.random((count, MASK_CELLS, MASK_CELLS)) < KEPT
    corners = asked.generator.random((count, 2))

    def masks(chosen):
        return np.stack([rise_mask(cells[number], corners[number], *size) for number in chosen])  # (k, H, W)

    def seen_through(chosen):
        return asked.baseline + masks(chosen)[..., None] * (asked.photo - asked.baseline)

    scores = asked.scores(seen_through, count)  # (n, R)
    weights, total, seen = scores - scores.mean(axis=0), 0.0, 0.0
    for start in range(0, count, SAMPLES_AT_ONCE):
        chosen = np.arange(start, min(start + SAMPLES_AT_ONCE, count))
        some = masks(chosen).astype(np.float64)
        total, seen = total + np.einsum("nr,nhw->rhw", weights[chosen], some), seen + some.sum(axis=0)
    return total / np.maximum(seen, np.finfo(np.float32).tiny)


def rise_mask(cells, corner, height, width):
    """A mask of `rise`: float32 (height, width), from 0 to 1.

    Args:
        cells: bool (s, s), those seen.
        corner: float (2,), from 0 to 1, where it is cut out of the enlarged cells, in shares of a cell.
    """
    sides = [-(-side // len(cells)) for side in (height, width)]  # of a cell, rounded up
    large = [(len(cells) + 1) * side for side in sides]
    mask = cv2.resize(cells.astype(np.float32), (large[1], large[0]), interpolation=cv2.INTER_LINEAR)
    top, left = (int(share * side) for share, side in zip(corner, sides, strict=True))
    return mask[top : top + height, left : left + width]


# ---------------------------------------------------------------- asking a network many times


class Asked:
    """A photo and how to ask a network about it.

    Attributes:
        photo: float32 (H, W, channels), the network's input x; float64 of a network that computes so.
        options: MapOptions.
        generator: NumPy's Generator, seeded by SHA-256 of the photo and by the seed.
        baseline: like photo, what stands for no photo.

    Args:
        sampler: Sampler.
        photo: see the attribute.
        chosen: int (R,), the classes.
        number: int, how many photos of its batch are done, for the progress.
    """

    def __init__(self, sampler, photo, chosen, number):
        self.sampler, self.photo, self.chosen, self.number = sampler, photo, chosen, number
        self.options = sampler.options
        digest = hashlib.sha256(np.ascontiguousarray(photo, np.float32).tobytes()).digest()
        self.generator = np.random.default_rng([self.options.seed, int.from_bytes(digest, "little")])
        self.baseline = baseline_of(photo, self.options)

    def noisy_photos(self, chosen):
        """x + e for each of the samples chosen, which are drawn one after the other."""
        sigma = self.options.noise * (self.photo.max() - self.photo.min())
        noise = self.generator.standard_normal((len(chosen), *self.photo.shape), np.float32)
        return self.photo + sigma * noise, None

    def moments(self, points_of):
        """The means of f g and of (f g)^2 over the samples: float64 (R, H, W, channels) each.

        Args:
            points_of: function of indices (k,) -> (photos (k, H, W, channels), f like these or None for 1), called in
                the indices' order.
        """
        count, total = self.options.samples, 0.0
        for chosen, (points, factors), weights in self.batches(points_of, count, with_gradients=True):
            factors = np.ones((len(points), 1, 1, 1)) if factors is None else factors
            weights, parts = weights / count, []
            for row in range(0, len(self.chosen), CLASSES_AT_ONCE):
                some = self.chosen[row : row + CLASSES_AT_ONCE]
                (found,) = self.sampler.gradients(np.arange(len(points)), len(chosen), points, factors, weights, some)
                parts.append(found.sum(axis=0, dtype=np.float64))  # (r, 2, H, W, channels)
            total = total + np.concatenate(parts)
        return total[:, 0], total[:, 1]

    def scores(self, points_of, count):
        """The scores of `count` photos: float64 (count, R).

        Args:
            points_of: function of indices (k,) -> photos (k, H, W, channels).
            count: int.
        """
        found = []
        for chosen, (points, _), _ in self.batches(lambda chosen: (points_of(chosen), None), count):
            (scores,) = self.sampler.scores(np.arange(len(points)), len(chosen), points, self.chosen)
            found.append(scores[: len(chosen)])
        return np.concatenate(found).astype(np.float64)

    def batches(self, points_of, count, with_gradients=False):
        """Changed photos in batches of one size, the next made while the network sees one.

        Yields:
            (indices (n,), (photos (k, H, W, channels), factors), weights float (k,): 1, or 0 of what fills up).
        """
        most = self.sampler.most_at_once(with_gradients)
        size = -(-count // -(-count // most))
        starts = range(0, count, size)
        indices = [np.arange(start, min(start + size, count)) for start in starts]
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(points_of, indices[0])
            for number, chosen in enumerate(indices):
                found = ahead.result()
                if number + 1 < len(indices):
                    ahead = pool.submit(points_of, indices[number + 1])
                full = np.minimum(np.arange(size), len(chosen) - 1)
                found = [part if part is None else part[full].astype(self.photo.dtype) for part in found]
                yield chosen, found, np.arange(size) < len(chosen)
                Progress.within(self.number + (chosen[-1] + 1) / count)


def baseline_of(photo, options):
    """What stands for no photo, like `photo`, float (H, W, channels): see BASELINE_NAMES."""
    if options.baseline == "mean":
        values = photo.mean(axis=(0, 1))
    elif options.baseline == "blur":
        values = cv2.GaussianBlur(photo, (0, 0), max(photo.shape[:2]) / 10).reshape(photo.shape)
    else:
        values = options.white if options.baseline == "white" else options.black
    return np.broadcast_to(np.asarray(values, photo.dtype), photo.shape)


class Sampler:
    """Scores of changed photos and their gradients, compiled once; batches are halved where memory runs out.

    Args:
        network: keras.Model.
        structure: Structure of the network.
        score: `camlib.attribution.methods.ExplainedScore`.
        options: MapOptions, by `options_for`.
    """

    def __init__(self, network, structure, score, options):
        self.structure, self.score, self.options = structure, score, options
        self.run = tapped_run(network, structure, [])
        of_gradients, of_scores = compiled(self.sums_of, network), compiled(self.scores_of, network)
        self.gradients = halving(self.portion_of(of_gradients), axes=(0,))
        self.scores = halving(self.portion_of(of_scores), axes=(0,))

    def __call__(self, method, images, chosen, count):
        """Maps of the first `count` photos by a method of samples, those of the others zero.

        Args:
            method: Method.
            images: float32 (N, H, W, channels), a tensor.
            chosen: int32 (R, N), a tensor.
            count: int.

        Returns:
            (maps float32 (R, N, H, W, channels) or (R, N, H, W), completeness gaps (R, N) or None); float64 of a
            network that computes so.
        """
        photos, chosen = ops.convert_to_numpy(images), ops.convert_to_numpy(chosen)
        maps, gaps = [], []
        for number, photo in enumerate(photos[:count]):
            asked = Asked(self, photo, chosen[:, number], number)
            with np.errstate(invalid="ignore"):  # a photo with numbers that are not finite is told later
                maps.append(method.function(asked))
                if method == METHODS["integrated-gradients"]:
                    gaps.append(completeness_gap(asked, maps[-1]))
        return self.filled(maps, photos), self.filled(gaps, photos) if gaps else None

    def filled(self, found, photos):
        """list of float64 (R, ...), one a photo, as (R, N, ...) in the precision of the network, zero beyond them."""
        values = np.stack(found, axis=1).astype(photos.dtype)
        return np.pad(values, [(0, 0), (0, len(photos) - len(found)), *[(0, 0)] * (values.ndim - 2)])

    def most_at_once(self, with_gradients):
        """How many photos may be asked about in one pass: a power of two, so that few sizes are ever compiled."""
        fits = SHARE_OF_MEMORY * available_memory() / max(1.0, self.structure.memory[with_gradients])
        return 1 << int(max(1, min(SAMPLES_AT_ONCE, fits))).bit_length() - 1

    def portion_of(self, function):
        """A compiled function as `camlib.memory.halving` takes it: of the photos of a portion, NumPy arrays.

        The last of its arguments, the classes, are for all photos; the others one for each.
        """

        def run(portion, _, *arguments):
            *of_photos, chosen = arguments
            of_photos = [np.asarray(part)[portion].astype(arguments[0].dtype) for part in of_photos]
            return (ops.convert_to_numpy(function(*map(ops.convert_to_tensor, (*of_photos, chosen)))),)

        return run

    def sums_of(self, photos, factors, weights, chosen):
        """The weighed sums of f g and of its square over photos: float32 (1, r, 2, H, W, channels); compiled.

        Args:
            photos: float32 (k, H, W, channels).
            factors: float32 (k, H, W, channels) or (k, 1, 1, 1), f.
            weights: float32 (k,).
            chosen: int32 (r,).
        """
        seen, found = ForwardPass(self.run, self.structure, photos), []
        for wanted in ops.unstack(chosen, axis=0):
            _, u = self.score(seen.logits, ops.reshape(wanted, (1,)))  # (k, C)
            products = ops.cast(factors, seen.logits.dtype) * seen.gradients_at_images(u)
            weighed = ops.reshape(weights, (-1, 1, 1, 1)) * products
            found.append(ops.stack([ops.sum(weighed, axis=0), ops.sum(weighed * products, axis=0)]))
        return ops.stack(found)[None]

    def scores_of(self, photos, chosen):
        """The scores of photos (k, H, W, channels) for classes (r,): float32 (k, r); compiled."""
        logits = widened(self.run(photos, lambda path, a: a)[0])
        scores = [self.score(logits, ops.reshape(wanted, (1,)))[0] for wanted in ops.unstack(chosen, axis=0)]
        return ops.stack(scores, axis=1)


# ---------------------------------------------------------------- smoothing of any map


class Smoothed:
    """Augmentation smoothing: the mean of a photo's maps and of those of mirrored and moved versions, laid back.

    M(x) = mean over v of v^-1(M(v(x))), v the photo itself, and mirror images and shifts of at most MOST_SHIFT of a
    side, by the seed the same for every photo; what a shift lays bare repeats the photo's edge. A cell has the mean of
    those versions in which it lies within the map.

    Args:
        explain: `camlib.attribution.gradcam.CompiledMaps`, of one map.
        extent: (top, left, bottom, right), the part of the photo that its map covers, in shares; None for all of it.
        options: MapOptions.
    """

    def __init__(self, explain, extent, options):
        self.explain, self.extent = explain, extent or (0.0, 0.0, 1.0, 1.0)
        self.count, self.seed = options.smooth, options.seed

    def versions(self, height, width):
        """(mirrored, shift down, shift right) of each version, in pixels; the first is the photo itself."""
        most = [max(1, round(MOST_SHIFT * side)) for side in (height, width)]
        drawn = np.random.default_rng(self.seed)
        shifts = drawn.integers(np.negative(most), np.array(most) + 1, (self.count, 2)).tolist()
        return [(False, 0, 0), *((number % 2 == 1, *shift) for number, shift in enumerate(shifts[1:], start=1))]

    def __call__(self, images, classes, count=None):
        """As of the CompiledMaps; logits, features and gaps are the photo's own."""
        height, width = images.shape[1:3]
        versions, totals = self.versions(height, width), None
        with Progress.part(0, len(versions)):
            first = self.explain(images, classes, count)
        for number, (mirrored, down, right) in enumerate(versions):
            found = first
            if mirrored or down or right:
                rows, columns = np.clip(np.arange(height) - down, 0, height - 1), np.arange(width) - right
                columns = np.clip(columns, 0, width - 1)
                columns = width - 1 - columns if mirrored else columns
                changed = ops.take(ops.take(images, rows, axis=1), columns, axis=2)
                with Progress.part(number, len(versions)):
                    found = self.explain(changed, first.chosen, count)
            places = mirrored, down / height, right / width
            parts = [laid_back(found.cams[0], places, self.extent)]
            if found.guided is not None:
                parts.append(laid_back(found.guided, places, (0.0, 0.0, 1.0, 1.0)))
            totals = (
                parts
                if totals is None
                else [tuple(a + b for a, b in zip(*pair, strict=True)) for pair in zip(totals, parts, strict=True)]
            )
        (cams, *guided) = [total / ops.cast(known, total.dtype) for total, known in totals]
        return first._replace(cams=[cams], guided=guided[0] if guided else None)


def laid_back(maps, version, extent):
    """Maps of a version of a photo in the places of the photo itself, bilinearly.

    Args:
        maps: float (R, N, h, w) or (R, N, H, W, channels).
        version: (mirrored, shift down, shift right), in shares of the photo's sides.
        extent: (top, left, bottom, right), what they cover of the photo that they are of.

    Returns:
        (maps like these, zero where nothing is known, float (h, w) or (h, w, 1): 1 where it is, else 0).
    """
    mirrored, *shifts = version
    top, left, bottom, right = extent
    known = []
    for axis, shift, begin, end in ((2, shifts[0], top, bottom), (3, shifts[1], left, right)):
        side = maps.shape[axis]
        places = begin + (np.arange(side) + 0.5) / side * (end - begin)  # of the cells' middles, in the photo
        places = (1 - places if mirrored and axis == 3 else places) + shift
        cells = (places - begin) / (end - begin) * side - 0.5
        known.append((cells > -0.5 - 1e-6) & (cells < side - 0.5 + 1e-6))
        cells = np.clip(np.round(cells, 6), 0, side - 1)
        lower = np.floor(cells).astype(np.int32)
        before, after = (ops.take(maps, rows, axis=axis) for rows in (lower, np.minimum(lower + 1, side - 1)))
        share = (cells - lower).reshape(-1, *[1] * (maps.ndim - axis - 1))
        maps = before + ops.cast(share, maps.dtype) * (after - before)
    inside = (known[0][:, None] & known[1][None]).astype(np.float32)
    inside = inside.reshape(*inside.shape, *[1] * (maps.ndim - 4))
    return maps * ops.cast(inside, maps.dtype), inside
