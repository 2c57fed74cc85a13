"""The parts of an evaluation of one network: where its maps lie, whether it uses them, whether they depend on it."""

import cv2
import numpy as np

from camlib.console import Progress
from camlib.evaluation import metrics, scoring
from camlib.evaluation.annotations import truth_kind
from camlib.photos import read_batches


def batches(scored, items, batch_size, failed):
    """Decode items in batches: (items, pictures, pixels uint8 (batch_size, H, W, channels)), the last filled up."""
    for done, pixels, unreadable in read_batches(items, scored.input_spec, batch_size):
        failed.update(unreadable)
        if done:
            yield [item for item, _ in done], [picture for _, picture in done], pixels


def evaluate_fast(scored, items, results, failed, with_baselines, batch_size):
    """Localisation of all maps that need one pass, the network's answers, and the baselines.

    Args:
        scored: ScoredNetwork.
        items: list of Item.
        results: Results, to which what is found is added.
        failed: dict of path -> reason, to which photos that cannot be read are added.
        with_baselines: bool, score maps that know no network, too.
        batch_size: int, photos per forward pass.
    """
    left = results.left(scored.name, "maps", items)
    with Progress(f"{scored.name}: maps", len(left)) as progress:
        for chosen, pictures, pixels in batches(scored, left, batch_size, failed):
            labels = scored.labels_of(chosen, len(pixels))
            others = (labels + 1) % scored.structure.class_count
            outputs, maps = scored.fast_maps(scored.prepare(pixels), np.stack((labels, others)))
            for index, (item, picture) in enumerate(zip(chosen, pictures, strict=True)):
                with scoring.listed_if_unreadable(item, failed):
                    of_item = {name: (values[0, index], values[1, index]) for name, values in maps.items()}
                    scoring.add_scores(results, scored, item, picture, outputs[index], of_item, with_baselines)
            progress.advance(len(chosen))


def evaluate_sample(scored, sample, results, failed, fill_names):
    """Faithfulness of all maps, and localisation of those that run the network once for each feature.

    Args:
        scored, results, failed: as for `evaluate_fast`.
        sample: list of Item.
        fill_names: list of str, what replaces deleted pixels, of FILLS; empty to leave faithfulness out.
    """
    left = results.left(scored.name, "sample", sample)
    with Progress(f"{scored.name}: perturbed photos", len(left)) as progress:
        for (item,), (picture,), pixels in batches(scored, left, 1, failed):
            prepared, labels = scored.prepare(pixels), scored.labels_of([item])
            other = (labels + 1) % scored.structure.class_count
            outputs, fast = scored.fast_maps(prepared, labels[None])
            with Progress.part(0, 2):
                of_each = dict.fromkeys(scored.explain_slow, prepared)
                slow = scored.slow_maps(of_each, np.stack((labels, other)))
            with scoring.listed_if_unreadable(item, failed), Progress.part(1, 2):
                scoring.check_finite(outputs[0], *slow.values())
                truth = scoring.truth_of(item, picture.shape[:2])
                scores = {
                    name: scoring.scores_of_map(values[0, 0], values[1, 0], truth, picture, scored.kinds[name])
                    for name, values in slow.items()
                }
                if fill_names:
                    maps = {name: values[0, 0] for name, values in (fast | slow).items()}
                    shown = cv2.resize(picture, pixels.shape[2:0:-1], interpolation=cv2.INTER_AREA)
                    maps |= metrics.baseline_maps(shown, item.seed)
                    found = scoring.faithfulness(scored, pixels[0], maps, int(labels[0]), fill_names)
                    scores = {name: scores.get(name, {}) | found[name] for name in (scores | found)}
                results.add(scored.name, "sample", item, maps=scores, truth=truth_kind(item))
            progress.advance()


def evaluate_sanity(scored, sample, results, failed):
    """Cascading randomisation, for all maps that need one pass; all photos of the sample at once.

    Args:
        scored, results, failed: as for `evaluate_fast`.
        sample: list of Item.
    """
    left = results.left(scored.name, "sanity", sample)
    # copies: a batch is overwritten by the next
    found = [(item, pixels[0].copy()) for (item,), _, pixels in batches(scored, left, 1, failed)]
    if not found:
        return
    print(f"{scored.name}: randomising its layers", flush=True)
    images = scored.prepare(np.stack([pixels for _, pixels in found]))
    labels = scored.labels_of([item for item, _ in found])
    outputs, _ = scored.fast_maps(images, labels[None])
    stages, scores = scoring.cascade(scored, images, labels)
    for (item, _), of_item, numbers in zip(found, scores, outputs, strict=True):
        with scoring.listed_if_unreadable(item, failed):
            scoring.check_finite(numbers)
            results.add(scored.name, "sanity", item, stages=stages, maps=of_item)
