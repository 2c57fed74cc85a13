"""Numbers to pictures: colours, panels, figures, pages."""

OWN_COLOURS = "evidence"  # the name of our own colour map
OPACITY = 0.9  # of a map's largest value over the photo: full would hide the animal below broad maps
# Colours of what is chosen, and of answers, in windows and sheets; page.css has the like for dark pages too
CHOSEN, RIGHT, WRONG, UNSURE = "#1565c0", "#137333", "#c5221f", "#b26a00"
# Methods whose maps have a value for each pixel and colour; their files go by the method's key
PIXEL_KINDS = tuple(
    "gradient gradient-x-input deconvnet smooth-grad var-grad integrated-gradients expected-gradients".split()
)
REDUCTIONS = ("magnitudes", "sum", "largest")  # what such a map is shown by, see `camlib.plots.colours.reduced`


def is_gradient(kind):
    """Whether a kind of map, one run's ("guided_gradcam") or one of several ("guided_gradcam@1"), is of gradients.

    Those have a value for each pixel and colour.
    """
    return kind.partition("@")[0] in ("guided_backprop", "guided_gradcam", *PIXEL_KINDS)
