"""Damages files, the same way for the same random numbers."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_ODD: tuple[bytes, ...] = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"-1",
    b"0",
    b" ",
    b"\n",
    b",",
    b'"',
    b"9999999999999999999999999",
    b"1e999",
    b"nan",
    b"[",
    b"{",
    b"&a",
    b"*a",
    b"!!int ",
    b"../",
    b"\xe2\x80\xae",
)


def seal_png(data: bytes) -> bytes:
    """Give every chunk of a damaged PNG the checksum of its bytes, so that decoders go on."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        parts += [data[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        place += 12 + length
    return b"".join(parts)


def mutate(seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Take one of the files and change it in one place, or in a few.

    Bits are flipped, bytes overwritten, odd values put in, parts cut out, doubled or taken from
    another of the files, and ends cut off.
    """
    data = bytearray(seeds[int(rng.integers(len(seeds)))])
    for _ in range(min(rng.geometric(0.6), 6)):
        start, length = int(rng.integers(len(data) + 1)), int(rng.geometric(0.2))
        end = start + length
        match rng.integers(7):
            case 0:
                for place in rng.integers(len(data), size=min(length, 3, len(data))):
                    data[place] ^= 1 << rng.integers(8)
            case 1:
                data[start:end] = rng.bytes(len(data[start:end]))
            case 2:
                odd = _ODD[rng.integers(len(_ODD))]
                data[start : start + rng.integers(2) * len(odd)] = odd
            case 3:
                del data[start:end]
            case 4:
                data[start:start] = data[start:end] * int(rng.integers(1, 20))
            case 5:
                other = seeds[int(rng.integers(len(seeds)))]
                place = int(rng.integers(len(other) + 1))
                data[start:end] = other[place : place + 5 * length]
            case 6:
                del data[start:]
    return bytes(data)
