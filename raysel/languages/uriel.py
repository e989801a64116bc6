"""URIEL's features of languages, from the data files that the lang2vec package carries.

The package itself is never imported: it needs a module that newer setuptools lack, and takes seconds. Its data: URIEL
(Littell et al. 2017), CC BY-SA 4.0. Languages have ISO 639-3 codes.
"""

import io
import pickle
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from raysel.errors import UserError

# The features by prefix: the nearest-neighbour predictions, which have no holes.
PREDICTED = {"syntax": "S_", "phonology": "P_", "inventory": "INV_"}
GROUPS = (*PREDICTED, "geo", "learned")


class UrielError(UserError):
    """URIEL's data is not there, or not what it should be."""


def features(group: str, codes: Collection[str]) -> dict[str, NDArray[np.float64]]:
    """The features of one group for those of `codes` that have them.

    syntax (103), phonology (28), inventory (158): 0 or 1. geo (299): distances to fixed points, as a fraction of half
    the Earth's circumference. learned (512): what a translation model learned of the language (Malaviya et al. 2017).
    """
    if group == "learned":
        table = _learned()
        return {code: table[code].astype(np.float64) for code in codes if code in table}
    rows, names, values = _table("geocoord_features" if group == "geo" else "feature_predictions")
    columns = np.flatnonzero(np.char.startswith(names, "GC_" if group == "geo" else PREDICTED[group]))
    return {code: values[rows[code], columns].astype(np.float64) for code in codes if code in rows}


def fixed_points() -> NDArray[np.float64]:
    """(299, 2) latitude and longitude, in degrees, of the points that the geo features are distances to."""
    return np.array([[float(part) for part in name.split("_")[1:]] for name in _table("geocoord_features")[1]])


def families(codes: Collection[str]) -> dict[str, str]:
    """The top-level language family of those of `codes` that have one."""
    table = _families()
    return {code: table[code] for code in codes if code in table}


@cache
def _families() -> dict[str, str]:
    # The features run from a family down to its branches: a language's first is its family.
    rows, names, values = _table("family_features")
    first = (values > 0).argmax(axis=1)
    found = {code: str(names[first[row]]).removeprefix("F_") for code, row in rows.items() if values[row, first[row]]}
    _table.cache_clear()  # 120 MB
    return found


@cache
def _table(name: str) -> tuple[dict[str, int], NDArray[np.str_], NDArray[np.float32]]:
    """(code -> row, names of the columns, values)."""
    with np.load(_folder() / f"{name}.npz", allow_pickle=False) as data:
        return {str(code): row for row, code in enumerate(data["langs"])}, data["feats"], data["data"][:, :, 0]


@cache
def _learned() -> dict[str, NDArray[np.float32]]:
    content = read_pickled_npy((_folder() / "learned.npy").read_bytes())
    found = content.item() if isinstance(content, np.ndarray) and content.shape == () else None
    if not isinstance(found, dict):
        raise UrielError("lang2vec's learned.npy does not hold vectors by language")
    return {_text(code): np.asarray(vector) for code, vector in found.items()}


def _text(code: Any) -> str:
    return code.decode() if isinstance(code, bytes) else str(code)


def _folder() -> Path:
    # The import system would find the script lang2vec.py that comes along, where the raysel command is.
    try:
        return Path(str(distribution("lang2vec").locate_file("lang2vec/data")))
    except PackageNotFoundError:
        raise UrielError(
            "the package lang2vec, whose data files hold URIEL, is not installed: pip install lang2vec"
        ) from None


def read_pickled_npy(content: bytes) -> Any:
    """The object in a pickled .npy file, built of arrays, plain containers, texts and numbers alone."""
    stream = io.BytesIO(content)
    if npy.read_magic(stream) != (1, 0):
        raise UrielError("lang2vec's learned.npy is not in version 1.0 of NumPy's format")
    npy.read_array_header_1_0(stream)
    return _ArrayUnpickler(stream).load()


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every name but the few that arrays are rebuilt by: a pickle could run anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _reconstruct
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise UrielError(f"lang2vec's learned.npy asks for {module}.{name}, which no array needs: it is not loaded")


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> NDArray[Any]:
    """The empty array that an unpickled one starts as."""
    return np.ndarray.__new__(kind, shape, dtype)


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 reads the bytes that Python 2 pickled."""
    if encoding != "latin1":
        raise UrielError(f"lang2vec's learned.npy holds a text in {encoding}: it is not loaded")
    return text.encode("latin1")
