"""Random damage to files, reproducible from the random generator."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_ODD_VALUES: tuple[bytes, ...] = (
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
    """Correct the checksum of every chunk of a damaged PNG, so that decoders do not stop at it."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        body = data[position + 4 : position + 8 + length]
        parts += [data[position : position + 4], body, struct.pack(">I", zlib.crc32(body))]
        position += 12 + length
    return b"".join(parts)


def mutate(seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Choose one of the files and damage it at one position or a few.

    Flips bits, overwrites bytes, inserts odd values, removes parts, repeats them or copies them
    from another file, and truncates.
    """
    data = bytearray(seeds[int(rng.integers(len(seeds)))])
    for _ in range(min(rng.geometric(0.6), 6)):
        start, length = int(rng.integers(len(data) + 1)), int(rng.geometric(0.2))
        end = start + length
        match rng.integers(7):
            case 0:
                for position in rng.integers(len(data), size=min(length, 3, len(data))):
                    data[position] ^= 1 << rng.integers(8)
            case 1:
                data[start:end] = rng.bytes(len(data[start:end]))
            case 2:
                odd = _ODD_VALUES[rng.integers(len(_ODD_VALUES))]
                data[start : start + rng.integers(2) * len(odd)] = odd
            case 3:
                del data[start:end]
            case 4:
                data[start:start] = data[start:end] * int(rng.integers(1, 20))
            case 5:
                other = seeds[int(rng.integers(len(seeds)))]
                position = int(rng.integers(len(other) + 1))
                data[start:end] = other[position : position + 5 * length]
            case 6:
                del data[start:]
    return bytes(data)
