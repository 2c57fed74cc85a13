"""HDF5 files whose writer was killed: read as if it had closed them.

HDF5 opens such a file in its mode for many readers (SWMR) alone, and waits there without end for what a damaged file
lacks, as a reader does whose writer is still at it. That a file was not closed is said in its first 48 bytes, the
superblock of version 2 or 3 (HDF5 File Format Specification, II.A): these are read with other flags.
"""

import io
import os
import struct

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FLAGS, SIDE, CHECKED, SUPERBLOCK = 11, 8, 44, 48  # where the flags are; bytes of an address, of what is checked, of all
END_OF_FILE = 28  # where the file's length stands, which a killed writer could not bring up to date
WORD = 0xFFFFFFFF


def superblock_of(path):
    """The first 48 bytes of a file with a superblock of version 2 or 3 at its beginning; else None."""
    with open(path, "rb") as file:
        head = file.read(SUPERBLOCK)
    known = head.startswith(SIGNATURE) and len(head) == SUPERBLOCK and head[8] in (2, 3) and head[9] == SIDE
    return head if known else None


def was_closed(path):
    """Whether the last process that wrote to a file closed it."""
    head = superblock_of(path)
    return head is None or head[FLAGS] == 0


class AsClosed(io.FileIO):
    """A file, to be read, with the superblock that it would have had its writer closed it.

    Args:
        path: Path.
    """

    def __init__(self, path):
        super().__init__(path, "rb")
        head = bytearray(superblock_of(path) or b"")
        if head:
            head[FLAGS] = 0
            struct.pack_into("<Q", head, END_OF_FILE, os.fstat(self.fileno()).st_size)
            struct.pack_into("<I", head, CHECKED, lookup3(bytes(head[:CHECKED])))
        self.head = bytes(head)

    def readinto(self, buffer):
        place = self.tell()
        count = super().readinto(buffer)
        ours = self.head[place : place + count]
        memoryview(buffer).cast("B")[: len(ours)] = ours
        return count


def lookup3(data):
    """Bob Jenkins's hash of 2006, `hashlittle` from 0, with which HDF5 checks its metadata: bytes -> int below 2^32."""
    a = b = c = (0xDEADBEEF + len(data)) & WORD
    blocks = [data[start : start + 12] for start in range(0, len(data), 12)]
    for number, block in enumerate(blocks, 1):
        x, y, z = struct.unpack("<3I", block.ljust(12, b"\0"))
        a, b, c = (a + x) & WORD, (b + y) & WORD, (c + z) & WORD
        if number < len(blocks):
            for shifts in ((4, 6, 8), (16, 19, 4)):
                a, b, c = mixed(a, b, c, *shifts)
    if not blocks:
        return c
    for shift_c, shift_a, shift_b in ((14, 11, 25), (16, 4, 14)):
        c = ((c ^ b) - rotated(b, shift_c)) & WORD
        a = ((a ^ c) - rotated(c, shift_a)) & WORD
        b = ((b ^ a) - rotated(a, shift_b)) & WORD
    return ((c ^ b) - rotated(b, 24)) & WORD


def mixed(a, b, c, first, second, third):
    """Half of `mix`."""
    a, c = ((a - c) & WORD) ^ rotated(c, first), (c + b) & WORD
    b, a = ((b - a) & WORD) ^ rotated(a, second), (a + c) & WORD
    c, b = ((c - b) & WORD) ^ rotated(b, third), (b + a) & WORD
    return a, b, c


def rotated(word, count):
    return (word << count | word >> (32 - count)) & WORD
