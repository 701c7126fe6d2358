"""The tensors of a bundle besides the graph: golden vectors and embedding statistics, read from .npz without pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from edge.errors import BundleError
from edge.records import OUTPUT_NAMES, RawOutputs

# Bytes after decompression: 4096 golden images of 192 x 192 are 151 MB, and a zip bomb is far beyond.
MAX_UNPACKED_BYTES = 512 * 2**20


@dataclass(frozen=True)
class OodStats:
    """A Gaussian fitted to the embeddings of training images.

    `mean` float32 [D]; `whitening` float32 [K,D]: `whitening @ (e - mean)` has unit covariance on training embeddings,
    K <= D.
    """

    mean: np.ndarray
    whitening: np.ndarray

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """float [N,D] -> float32 [N]: root mean square of the whitened coordinates (Mahalanobis distance / sqrt K),
        about 1 for a training image whatever K is."""
        z = (embeddings - self.mean) @ self.whitening.T
        return np.asarray(np.sqrt(np.mean(z * z, axis=1)), np.float32)


@dataclass(frozen=True)
class GoldenVectors:
    """`inputs` uint8 [N,1,S,S]; what PyTorch FP32 and the canonical graph gave for them."""

    inputs: np.ndarray
    fp32: RawOutputs
    qdq: RawOutputs


def pack_ood(stats: OodStats) -> bytes:
    """OodStats -> the bytes of `ood.npz`."""
    return _pack({"mean": stats.mean.astype(np.float32), "whitening": stats.whitening.astype(np.float32)})


def unpack_ood(data: bytes, file: str, dim: int) -> OodStats:
    """The bytes of `ood.npz` -> OodStats for embeddings of size `dim`. BundleError for anything missing, extra or of
    wrong shape."""
    arrays = _unpack(data, file, {"mean", "whitening"})
    mean = _checked(arrays, file, "mean", np.float32, (dim,))
    whitening = _checked(arrays, file, "whitening", np.float32, (None, dim))
    return OodStats(mean, whitening)


def pack_golden(golden: GoldenVectors) -> bytes:
    """GoldenVectors -> the bytes of `golden.npz`."""
    arrays: dict[str, np.ndarray] = {"inputs": golden.inputs}
    for prefix, outputs in (("fp32", golden.fp32), ("qdq", golden.qdq)):
        arrays |= {f"{prefix}_{name}": array.astype(np.float32) for name, array in outputs.named().items()}
    return _pack(arrays)


def unpack_golden(
    data: bytes, file: str, count: int, size: int, dim: int, grid: int, others: Collection[str] = ()
) -> GoldenVectors:
    """The bytes of `golden.npz` -> GoldenVectors of `count` images of side `size`, embeddings `dim`, maps `grid` x
    `grid`, with the heads `others` besides plane and hygroma."""
    arrays = _unpack(data, file, {"inputs", *(f"{p}_{n}" for p in ("fp32", "qdq") for n in (*OUTPUT_NAMES, *others))})
    shapes = {"embedding": (count, dim), "nuchal_map": (count, grid, grid)}

    def outputs(prefix: str, names: Collection[str]) -> dict[str, np.ndarray]:
        return {n: _checked(arrays, file, f"{prefix}_{n}", np.float32, shapes.get(n, (count,))) for n in names}

    inputs = _checked(arrays, file, "inputs", np.uint8, (count, 1, size, size))
    fp32, qdq = (
        RawOutputs(**outputs(prefix, OUTPUT_NAMES), others=outputs(prefix, others))
        for prefix in ("fp32", "qdq")
    )
    return GoldenVectors(inputs, fp32, qdq)


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    # numpy's stub reads any keyword as allow_pickle
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(data: bytes, file: str, names: set[str]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            unpacked = sum(info.file_size for info in archive.infolist())
        if found != names:
            raise BundleError(f"{file}: found arrays {sorted(found)}; expected {sorted(names)}; rebuild the bundle")
        if unpacked > MAX_UNPACKED_BYTES:
            raise BundleError(
                f"{file}: unpacks to {unpacked} bytes; at most {MAX_UNPACKED_BYTES} allowed; use fewer images"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        ValueError,
        OSError,
        EOFError,
        KeyError,
        RuntimeError,  # encrypted, or a method that zipfile does not know
        MemoryError,  # a shape that no machine holds
        zlib.error,
    ) as error:
        raise BundleError(f"{file}: not a readable .npz ({error}); the file is damaged, rebuild the bundle") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of a member that is no array
            raise BundleError(f"{file}: {name}: found something that is no array; rebuild the bundle")
    return arrays


def _checked(
    arrays: Mapping[str, np.ndarray], file: str, name: str, dtype: type, shape: tuple[int | None, ...]
) -> np.ndarray:
    array = arrays[name]
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits or array.size == 0:
        wanted = f"{np.dtype(dtype)} [{', '.join('any' if d is None else str(d) for d in shape)}]"
        raise BundleError(
            f"{file}: {name}: found {array.dtype} {list(array.shape)}; expected {wanted}; rebuild the bundle"
        )
    if not np.isfinite(array).all():
        raise BundleError(f"{file}: {name}: found values that are not finite; rebuild the bundle")
    array.setflags(write=False)
    return array
