"""A hundred thousand bodies for each codec, in this process: valid, damaged, noise. The same in each run."""

import random
from collections.abc import Iterator

import msgspec
import pytest

from mqworker.jobs.codecs import UndecodableError, decode

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

BODIES = 100_000
ATOMS = (None, True, -1, 0, 2**63, -(2**63), 1.5, 1e300, "", "grün", "\x00\x1b[31m\n\u2028", "x" * 70)
TOKENS = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"null", b"NaN", b"1e999", b"-", b"0", b"9" * 40),
    *(
        b"\xef\xbb\xbf",
        b"\xff",
        b"\x00",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xc7\x01\xff",
        b"\xd6\xff",
    ),
)


def bodies(chance: random.Random, count: int, valid: list[bytes]) -> Iterator[bytes]:
    """Yield three kinds in turn: a valid body with up to three bytes changed, removed or inserted; tokens; noise."""
    for number in range(count):
        match number % 4:
            case 0 | 1:
                body = bytearray(chance.choice(valid))
                for _ in range(chance.randrange(4)):
                    at = chance.randrange(len(body) + 1)
                    body[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
                yield bytes(body)
            case 2:
                yield b"".join(chance.choices(TOKENS, k=chance.randrange(12)))
            case _:
                yield chance.randbytes(chance.randrange(40))


def valid_bodies(chance: random.Random, count: int = 200) -> dict[str, list[bytes]]:
    """Return what clients send when nothing is wrong, by content type."""

    def value(depth: int) -> object:
        kind = chance.randrange(4) if depth else 0
        if kind == 1:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        if kind == 2:
            return {f"k{number}": value(depth - 1) for number in range(chance.randrange(4))}
        return chance.choice(ATOMS)

    values = [value(4) for _ in range(count)]
    return {
        "application/json": [msgspec.json.encode(each) for each in values],
        "application/msgpack": [msgspec.msgpack.encode(each) for each in values],
        "text/plain": [str(each).encode() for each in values],
    }


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack", "text/plain"])
def test_a_hundred_thousand_bodies(kind):
    """Every body yields a value or an UndecodableError whose sentence can be logged; both kinds occur."""
    chance = random.Random(kind)
    good = 0
    sentences = set()
    for body in bodies(chance, BODIES, valid_bodies(chance)[kind]):
        try:
            decode(body, kind, None, "json")
            good += 1
        except UndecodableError as error:
            sentences.add(str(error))
    assert all(0 < len(sentence.encode()) < 500 for sentence in sentences)
    assert BODIES // 20 < good < BODIES * 19 // 20
