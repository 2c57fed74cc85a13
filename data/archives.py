"""Archives as downloaded, tar and zip, read member by member as data from a stranger.

Nothing is unpacked under a name of the archive's own: whoever reads a member decides where its content goes. What a
header claims is never believed: no read takes more than MOST_BYTES, and links, devices and sparse files are no members.
"""

import functools
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

from camlib.console import UserError, first_line, shown_path

MOST_BYTES = 64 * 2**20  # of a member that is read as a whole, and of a tar header
MOST_MEMBERS = 1_000_000
ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,  # zipfile: needs a password; packed in a way that Python does not know
)
OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)
# (kind, where its mark is, the mark)
ARCHIVE_BEGINNINGS = (
    ("zip", 0, b"PK\x03\x04"),
    ("zip", 0, b"PK\x05\x06"),
    ("tar.gz", 0, b"\x1f\x8b"),
    ("tar", 257, b"ustar"),
)
ARCHIVES_EXPECTED = "expected the archive as downloaded, .tar.gz, .tar or .zip"


class MemberError(Exception):
    """A member that cannot be read; the message is the reason."""


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        name: str, as the archive has it.
        size: int, bytes, as its header says.
        open: function () -> binary file; of a tar to be called before the next member is asked for.
        refused: str, why it cannot be read, or None.
    """

    name: str
    size: int
    open: Callable
    refused: str | None = None

    def read(self):
        """The content, bytes.

        Raises:
            MemberError: it is refused, too large, damaged, cut off, or needs a password.
        """
        if self.size > MOST_BYTES and not self.refused:
            raise MemberError(f"{self.size:,} bytes; expected at most {MOST_BYTES:,}")
        return b"".join(self.records(self.size))

    def records(self, size):
        """Yield the content in pieces of `size` bytes.

        Raises:
            MemberError: it is refused, damaged, cut off, or needs a password; the pieces before that have been yielded.
        """
        if self.refused:
            raise MemberError(self.refused)
        try:
            with self.open() as file:
                for start in range(0, self.size, size or 1):
                    record = file.read(min(size, self.size - start))
                    if len(record) != min(size, self.size - start):
                        raise MemberError(f"cut off: {start + len(record):,} of {self.size:,} bytes")
                    yield record
                file.read(1)  # the check sum is compared at the end
        except ARCHIVE_ERRORS as error:
            raise MemberError(f"damaged in the archive ({first_line(error)})") from error


def members_of(path):
    """Yield the members of an archive in its order.

    Args:
        path: Path of a .zip, .tar or .tar.gz file, told apart by its content.

    Yields:
        Member.

    Raises:
        UserError: it is no such file, or is damaged; the members before that have been yielded.
    """
    try:
        for count, member in enumerate(zip_members(path) if archive_kind(path) == "zip" else tar_members(path)):
            if count == MOST_MEMBERS:
                raise UserError(f"{shown_path(path)} has more than {MOST_MEMBERS:,} members; {ARCHIVES_EXPECTED}")
            yield member
    except ARCHIVE_ERRORS as error:
        raise UserError(
            f"{shown_path(path)} is damaged or cut off ({first_line(error)}); {ARCHIVES_EXPECTED}: download it again. "
            "What is done already stays"
        ) from error


def archive_kind(path):
    """Tell by its content what an archive is: "zip", "tar.gz" or "tar".

    Raises:
        UserError: it is missing or something else, which the message names.
    """
    if path.is_dir():
        raise UserError(f"{shown_path(path)} is a folder; {ARCHIVES_EXPECTED}")
    if not path.is_file():
        raise UserError(f"{shown_path(path)} does not exist; {ARCHIVES_EXPECTED}")
    with open(path, "rb") as file:
        start = file.read(512)
    for kind, place, beginning in ARCHIVE_BEGINNINGS:
        if start[place:].startswith(beginning):
            return kind
    page = "is a web page, maybe a download that failed" if start.lstrip().startswith(b"<") else None
    what = page or ("is neither a tar nor a zip archive" if start else "is empty")
    raise UserError(f"{shown_path(path)} {what}; {ARCHIVES_EXPECTED}")


def refusal(name, is_file):
    """Why a member of that name is left alone, or None."""
    if OUTSIDE.match(name):
        return "its name leads out of the archive"
    return None if is_file else "a link, a device or a sparse file"


def zip_members(path):
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                name, mode = entry.filename, stat.S_IFMT(entry.external_attr >> 16)  # 0 where not packed on Unix
                reason = refusal(name, mode in (0, stat.S_IFREG))
                yield Member(name, entry.file_size, functools.partial(archive.open, entry), reason)


def tar_members(path):
    with gzip.open(path) if archive_kind(path) == "tar.gz" else open(path, "rb") as stream:
        with tarfile.open(fileobj=Capped(stream), mode="r:") as archive:
            for entry in archive:
                if not entry.isdir():
                    reason = refusal(entry.name, entry.isreg() and not entry.issparse())
                    yield Member(entry.name, entry.size, functools.partial(archive.extractfile, entry), reason)
        while stream.read(2**20):  # to the check sum at its end
            pass


class Capped:
    """A binary stream that hands out at most MOST_BYTES at once: tarfile reads a header of whatever size it claims."""

    def __init__(self, stream):
        self.seek, self.tell, self.stream = stream.seek, stream.tell, stream

    def read(self, size):
        if not 0 <= size <= MOST_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.stream.read(size)
