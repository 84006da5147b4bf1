"""Recordings as other programs write them, encoded by FFmpeg (PyAV)."""

import struct

import av
import numpy as np

WITHOUT_XING = {"write_xing": "0", "id3v2_version": "0"}


def encoded(
    path, samples, codec, rate=16000, *, format=None, bit_rate=None, gap=0.0, tracks=1, options=None
):
    """Encode float samples [T] at 16 kHz into a file of one channel, and return its path.

    Args:
        path: Path of the file.
        samples: Samples.
        codec: FFmpeg's name of the codec.
        rate: Sample rate of the file in Hz.
        format: Container, if it does not follow from the suffix.
        bit_rate: In bits per second.
        gap: Length in seconds of a gap between timestamps in the middle.
        tracks: Number of identical audio tracks.
        options: Options of the container.
    """
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        streams = [container.add_stream(codec, rate=rate, layout="mono") for _ in range(tracks)]
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        for stream in streams:
            context = stream.codec_context
            if bit_rate:
                context.bit_rate = bit_rate
            resampler = av.AudioResampler(context.format, "mono", rate, context.frame_size or 1024)
            pieces = [*resampler.resample(frame), *resampler.resample(None), None]
            for packet in (packet for piece in pieces for packet in stream.encode(piece)):
                if gap and packet.pts * packet.time_base > len(samples) / 32000:
                    packet.pts += round(gap / packet.time_base)
                    packet.dts = packet.pts
                container.mux(packet)
    return path


def wav_bytes(body, *, rate=16000, code=1, bits=16, riff=None, data=None, behind=b"", extra=b""):
    """Return a wav file of one channel whose header may state any length."""
    width = bits // 8
    form = struct.pack("<HHIIHH", code, 1, rate, rate * width, max(1, width), bits) + extra
    rest = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    rest += b"data" + struct.pack("<I", len(body) if data is None else data) + body + behind
    return b"RIFF" + struct.pack("<I", len(rest) if riff is None else riff) + rest
