"""Ways in which files get damaged, drawn from a seeded generator, so that a case's number brings it back."""

# Heads of other formats, and lengths that no file has.
HEADS = (
    b"\x89HDF\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"PK\x03\x04",
    b"PAR1",
    b"\x93NUMPY",
    b"\x80\x04.",
)
KINDS = ("bit", "bit in the head", "bit in the tail", "truncated", "head", "zeros", "huge", "repeated")


def damaged(content, kind, rng):
    """``content`` after one damage of this ``kind``, and what was done."""
    size = len(content)
    spoilt = bytearray(content)
    place = int(rng.integers(size)) if size else 0
    if kind.startswith("bit"):
        near = int(rng.integers(min(size, 256)))
        place = {"bit": place, "bit in the head": near, "bit in the tail": size - 1 - near}[kind]
        bit = int(rng.integers(8))
        spoilt[place] ^= 1 << bit
        return bytes(spoilt), f"bit {bit} of byte {place} flipped"
    if kind == "truncated":
        return content[:place], f"cut after {place} bytes"
    if kind == "head":
        head = HEADS[int(rng.integers(len(HEADS)))]
        spoilt[: len(head)] = head
        return bytes(spoilt), f"begins with {head!r}"
    width = int(rng.choice([1, 4, 8, 64]))
    if kind == "repeated":
        return content[:place] + content[max(0, place - width) :], f"{width} bytes twice at {place}"
    spoilt[place : place + width] = (b"\0" if kind == "zeros" else b"\xff") * len(spoilt[place : place + width])
    return bytes(spoilt), f"{width} {kind} bytes at {place}"
