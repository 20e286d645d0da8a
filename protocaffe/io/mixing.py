"""An arithmetic coder for bits whose probabilities are learnt on the way: the small streams of compressed models.

Each bit is predicted from several contexts. A context's slot holds the probability of a 1 that it has seen so far; the
predictions are mixed in the logistic domain by weights that learn too (as in Mahoney's PAQ, "Adaptive weighing of
context models for lossless data compression", 2005), and the result drives a binary arithmetic coder with 32 bits. So a
stream carries no tables: what is common is learnt after a few bits.

Encoder and Decoder have the same `bit`, so that one function describes a stream for both. Everything is IEEE double
arithmetic in a fixed order, one operation after the other, and tables of rounded numbers: the same on every machine.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

#: [probability of a 1, how often it was seen]
Slot = list[float]

STRETCH = [round(256 * math.log((i + 0.5) / (4095.5 - i))) / 256 for i in range(4096)]  # ln(p / (1 - p))
SQUASH = [min(max(round(65536 / (1 + math.exp((2047 - i) / 170))), 24), 65512) for i in range(4095)]
P_MIN, P_MAX = 1 / 4096, 4095 / 4096
LIMIT = 250
ORDERS = 5


def slot() -> Slot:
    """A context that has seen nothing."""
    return [0.5, 0]


class Coder:
    """What encoder and decoder share: the prediction, and streams of bytes and of numbers."""

    def __init__(self) -> None:
        self._low, self._high = 0, 0xFFFFFFFF
        self._text = _Contexts({})
        self._text_weights = [0.35] * ORDERS
        self._past = b""

    def bit(self, bit: int, slots: Sequence[Slot], weights: list[float], rate: float = 0.01) -> int:
        """Code one bit in these contexts; a decoder takes no notice of ``bit``. Slots and weights learn from it."""
        stretched = [STRETCH[int(s[0] * 4096)] for s in slots]
        total = 0.0
        for x, w in zip(stretched, weights, strict=True):
            total += x * w
        place = int(total * 170) + 2047
        p = SQUASH[0 if place < 0 else 4094 if place > 4094 else place]
        bit = self.coded(bit, p)
        step = (bit - p / 65536) * rate
        for i, x in enumerate(stretched):
            weights[i] += step * x
        for s in slots:
            seen = s[1]
            p_new = s[0] + (bit - s[0]) / (seen + 1.5)
            s[0] = P_MIN if p_new < P_MIN else P_MAX if p_new > P_MAX else p_new
            if seen < LIMIT:
                s[1] = seen + 1
        return bit

    def coded(self, bit: int, p: int) -> int:
        """Code one bit whose probability of being 1 is ``p`` / 65536."""
        raise NotImplementedError

    def number(self, value: int, bits: int) -> int:
        """Code a number below 2^bits as it is."""
        out = 0
        for i in reversed(range(bits)):
            out = out << 1 | self.coded(value >> i & 1, 32768)
        return out

    def symbol(self, value: int, bits: int, slots: Sequence[Slot], weights: list[list[float]]) -> int:
        """Code a number below 2^bits, whose frequencies are learnt in ``slots`` (2^bits), high bit first."""
        node = 1
        for i in range(bits):
            node = node << 1 | self.bit(value >> (bits - 1 - i) & 1, (slots[node],), weights[i])
        return node - (1 << bits)

    def text(self, data: bytes, size: int) -> bytes:
        """Code ``size`` bytes in the contexts of the 0 to 4 bytes before each."""
        out = bytearray()
        past = self._past
        for k in range(size):
            value = data[k] if data else 0
            orders = [self._text[bytes((order,)) + past[len(past) - order :]] for order in range(ORDERS)]
            node = 1
            for i in (7, 6, 5, 4, 3, 2, 1, 0):
                node = node << 1 | self.bit(value >> i & 1, [o[node] for o in orders], self._text_weights, 0.02)
            out.append(node & 255)
            past = (past + out[-1:])[-ORDERS + 1 :]
        self._past = past
        return bytes(out)

    def learn(self, data: bytes) -> None:
        """Before any text, take in one that both sides know, so that what is like it costs less."""
        school = _school(data)
        self._text, self._text_weights, self._past = _Contexts(school._text), [*school._text_weights], school._past


class _Contexts(dict[bytes, dict[int, Slot]]):
    """Slots by context and node of a byte's tree; what a context has learnt elsewhere is copied on its first use."""

    def __init__(self, learnt: dict[bytes, dict[int, Slot]]) -> None:
        super().__init__()
        self._learnt = learnt

    def __missing__(self, key: bytes) -> dict[int, Slot]:
        known: dict[int, Slot] = defaultdict(slot)
        self[key] = known
        for node, state in self._learnt.get(key, {}).items():
            known[node] = [*state]
        return known


class _School(Coder):
    """Learns and writes nothing."""

    def coded(self, bit: int, p: int) -> int:
        return bit


@lru_cache(maxsize=1)
def _school(data: bytes) -> _School:
    school = _School()
    school.text(data, len(data))
    return school


class Encoder(Coder):
    """Collects the stream in ``out``; `finish` ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()

    def coded(self, bit: int, p: int) -> int:
        middle = self._low + ((self._high - self._low) * p >> 16)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & 0xFF000000:
            self.out.append(self._high >> 24)
            self._low = self._low << 8 & 0xFFFFFFFF
            self._high = self._high << 8 & 0xFFFFFFFF | 255
        return bit

    def finish(self) -> bytes:
        """The stream. Behind its end a decoder reads zeros, so one byte more tells the last bits."""
        if self._low:
            self.out.append(self._high >> 24)
        return bytes(self.out).rstrip(b"\0")


class Decoder(Coder):
    """Reads what an Encoder wrote, given the same calls; damage gives other bits, never an error."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data, self._at = data, 4
        self._value = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def coded(self, bit: int, p: int) -> int:
        middle = self._low + ((self._high - self._low) * p >> 16)
        bit = int(self._value <= middle)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & 0xFF000000:
            self._low = self._low << 8 & 0xFFFFFFFF
            self._high = self._high << 8 & 0xFFFFFFFF | 255
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._at += 1
            self._value = (self._value << 8 | byte) & 0xFFFFFFFF
        return bit
