"""A Shorten encoder (Rice-coded first differences), and SPHERE files."""

import numpy as np


class _Bits:
    def __init__(self):
        self.bits = []

    def unsigned(self, value, k):
        self.bits += [0] * (value >> k) + [1] + [(value >> i) & 1 for i in reversed(range(k))]

    def signed(self, value, k):
        self.unsigned(2 * value if value >= 0 else 2 * ~value + 1, k)

    def long(self, value):
        k = value.bit_length()
        self.unsigned(k, 2)
        self.unsigned(value, k)

    def packed(self):
        return np.packbits(self.bits + [0] * (-len(self.bits) % 32)).tobytes()


def shorten(pcm, version=2, block=256):
    """Encode int16 samples [T] as a Shorten stream of one channel."""
    out = _Bits()
    # 16 bits, low byte first; channels; block; no prediction order, mean or skip
    for value in (5, 1, block, 0, 0, 0):
        out.long(value)
    last = 0
    for start in range(0, len(pcm), block):
        chunk = pcm[start : start + block].astype(np.int64)
        if len(chunk) != block:
            out.unsigned(5, 2)
            out.long(len(chunk))
        steps = np.diff(chunk, prepend=last)
        k = int(np.ceil(np.log2(max(1.0, np.abs(steps).mean()))))
        out.unsigned(1, 2)  # first differences
        out.unsigned(k, 3)
        for step in steps:
            out.signed(int(step), k + 1)
        last = chunk[-1]
    out.unsigned(4, 2)  # end
    return b"ajkg" + bytes([version]) + out.packed()


def sphere_bytes(pcm, coding="pcm", byte_format="01", rate=16000, checksum=None, count=None):
    """Return a SPHERE file of one channel, int16 [T], compressed if `coding` names shorten."""
    fields = {
        "channel_count -i": 1,
        "sample_count -i": len(pcm) if count is None else count,
        "sample_rate -i": rate,
        "sample_n_bytes -i": 2,
        f"sample_byte_format -s{len(byte_format)}": byte_format,
        f"sample_coding -s{len(coding)}": coding,
        "sample_checksum -i": int(pcm.sum(dtype=np.int64)) % 65536
        if checksum is None
        else checksum,
    }
    lines = "".join(f"{name} {value}\n" for name, value in fields.items())
    head = f"NIST_1A\n   1024\n{lines}end_head\n".encode().ljust(1024)
    if "shorten" in coding:
        return head + shorten(pcm, version=1 if "v1" in coding else 2)
    return head + pcm.astype(">i2" if byte_format == "10" else "<i2").tobytes()
