"""Recipes: how each network is trained. Does without Keras, since `--help` lists them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        network: str, a key of ARCHITECTURES of `camlib.training.fitting`.
        training_form: bool, it is trained in another form, `for_training=True`, and folded afterwards.
        size: int, height and width of the photos the network is meant for.
        smallest: int, the least size that may be asked for; its cut-outs have to survive the network's poolings.
        crop: float, height and width of the augmented cut-outs it is trained on, as a share of `size`; a network that
            ends in global average pooling takes both, and trains faster on the smaller. None: whole photos, as they
            are.
        mosaic: bool, lay every other batch out as 2x2 mosaics and ask for the class of each cell, with the same Dense
            layer on the cell's mean: evidence then has to stay where its animal is.
        channels, scale, interpolation: see `camlib.preprocessing.InputSpec`.
        loss: str, a Keras loss of one-hot labels and probabilities.
        optimizer: str, a key of OPTIMIZERS there.
        learning_rate: float, at its highest.
        balanced: bool, weigh each class by the inverse of its number of photos.
        batch_size, epochs: int.
        patience: int, training ends after as many epochs without a lower val_loss. None: after the last epoch, which a
            schedule of learning rates needs.
        deepens: bool, the network takes a depth, see `camlib.networks.architectures.modern_network`.
        depth: int, or None for the usual one.
    """

    network: str
    training_form: bool
    size: int
    smallest: int
    crop: float | None
    mosaic: bool
    channels: int
    scale: float
    interpolation: str
    loss: str
    optimizer: str
    learning_rate: float
    balanced: bool
    batch_size: int
    epochs: int
    patience: int | None
    deepens: bool = False
    depth: int | None = None

    @property
    def cut(self):
        """Height and width of the cut-outs in pixels, in whole steps of the training grids, or None."""
        return 4 * round(self.crop * self.size / 4) if self.crop else None


RECIPES = {
    "modern": Recipe(
        network="modern",
        training_form=True,
        size=96,
        smallest=32,
        crop=3 / 4,
        mosaic=True,
        channels=3,
        scale=1 / 255,
        interpolation="area",
        loss="categorical_crossentropy",
        optimizer="adamw",
        learning_rate=3e-3,
        balanced=True,
        batch_size=32,
        epochs=40,
        patience=None,
        deepens=True,
    ),
    "original": Recipe(
        network="original",
        training_form=False,
        size=64,
        smallest=32,
        crop=None,
        mosaic=False,
        channels=1,
        scale=1.0,
        interpolation="cubic",
        loss="binary_crossentropy",
        optimizer="rmsprop",
        learning_rate=1e-4,
        balanced=False,
        batch_size=200,
        epochs=500,
        patience=20,
    ),
    "vgg16": Recipe(
        network="vgg16",
        training_form=True,
        size=96,
        smallest=48,
        crop=2 / 3,
        mosaic=False,
        channels=3,
        scale=1 / 255,
        interpolation="area",
        loss="categorical_crossentropy",
        optimizer="adamw",
        learning_rate=1e-3,
        balanced=True,
        batch_size=32,
        epochs=40,
        patience=None,
    ),
}


def recipe_of(args):
    """The Recipe with what the user asked to be otherwise."""
    asked = {name: getattr(args, name) for name in ("size", "depth", "learning_rate", "epochs", "batch_size")}
    return replace(RECIPES[args.recipe], **{name: value for name, value in asked.items() if value is not None})
