"""What the scripts share: photos, networks, gradients and maps."""

from camlib import beginning as beginning  # first of all, see there
