"""One picture from its bytes: upright, by a fixed rule of depth, whole or refused, within bounds, by named decoders."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from stores.errors import IntegrityError
from stores.images import decoders, picture

KINDS = ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 150 * x / width, 40 + 150 * y / height, 90 + 0 * x], -1).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# ---- upright ----


def turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores an upright picture under each orientation (EXIF 2.3, tag 0x0112); no other number turns."""
    stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }.get(orientation, upright)
    return np.ascontiguousarray(stored)


def with_orientation(image: Image.Image, kind: str, place: str, orientation: int) -> bytes:
    lossy = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}
    options = lossy.get(kind, {})
    if place == "exif":
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encode(image, kind, exif=exif, **options)
    xmp = XMP % orientation
    if kind == "PNG":
        body = b"iTXt" + b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = encode(image, kind)
        return data[:-12] + chunk + data[-12:]  # behind the pixels, where it is allowed, too
    if kind == "TIFF":
        return encode(image, kind, tiffinfo={700: xmp})
    return encode(image, kind, xmp=xmp, **options)


@given(
    kind=st.sampled_from(KINDS),
    place=st.sampled_from(["exif", "xmp"]),
    orientation=st.integers(0, 9),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA", "P"]),
    height=st.integers(16, 40),
    width=st.integers(16, 40),
)
@settings(max_examples=100, deadline=None)
def test_every_picture_is_upright_and_its_size_is_that_of_its_pixels(kind, place, orientation, mode, height, width):
    upright = smooth(height, width)
    has = {"JPEG": ("RGB", "L"), "WEBP": ("RGB", "RGBA", "L"), "AVIF": ("RGB", "RGBA", "L")}.get(kind, (mode,))
    image = Image.fromarray(turned(upright, orientation)).convert(mode if mode in has else "RGB")
    expected = np.asarray(image.convert("RGB")).astype(int)
    data = with_orientation(image, kind, place, orientation)
    assert picture.size(data) == (height, width)
    found = picture.pixels(data, (height, width)).astype(int)
    assert np.abs(turned(found, orientation) - expected).mean() <= (8 if kind in ("JPEG", "AVIF") else 0)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as stores.images.decoders does for the commands
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_damaged_metadata_costs_no_good_picture(kind, seed):
    rng, image, exif = np.random.default_rng(seed), Image.fromarray(smooth(16, 24)), Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "camera"
    whole = encode(image, kind, exif=exif)
    block = exif.tobytes()
    at, data = whole.index(block[-20:]) + 20 - len(block), bytearray(whole)
    for offset in rng.integers(8, len(block), 4):
        data[at + offset] = rng.integers(256)
    for start in range(at, at + len(block) - 1):  # nothing that turns it by chance
        if data[start : start + 2] in (b"\x01\x12", b"\x12\x01") and data[start:] != whole[start:]:
            data[start : start + 2] = b"\0\0"
    expected = picture.pixels(whole, (16, 24))
    np.testing.assert_array_equal(picture.pixels(bytes(data), (16, 24)), expected)
    assert picture.size(bytes(data)) == (16, 24)


# ---- depth ----


def tiff(samples: np.ndarray, bits: int, photometric: int = 1, kind: int = 1) -> bytes:
    """An uncompressed grey TIFF, little-endian; kind: 1 unsigned, 2 signed."""
    height, width = samples.shape
    raw = samples.tobytes()
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 0),
        (277, 1),
        (278, height),
        (279, len(raw)),
        (339, kind),
    ]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + raw


