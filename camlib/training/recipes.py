"""Recipes: how each network is trained. Does without Keras, since `--help` lists them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        network: str, a key of ARCHITECTURES of `camlib.training.fitting`.
        size: int, height and width of the photos the network is meant for.
        smallest: int, the least size that may be asked for; its cut-outs have to survive the network's poolings.
        crop: float, height and width of the augmented cut-outs it is trained on, as a share of `size`; a network that
            ends in global average pooling takes both, and trains faster on the smaller. Every other batch of them is
            laid out as 2x2 mosaics, and asked for the class of each cell, with the same Dense layers on the cell's
            mean: evidence then has to stay where its animal is. None: whole photos, as they are.
        step: int, pixels from one of the features that are pooled to the next, in training; a cut-out has whole ones.
        training_form: bool, it is trained in another form, `for_training=True`, and folded afterwards.
        normalised: bool, that form but adds batch normalisation, which random weights need: from those of an earlier
            network it is trained as it is, in two thirds of the time.
        channels, scale, interpolation: see `camlib.preprocessing.InputSpec`.
        loss: str, a Keras loss of one-hot labels and probabilities.
        optimizer: str, "adamw" or "rmsprop", see `optimizer_of` there.
        learning_rate: float, at its highest.
        balanced: bool, weigh each class by the inverse of its number of photos.
        batch_size, epochs: int.
        patience: int, training ends after as many epochs without a lower val_loss. None: after the last epoch, which a
            schedule of learning rates needs.
        deepens: bool, the network takes a depth, see `camlib.networks.architectures.modern_network`.
        depth: int, or None for the usual one.
    """

    network: str
    size: int = 96
    smallest: int = 32
    crop: float | None = None
    step: int = 4
    training_form: bool = True
    normalised: bool = False
    channels: int = 3
    scale: float = 1 / 255
    interpolation: str = "area"
    loss: str = "categorical_crossentropy"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    balanced: bool = True
    batch_size: int = 32
    epochs: int = 40
    patience: int | None = None
    deepens: bool = False
    depth: int | None = None

    @property
    def cut(self):
        """Height and width of the cut-outs in pixels, or None."""
        return self.step * round(self.crop * self.size / self.step) if self.crop else None


RECIPES = {
    "modern": Recipe("modern", crop=3 / 4, learning_rate=3e-3, deepens=True),
    "original": Recipe(
        "original",
        size=64,
        training_form=False,
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
    "vgg16": Recipe("vgg16", smallest=48, crop=2 / 3, step=32, normalised=True),
}


ASKED_FOR = ("size", "depth", "learning_rate", "epochs", "batch_size")  # options that replace a recipe's own


def recipe_of(args):
    """The Recipe with what the user asked to be otherwise."""
    asked = {name: getattr(args, name) for name in ASKED_FOR}
    return replace(RECIPES[args.recipe], **{name: value for name, value in asked.items() if value is not None})
