"""Numbers to pictures: colours, panels, figures, pages."""

OWN_COLOURS = "evidence"  # the name of our own colour map
OPACITY = 0.9  # of a map's largest value over the photo: full would hide the animal below broad maps
GRADIENTS = ("guided_backprop", "guided_gradcam")  # the kinds of map with a value for each pixel and colour


def is_gradient(kind):
    """Whether a kind of map, one run's ("guided_gradcam") or one of several ("guided_gradcam@1"), is of gradients."""
    return kind.startswith(GRADIENTS)