GREY = np.arange(256).reshape(16, 16)
PACKED = np.frombuffer(
    b"".join(struct.pack(">I", (a << 12 | b))[1:] for a, b in (GREY.reshape(-1, 2) * 4095 // 255).tolist()), np.uint8
).reshape(16, 24)


@pytest.mark.parametrize(
    ("data", "range_"),
    [
        (encode(Image.fromarray((GREY * 257).astype(np.uint16)), "PNG"), None),
        (encode(Image.fromarray((GREY * 257).astype(np.uint16)), "PPM"), None),
        (encode(Image.fromarray((GREY * 257).astype(np.uint16)), "JPEG2000"), None),
        (tiff((GREY * 257).astype("<u2"), 16), None),
        (tiff((65535 - GREY * 257).astype("<u2"), 16, photometric=0), None),
        (encode(Image.fromarray((GREY * 16).astype(np.uint16)), "PNG"), (0, 4080)),
        (tiff((GREY * 257 - 32768).astype("<i2"), 16, kind=2), (-32768, 32767)),
        (tiff((GREY - 128).astype("<i1"), 8, kind=2), (-128, 127)),
        (tiff((GREY * 16843009).astype("<u4"), 32), (0, 2**32 - 1)),
        (tiff((GREY * 100 - 9000).astype("<i4"), 32, kind=2), (-9000, 16500)),
        (encode(Image.fromarray((GREY / 255).astype(np.float32)), "TIFF"), (0, 1)),
        (encode(Image.fromarray(GREY.astype(np.uint8)), "PNG"), (0, 4095)),  # of 8 bits: as it is
    ],
)
def test_black_and_white_are_the_range_of_the_type_or_the_given_one(data, range_):
    found = picture.pixels(data, (16, 16), range_)
    np.testing.assert_array_equal(found, np.stack([GREY] * 3, -1))


def test_twelve_bits_reach_white():
    data = tiff(PACKED, 12).replace(struct.pack("<HHII", 256, 4, 1, 24), struct.pack("<HHII", 256, 4, 1, 16))
    np.testing.assert_allclose(picture.pixels(data, (16, 16))[..., 0], GREY, atol=1)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tiff((GREY * 257 - 32768).astype("<i2"), 16, kind=2), "signed 16-bit"),
        (tiff((GREY - 128).astype("<i1"), 8, kind=2), "signed 8-bit"),
        (tiff(GREY.astype("<u4"), 32), "32-bit"),
        (encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_numbers_without_a_known_range_are_refused(data, what):
    with pytest.raises(picture.BrokenImage, match=rf"^{what} pixels have no known range; .*--range LOW,HIGH"):
        picture.pixels(data, (16, 16))
    assert picture.size(data) == (16, 16)


def test_deep_colour_has_the_range_of_its_type_and_takes_no_other():
    rgb = np.stack([GREY, GREY[::-1], GREY.T], -1)
    rows = b"".join(b"\0" + row.tobytes() for row in (rgb * 257).astype(">u2"))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    np.testing.assert_array_equal(picture.pixels(data, (16, 16)), rgb)
    with pytest.raises(picture.BrokenImage, match="8 bits"):
        picture.pixels(data, (16, 16), (0, 4095))


# ---- whole or refused ----


@given(seed=st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_a_png_with_a_wrong_byte_is_refused(seed):
    rng = np.random.default_rng(seed)
    data = bytearray(encode(noise(16, 16), "PNG"))
    data[rng.integers(8, len(data) - 12)] ^= rng.integers(1, 256)
    with pytest.raises(picture.BrokenImage):
        picture.pixels(bytes(data), (16, 16))
    with pytest.raises(picture.BrokenImage):
        picture.size(bytes(data))


@pytest.mark.parametrize("shape", [(256, 256), (32, 32)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lost_a_piece_in_the_middle_is_refused(mode, shape):
    data = encode(Image.fromarray(smooth(256, 256)).convert(mode), "JPEG", quality=100)
    assert picture.pixels(data, shape).shape == (*shape, 3)
    middle, lost = len(data) // 2, len(data) // 4
    with pytest.raises(picture.BrokenImage, match=r"Corrupt JPEG data|Premature end"):
        picture.pixels(data[:middle] + data[middle + lost :], shape)


def test_a_jpeg_with_an_unknown_version_or_colour_transform_is_read():
    whole = encode(Image.fromarray(smooth(16, 16)), "JPEG")
    at = whole.index(b"JFIF") + 5
    np.testing.assert_array_equal(
        picture.pixels(whole[:at] + b"\x07" + whole[at + 1 :], (16, 16)), picture.pixels(whole, (16, 16))
    )


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", [*KINDS, "GIF", "BMP", "TGA", "PPM", "JPEG2000", "QOI", "DDS", "SGI", "PCX"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_hostile_bytes_are_a_broken_picture_or_pixels(kind, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(encode(noise(12, 12), kind))
    for at in rng.integers(0, min(len(data), 300), 3):
        data[at] = rng.integers(256)
    if seed % 2:
        del data[rng.integers(len(data)) :]
    try:
        found = picture.pixels(bytes(data), (8, 8))
    except picture.BrokenImage:
        return
    assert (found.shape, found.dtype) == ((8, 8, 3), np.uint8)


def test_whatever_a_decoder_raises_is_a_broken_picture_but_a_lack_of_memory(monkeypatch):
    data = encode(noise(8, 8), "BMP")
    for raised, expected in ((NotImplementedError("pixel format"), picture.BrokenImage), (MemoryError(), MemoryError)):

        def fail(*_, raised=raised):
            raise raised

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(expected):
            picture.pixels(data, (8, 8))


# ---- bounds ----


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n",
        encode(noise(16, 16), "ICO"),
        b"GRIB" + bytes(100),
        b"\x89HDF\r\n\x1a\n" + bytes(100),
    ],
)
def test_a_format_that_is_not_named_is_not_opened(data, tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for look in (picture.size, lambda data: picture.pixels(data, (8, 8))):
        with pytest.raises(picture.BrokenImage, match="it is none of JPEG, PNG"):
            look(data)
    assert not (tmp_path / "ran").exists()


def test_a_picture_with_too_many_pixels_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decoders, "MOST_PIXELS", 100)
    monkeypatch.setattr(decoders, "most_pixels", None)
    file = tmp_path / "large.png"
    file.write_bytes(encode(noise(10, 12), "PNG"))
    with pytest.raises(IntegrityError, match=r"too large a picture: '.*large\.png'") as caught:
        picture.load(str(file), (8, 8))
    assert "12 × 10 are more than 100 pixels" in caught.value.why
    assert "--max-pixels" in caught.value.hint
    picture.allow(120)
    assert picture.load(str(file), (8, 8)).shape == (8, 8, 3)


def test_threads_share_one_memory_for_decoding(monkeypatch):
    """Each picture takes 40 % of it, so that two are decoded at a time, and one that exceeds it alone."""
    data = encode(noise(10, 10), "BMP")
    monkeypatch.setattr(decoders, "memory", decoders.Memory(2000))
    monkeypatch.setattr(decoders, "most_pixels", 10**6)
    at_once, most, lock, both = 0, [], threading.Lock(), threading.Barrier(2)

    def held(bytes_: bytes) -> None:
        nonlocal at_once
        with decoders.opened(bytes_) as opened:
            with lock:
                at_once += 1
                most.append(at_once)
            if opened.size == (10, 10):
                both.wait(60)
            with lock:
                at_once -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(held, [data] * 12))
        assert max(most) == 2
        most.clear()
        list(pool.map(held, [encode(noise(20, 20), "BMP")] * 6))
        assert max(most) == 1
    assert decoders.memory.free == 2000
