"""The lock file: each requirement within its limits, with hashes, and whatever else these packages need."""

import re
from importlib import metadata

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.any_backend
LINE = re.compile(
    r"^([a-z0-9-]+)==(\S+?)(?: ; [^\\]+?)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE
)


def locked():
    """dict of name -> list of versions, as requirements-lock.txt has them, some for one Python each."""
    text = (ROOT / "requirements-lock.txt").read_text("utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert LINE.sub("", body) == ""  # nothing without a hash, no other source
    found = {}
    for name, version in LINE.findall(body):
        found.setdefault(name, []).append(version)
    return found


def required():
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text("utf-8").splitlines()
    ]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_every_requirement_is_locked_within_its_limits(requirement):
    versions = locked()[canonicalize_name(requirement.name)]
    assert versions and all(version in requirement.specifier for version in versions)


def test_what_requirements_need_is_locked_too():
    """Each package that one of the locked ones asks for here, with hashes: pip refuses all of them otherwise."""
    known, missing = locked(), []
    for name, versions in known.items():
        try:
            needs = metadata.requires(name) or [] if metadata.version(name) in versions else []  # of others unknown
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        for need in map(Requirement, needs):
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            if wanted and canonicalize_name(need.name) not in known:
                missing.append(f"{name} needs {need.name}")
    assert missing == []
