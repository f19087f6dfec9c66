"""Images as a net wants them, and sets of images that say what they show.

A set is one of three things:

    DIR/n02124075/ILSVRC2012_val_00000001.JPEG     ImageNet's folders, one for each class
    DIR/imagenet_00_243.jpg                        files whose name ends with the class's index, behind the last `_`
    a text file of lines `path 243`                paths are relative to the folder that the file is in
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, NetError, SourceError, absent, missing, one_line, reason
from ..net.graph import IMAGENET
from ..sources import open_source

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..payload.tensors import Array

CROPS = ("center", "square", "none")
ORDERS = ("rgb", "bgr")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
RESIZED = 256 / 224
"""Shorter side of an image to side of the square that is cut out of it, as torchvision's nets are evaluated."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for. It knows more, among them PostScript, which it has Ghostscript run."""

MOST_PIXELS = 128 << 20
"""Of an image, before it is decoded and after it is resized: 0.4 GB as RGB, twice that for a moment."""

LIST_LIMIT = 64 << 20
"""Bytes of a list of images or of class names."""

BLANKS = " \t"

NUMBERED = re.compile(r"(ILSVRC\d+_(val|test)|n\d{8})_\d+")
"""How ImageNet calls its images: the number behind the `_` is not the label."""

MEAN = tuple(255 * mean for mean in IMAGENET.mean)
SCALE = tuple(1 / (255 * deviation) for deviation in IMAGENET.deviation)


@dataclass(frozen=True)
class Transform:
    """How an image becomes a net's input: resized, cut, then (pixel - mean) * scale of each pixel, which is 0 to 255.

    Resizing is bilinear, with antialiasing where the image shrinks. What is larger than the input then is cut to the
    input's size, in the middle. The defaults are what torchvision's nets are evaluated with, and so are those here.

    Attributes
    ----------
    crop : "center" makes the shorter side `resize` long; "square" cuts the largest square out of the middle and makes it
        `resize` × `resize`; "none" does so with the whole image, whatever its sides
    resize : pixels; None for 256 with "center" (for an input of 224, others in proportion), for the input's size else
    order : of the channels, "rgb" or "bgr"
    mean, scale : a number for each channel, in that order, or one for all
    """

    crop: str = "center"
    resize: int | None = None
    order: str = "rgb"
    mean: tuple[float, ...] = MEAN
    scale: tuple[float, ...] = SCALE

    def __post_init__(self) -> None:
        for what, value, known in (("crop", self.crop, CROPS), ("order of channels", self.order, ORDERS)):
            if value not in known:
                raise NetError(f"there is no {what} {value!r}", advice=f"choose from {', '.join(known)}")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """What an image becomes before its middle is cut out, as height and width; with "center", its shorter side."""
        if self.resize is not None:
            return self.resize, self.resize
        if self.crop == "center":
            side = round(max(height, width) * RESIZED)
            return side, side
        return (height, width) if self.crop == "none" else (max(height, width),) * 2

    def check(self, shape: tuple[int, int, int]) -> None:
        """NetError if no image can be made into an input of this shape: channels, height, width."""
        channels, height, width = shape
        if channels not in (1, 3):
            raise NetError(f"the net takes {channels} channels, an image has 3, or 1 in gray")
        for what, numbers in (("mean", self.mean), ("scale", self.scale)):
            if len(numbers) not in (1, channels):
                raise NetError(
                    f"{what} has {len(numbers)} numbers, the net takes {channels} channels",
                    advice="give one for each channel, or one for all",
                )
        if max(height * width, (self.resize or 0) ** 2) > MOST_PIXELS:
            side = f"{width}x{height}" if height * width > MOST_PIXELS else f"{self.resize}x{self.resize}"
            raise NetError(f"images of {side} are too large: {MOST_PIXELS} pixels are the most")
        if self.resize is not None and self.resize < max(height, width):
            raise NetError(f"resized to {self.resize}, an image does not fill the net's input of {width}x{height}")

    def describe(self, shape: tuple[int, int, int]) -> str:
        """In words, for an input of this shape."""
        channels, height, width = shape
        tall, wide = self.resized(height, width)
        first = {
            "center": f"shorter side to {tall}",
            "square": f"square in the middle to {wide}x{tall}",
            "none": f"to {wide}x{tall}",
        }[self.crop]
        order = self.order if channels == 3 else "gray"
        mean, scale = (", ".join(f"{number:.5g}" for number in numbers) for numbers in (self.mean, self.scale))
        return f"{first}, middle {width}x{height}, {order}, pixels 0..255, minus {mean}, times {scale}"


TORCH = Transform()
"""What torchvision's nets are evaluated with."""


