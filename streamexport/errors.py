"""Every error that streamexport raises on purpose.

    Error                     base of all; `str()` is one line: where, what, what to do
    ├── FormatError           a file is not what its format allows          (ValueError)
    │   ├── TruncatedError    it ends where its own tables say it goes on
    │   └── UnsafePickleError a pickle calls what no name stands for
    ├── TensorError           one tensor cannot be used as it stands        (ValueError)
    ├── NetError              tensors, net and options do not fit together  (ValueError)
    ├── LimitError            a size or a value exceeds what can be written (OverflowError)
    ├── SourceError           an input cannot be read                       (OSError)
    │   ├── SourceChangedError  it changed while it was being read
    │   └── DigestError       its SHA-256 is not the one that it should have
    ├── OutputError           an output cannot be written                   (OSError)
    ├── VerifyError           a model is not what its checkpoint makes      (ValueError)
    ├── EngineError           Caffe or OpenCV gives up                      (RuntimeError)
    │   └── AbsentError       it is not there, or does not read such files
    ├── ClusterError          workers cannot be had, or went away           (RuntimeError)
    ├── MissingError          a package that this takes is not installed    (ImportError)
    └── FaultError            streamexport itself is wrong                  (RuntimeError)

Each also derives from the built-in exception beside it, so that callers can catch either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


class Error(Exception):
    """Base class. The command line prints `str(error)` as its one line and exits with status 1.

    Parameters
    ----------
    what : what was found, as a clause without a full stop
    file : the file it was found in
    tensor : the tensor (or layer) it concerns
    offset : the byte offset in `file`
    advice : what to do about it
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what, self.file, self.tensor, self.offset, self.advice = what, file, tensor, offset, advice

    def __str__(self) -> str:
        where = [f"{self.file}: "] if self.file else []
        if self.tensor is not None:
            where.append(f"{self.tensor}: ")
        at = f" (at byte {self.offset})" if self.offset is not None else ""
        advice = f"; {self.advice}" if self.advice else ""
        return one_line("".join(map(_shortened, where)) + _shortened(self.what) + at + _shortened(advice))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


LONGEST = 1000
"""Characters of a part of a message: names in a damaged file may be as long as the file."""


def one_line(text: str) -> str:
    """`text` with control characters escaped: names come from foreign files and go to terminals."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def reason(error: BaseException) -> str:
    """What the system said, without its error number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class FormatError(Error, ValueError):
    """A file's bytes are not what its format allows, or the format is none that is read."""


@contextmanager
def judging(file: str) -> Iterator[None]:
    """Makes a FormatError of whatever else comes out of reading a file: what is in it is foreign, and anything can be."""
    try:
        yield
    except Error:
        raise
    except ImportError as error:
        raise missing(error) or error from None
    except MemoryError as error:
        raise FormatError("takes more memory to read than there is", file=file) from error
    except Exception as error:
        raise FormatError(f"is malformed: {type(error).__name__}, {error}", file=file) from error


class TruncatedError(FormatError):
    """A file ends before the bytes that its own tables say it has."""


class UnsafePickleError(FormatError):
    """A pickle calls something that is no name, so that nothing says what it would make."""


class TensorError(Error, ValueError):
    """A tensor that is needed reaches outside its storage, or has elements that no blob can hold."""


class NetError(Error, ValueError):
    """Tensors, a net, its description and options do not fit together, or Caffe has no layers for what a net computes."""


class LimitError(Error, OverflowError):
    """A number or a file is larger than what it is to be written as can hold."""


class SourceError(Error, OSError):
    """An input cannot be opened or read, or is a file that nobody named."""


class SourceChangedError(SourceError):
    """An input is no longer what it was when its headers were read."""


class DigestError(SourceError):
    """An input has another SHA-256 than its name, or whoever asked for it, says."""


class OutputError(Error, OSError):
    """An output cannot be written, has no usable name, or is one of the inputs."""


class VerifyError(Error, ValueError):
    """A model's blobs are not what its checkpoint makes, or what it computes is not what torch computes."""


class EngineError(Error, RuntimeError):
    """There is no engine of that name, or it ended without an answer."""


class AbsentError(EngineError):
    """An engine is not installed, or does not read files of this kind."""


class ClusterError(Error, RuntimeError):
    """A scheduler does not answer, its workers went away, or they have another version of streamexport."""


class MissingError(Error, ImportError):
    """A package that this needs, and others do not, is not installed."""


PACKAGES = {
    "PIL": ("Pillow", "streamexport[eval]"),
    "boto3": ("boto3", "streamexport[cluster]"),
    "cv2": ("OpenCV", "opencv-python-headless<5"),
    "distributed": ("Dask", "streamexport[cluster]"),
    "h5py": ("h5py", "h5py"),
    "matplotlib": ("matplotlib", "streamexport[plot]"),
    "numpy": ("numpy", "numpy"),
    "obstore": ("obstore", "streamexport[remote]"),
    "torch": ("torch", "streamexport[torch]"),
    "tqdm": ("tqdm", "tqdm"),
}
"""By what is imported: what it is called, and what pip is to install."""


def missing(error: ImportError) -> MissingError | None:
    """What says how to install the package that an import did not find; None where another one, or something else, failed."""
    package = (error.name or "").partition(".")[0]
    return absent(package) if package in PACKAGES and isinstance(error, ModuleNotFoundError) else None


def absent(package: str) -> MissingError:
    name, wanted = PACKAGES[package]
    return MissingError(f"this needs {name}, which is not installed", advice=f"pip install '{wanted}'")


def need(package: str) -> None:
    """MissingError if a package is not installed; it is not imported."""
    if find_spec(package) is None:
        raise absent(package)


class FaultError(Error, RuntimeError):
    """Something in streamexport itself went wrong: `what` goes on with whose fault it is, and how to report it."""

    def __init__(self, what: str, *, tensor: str | None = None) -> None:
        advice = f"this is a fault of streamexport's: please report it, with what {DEBUG}=1 shows"
        super().__init__(what, tensor=tensor, advice=advice)

    @classmethod
    def of(cls, error: BaseException, place: str | None = None) -> FaultError:
        """Of an exception that nobody expected: its name, what it says, and the line of ours that it came from."""
        from traceback import extract_tb

        own = str(Path(__file__).parent)
        frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename.startswith(own)]
        at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        said = f": {reason(error)}" if reason(error) else ""
        return cls(f"{type(error).__name__}{at}{said}", tensor=place)


DEBUG = "STREAMEXPORT_DEBUG"
"""Environment variable that makes the command line show where an error came from."""
