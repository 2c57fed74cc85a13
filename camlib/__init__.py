"""What the scripts share: photos, networks, gradients and maps."""