def read_image(path: str, transform: Transform, shape: tuple[int, int, int]) -> Array:
    """An image as float32 of this shape: channels, height, width.

    Raises FormatError if it cannot be read as an image, Error if Pillow is not installed.
    """
    import numpy as np

    channels, height, width = shape
    image = _fitted(_decoded(path, "RGB" if channels == 3 else "L"), transform, height, width, path)
    pixels = np.asarray(image, np.float64).reshape(height, width, channels)
    if transform.order == "bgr":
        pixels = pixels[..., ::-1]
    # In float64 and rounded once, the input does not depend on how mean and scale are written.
    values = (pixels - transform.mean) * transform.scale
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def _decoded(path: str, mode: str) -> Image:
    try:
        from PIL import UnidentifiedImageError
        from PIL.Image import open as open_image
    except ImportError as error:
        raise (missing(error) or absent("PIL")) from error
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FormatError("is not a regular file", file=path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of metadata, which nobody reads
            with open_image(path, formats=FORMATS) as image:
                _check_pixels(path, *image.size)
                decoded: Image = image.convert(mode)
    except FormatError:
        raise
    except (UnidentifiedImageError, KeyError) as error:  # KeyError: a Pillow that was built without one of the formats
        raise FormatError("is no image of a kind that Pillow knows", file=path) from error
    except Exception as error:  # whatever decoders raise on a damaged file: SyntaxError, struct.error, ...
        raise FormatError(f"cannot be read as an image ({reason(error)})", file=path) from error
    return decoded


def _check_pixels(path: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise FormatError(f"has {width}x{height} pixels, {MOST_PIXELS} are the most", file=path)


def _fitted(image: Image, transform: Transform, height: int, width: int, path: str) -> Image:
    from PIL.Image import Resampling

    if transform.crop == "square":
        image = _square(image)
    tall, wide = transform.resized(height, width)
    if transform.crop == "center":  # torchvision's rule, which drops the fraction of the longer side
        wide, tall = (int(tall * side / min(image.size)) for side in image.size)
    if wide * max(tall, image.height) > MOST_PIXELS:  # Pillow makes it wide first, then tall
        what = f"has {image.width}x{image.height} pixels, and too many when it is resized to {wide}x{tall}"
        raise FormatError(what, file=path)
    return _middle(image.resize((wide, tall), Resampling.BILINEAR), height, width)


def _square(image: Image) -> Image:
    """Cut out the way scripts for Caffe do: half a pixel is dropped."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _middle(image: Image, height: int, width: int) -> Image:
    """Cut out the way torchvision does: half a pixel goes to the even side."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class ImageSet:
    """Images and what they show.

    Attributes
    ----------
    name : of the set, as it was given
    paths : of the images
    labels : of each image, the index of its class or the name of the folder that it is in
    folders : the names of all of them, sorted; none if labels are indices
    """

    name: str
    paths: tuple[str, ...]
    labels: tuple[int | str, ...]
    folders: tuple[str, ...] = ()


def open_images(path: str | os.PathLike[str]) -> ImageSet:
    """Finds the images of a set, and their labels; see above for what it may be.

    Raises
    ------
    SourceError : it is missing, or an image in a list is
    FormatError : it holds no images, or images without labels
    """
    where = Path(path)
    check_exist([str(where)])
    try:
        found = _from_folder(where) if where.is_dir() else _from_list(where)
    except OSError as error:
        raise SourceError(reason(error), file=error.filename or str(where)) from error
    if not found.paths:
        raise FormatError("holds no images", file=str(where))
    return found


def check_exist(paths: Sequence[str], advice: str | None = None) -> None:
    """SourceError for the first path at which there is nothing."""
    for path in paths:
        if not os.path.exists(path):
            raise SourceError("no such file", file=path, advice=advice)


def _from_folder(where: Path) -> ImageSet:
    folders = sorted(entry.name for entry in where.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    pairs = [(image, folder) for folder in folders for image in _images(where / folder)]
    flat = _images(where)
    if not pairs:
        return ImageSet(str(where), tuple(map(str, flat)), tuple(map(_label_in_name, flat)))
    if flat:
        advice = "keep them apart: it is not clear what they show"
        raise FormatError(
            f"holds images ({one_line(flat[0].name)}) beside folders of images", file=str(where), advice=advice
        )
    return ImageSet(
        str(where), tuple(str(image) for image, _ in pairs), tuple(folder for _, folder in pairs), tuple(folders)
    )


def _images(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and not entry.is_dir())


def _label_in_name(image: Path) -> int:
    match = re.fullmatch(r".*_(\d+)", image.stem, re.ASCII)
    if not match or NUMBERED.fullmatch(image.stem):
        what = "is called as ImageNet numbers its images" if match else "does not end with _LABEL"
        advice = "name images NAME_LABEL.jpg, put them into a folder for each class, or list them as lines `path label`"
        raise FormatError(f"its name {what}, so its label is not known", file=str(image), advice=advice)
    return int(match[1])


def _from_list(where: Path) -> ImageSet:
    advice = "give a folder of images, or a text file of lines `path label`"
    paths, labels = [], []
    for number, line in enumerate(read_lines(str(where), advice), 1):
        image, label = _path_and_label(line)
        if re.fullmatch(r"-?[0-9]{1,18}", label) and image:
            paths.append(str(where.parent / image))
            labels.append(int(label))
        elif line.strip():
            raise FormatError(f"line {number} is not `path label`: {line[:60]!r}", file=str(where), advice=advice)
    check_exist(paths, f"it is listed in {where}; paths are relative to the folder of the list")
    return ImageSet(str(where), tuple(paths), tuple(labels))


def _path_and_label(line: str) -> tuple[str, str]:
    """What stands before the last blank, and what behind it."""
    line = line.strip(BLANKS)
    at = max(map(line.rfind, BLANKS))
    return line[: max(at, 0)].rstrip(BLANKS), line[at + 1 :]


def read_lines(path: str, advice: str | None = None) -> list[str]:
    """The lines of a text file. SourceError if it cannot be read; FormatError if it is too long, or no text."""
    source = open_source(path)
    if source.size > LIST_LIMIT:
        raise FormatError(f"has {source.size} bytes, too many for a list", file=path, advice=advice)
    try:
        return source.read(0, source.size).decode().splitlines()
    except UnicodeDecodeError as error:
        raise FormatError("is not text", file=path, offset=error.start, advice=advice) from error
