"""Every check of an input, and every message: what came, where, and what is allowed."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
REDUCTIONS = ("none", "sum", "mean", "batchmean")
HALF_TYPES = ("float16", "bfloat16")
SUM_TOLERANCE = {"float16": 1e-2, "bfloat16": 1e-1}  # probabilities come to us rounded
OTHER_SUM_TOLERANCE = 1e-4
NO_ROW = np.empty(0)  # weights that are all 1, losses that nobody asks for
FLOAT_MAX = float(np.finfo(np.float64).max)
INT64 = np.dtype(np.int64)  # another type takes longer to compare with


# Options ----------------------------------------------------------------------------------------


def reduction(value: object) -> None:
    """Raise ValueError unless value names a reduction."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        allowed = ", ".join(repr(name) for name in REDUCTIONS)
        raise ValueError(f"reduction is {value!r}; it must be one of {allowed}")


def number(name: str, value: object, low: float, high: float, open_low: bool = False) -> float:
    """Return value as a float if it lies in [low, high] (or (low, high]), else raise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be a number")
    inside = (low < value if open_low else low <= value) and value <= high
    if not (inside and _is_finite(value)):
        lower = f"greater than {low:g}" if open_low else f"at least {low:g}"
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} is {value!r}; it must be finite, {lower}{upper}")
    return float(value)


def _is_finite(value: Any) -> bool:
    """Return whether a number is one as a float; compared, as a compiler's symbols may be."""
    wide = value.item() if isinstance(value, np.generic) else value
    return bool(-FLOAT_MAX <= wide <= FLOAT_MAX)


def whole_number(name: str, value: object) -> int:
    """Return value as an int if it is a whole number, else raise TypeError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be an integer")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value}; it must be an integer of at most 64 bits")
    return int(value)


def weights_option(name: str, value: Any) -> tuple[float, ...] | None:
    """Return weights as a tuple of finite numbers >= 0 (so that a frozen loss stays one)."""
    if value is None:
        return None
    array = as_float64(name, value)
    if array.ndim > 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be one-dimensional")
    _finite_and_not_negative(name, array.reshape(-1))
    return tuple(array.reshape(-1).tolist())


def names(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless value holds nothing but some of the names."""
    given = value if isinstance(value, (tuple, list)) else (None,)
    if not all(isinstance(each, str) and each in allowed for each in given):
        raise ValueError(
            f"{name} is {_brief(value)}; it must be a tuple of some of {', '.join(allowed)}"
        )


def byte_count(name: str, value: object) -> int:
    """Return a number of bytes, given as one or as text like "64MB" or "1.5GiB"."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]i?)?b\s*", str(value).lower())
    if isinstance(value, str) and found and found[1].count(".") < 2 and found[1] != ".":
        prefix = found[2] or ""
        base = 1024 if prefix.endswith("i") else 1000
        size = float(found[1]) * base ** (" kmgt".index(prefix[0]) if prefix else 0)
        if size < math.inf:
            return int(size)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise ValueError(
        f'{name} is {_brief(value)}; it must be a number of bytes, such as 1000000, "64MB" or '
        '"1GiB"'
    )


# Arrays -----------------------------------------------------------------------------------------


def as_float64(name: str, value: Any) -> NDArray[np.float64]:
    """Return value as a float64 array, or say why that cannot be."""
    array = as_array(name, value)
    if array.dtype.kind not in "biuf" and array.dtype.name not in HALF_TYPES:
        raise TypeError(f"{name} is {_brief(value)}; it must hold numbers")
    return array.astype(np.float64, copy=False)


def as_array(name: str, value: Any) -> Array:
    """Return value as an array in this machine's byte order."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise TypeError(f"{name} is {_brief(value)}; it must hold numbers") from None
    except (TypeError, RuntimeError) as error:  # a tensor that NumPy cannot read
        raise TypeError(
            f"{name} is {_brief(value)}; it must be something NumPy can read: {error}"
        ) from None
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def logits(value: Any, name: str = "logits") -> Array:
    """Return scores as a floating array: lists become float64, arrays keep their type."""
    if not hasattr(value, "dtype"):
        return as_float64(name, value)
    array = as_array(name, value)
    if not _is_floating(array.dtype):
        raise TypeError(
            f"{name} has dtype {array.dtype}; it must be float16, bfloat16, float32 or float64"
        )
    return array


def _is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether scores may have this type; its name is slow to ask for."""
    return dtype.char in "fd" or dtype.name in HALF_TYPES


def axis(value: int, ndim: int) -> int:
    """Return the class axis counted from 0."""
    if ndim == 0:
        raise ValueError("logits is a single number; it needs an axis of classes")
    if type(value) is not int:
        value = whole_number("axis", value)
    if not -ndim <= value < ndim:
        raise ValueError(
            f"axis is {value}, but logits has {ndim} axes; it must be in [{-ndim}, {ndim - 1}]"
        )
    return value % ndim


def classes(count: int) -> None:
    """Raise ValueError for an axis of no classes."""
    if count == 0:
        raise ValueError("logits has 0 classes; there must be at least 1")


def targets(value: Any, logits_shape: tuple[int, ...], axis: int) -> Array:
    """Return softmax targets: integer indices (rows' shape) or probabilities (logits' shape)."""
    array = as_array("targets", value)
    row_shape = logits_shape[:axis] + logits_shape[axis + 1 :]
    if array.dtype.kind in "iu" or (array.size == 0 and array.shape == row_shape):
        if array.shape != row_shape:
            raise ValueError(
                f"targets has shape {array.shape}, but logits has shape {logits_shape} with "
                f"classes on axis {axis}; class indices must have shape {row_shape}"
            )
        return _signed(array, logits_shape[axis])
    _check_probability_type(array, "class indices")
    if array.shape != logits_shape:
        raise ValueError(
            f"targets has shape {array.shape} and dtype {array.dtype}; probabilities must have "
            f"the shape of logits, {logits_shape}"
        )
    return array


def _signed(indices: Array, classes: int) -> NDArray[np.int64]:
    """Return indices as int64; a uint64 beyond it would come out as another, negative index."""
    if indices.dtype == INT64:
        return indices
    if indices.dtype == np.uint64 and (indices >> 63).any():
        position = _position(indices >> 63 == 1)
        raise ValueError(
            f"targets{position} is {indices[position]}; a class index must be in [0, {classes - 1}]"
        )
    return indices.astype(np.int64, copy=False)


def binary_targets(value: Any, logits_shape: tuple[int, ...]) -> Array:
    """Return sigmoid targets: 0 and 1, or probabilities, of the logits' shape."""
    array = as_array("targets", value)
    if array.dtype.kind not in "iub":
        _check_probability_type(array, "0 and 1")
    if array.shape != logits_shape:
        raise ValueError(
            f"targets has shape {array.shape}; it must have the shape of logits, {logits_shape}"
        )
    return array


def _check_probability_type(array: Array, otherwise: str) -> None:
    if not _is_floating(array.dtype):
        raise TypeError(
            f"targets has dtype {array.dtype}; it must be integer ({otherwise}) "
            "or floating (probabilities)"
        )


def bad_index(targets: Array, classes: int, ignore_index: int) -> ValueError:
    """Return the error that names the first class index out of range."""
    outside = ((targets < 0) | (targets >= classes)) & (targets != ignore_index)
    position = _position(outside)
    return ValueError(
        f"targets{position} is {targets[position]}; a class index must be in "
        f"[0, {classes - 1}] or the ignore_index {ignore_index}"
    )


def bad_probability(values: Array, name: str = "targets", taking_part: Any = True) -> ValueError:
    """Return the error that names the first entry outside [0, 1]."""
    position = _position(~((values >= 0) & (values <= 1)) & taking_part)
    return ValueError(f"{name}{position} is {values[position]}; a probability must be in [0, 1]")


def sample_weight(value: Any, *shapes: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return sample weights in float64, of one of the shapes allowed, all finite and >= 0."""
    if value is None:
        return None
    array = as_float64("sample_weight", value)
    if array.shape not in shapes:
        allowed = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
        raise ValueError(f"sample_weight has shape {array.shape}; it must have shape {allowed}")
    _finite_and_not_negative("sample_weight", array)
    return array


def per_output(
    name: str, weights: tuple[float, ...] | None, count: int, of: str, default: float | None = None
) -> Array:
    """Return one weight per class or output; if there are none, an empty array or the default."""
    if weights is None:
        return NO_ROW if default is None else np.full(count, default)
    if len(weights) != count and not (len(weights) == 1 and of == "outputs"):
        raise ValueError(f"{name} has {len(weights)} entries, but there are {count} {of}")
    return np.broadcast_to(np.array(weights), (count,)).copy()


def normalizer(value: Any, reduction: str) -> float | None:
    """Return the number to divide the sum by, if one was given and the reduction divides."""
    if value is None:
        return None
    if reduction in ("none", "sum"):
        raise ValueError(
            f"normalizer is given, but reduction={reduction!r} divides by nothing; "
            "it replaces the divisor of 'mean' or 'batchmean'"
        )
    return number("normalizer", value, 0.0, math.inf, open_low=True)


def out(value: Any, like: Array) -> None:
    """Raise unless value can take the gradient of `like`."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out is a {type(value).__name__}; it must be a NumPy array")
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(
            f"out has shape {value.shape} and dtype {value.dtype}; "
            f"it must be like logits, {like.shape} and {like.dtype}"
        )
    if not value.flags.writeable:
        raise ValueError("out is read-only; it must be writable")


def vector(value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the vector of a Hessian product in float64, of the logits' shape."""
    array = as_float64("vector", value)
    if array.shape != shape:
        raise ValueError(f"vector has shape {array.shape}; it must have that of logits, {shape}")
    return array


def probabilities(value: Array, axis: int | None, part: Array) -> None:
    """Raise unless what takes part is in [0, 1], and sums to 1 along the axis, if one is given."""
    if not (((value >= 0) & (value <= 1)) | ~part).all():
        raise bad_probability(value, "probabilities", part)
    if axis is not None:
        _sums_to_one(value, value.dtype.name, axis, part, "probabilities")


def sum_tolerance(dtype: str) -> float:
    """Return how far from 1 a row of probabilities may sum that were rounded to a type."""
    return SUM_TOLERANCE.get(dtype, OTHER_SUM_TOLERANCE)


def log_probabilities(value: Array, axis: int | None, part: Array) -> None:
    """Raise unless what takes part is at most 0, and its exp sums to 1 along the axis."""
    wrong = ~(value <= 0) & part
    if wrong.any():
        position = _position(wrong)
        raise ValueError(f"log_probabilities{position} is {value[position]}; it must be at most 0")
    if axis is not None:
        given = np.exp(value.astype(np.float64))
        _sums_to_one(given, value.dtype.name, axis, part, "exp of log_probabilities")


def _sums_to_one(given: Array, dtype: str, axis: int, part: Array, name: str) -> None:
    tolerance = sum_tolerance(dtype)
    sums = given.astype(np.float64).sum(axis=axis)
    wrong = ~(np.abs(sums - 1) <= tolerance) & part.any(axis=axis)
    if wrong.any():
        position = _position(wrong)
        row = f" in row {position}" if position else ""
        raise ValueError(
            f"{name}{row} sums to {sums[position]}; it must sum to 1 (to {tolerance:g})"
        )


# A linear head ----------------------------------------------------------------------------------


def head(features: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    """Return features (..., D), weight (V, D) and bias (V,), floating and of one dtype."""
    x, w = logits(features, "features"), logits(weight, "weight")
    b = None if bias is None else logits(bias, "bias")
    head_shapes(x.shape, w.shape, None if b is None else b.shape)
    for name, array in (("weight", w), ("bias", b)):
        if array is not None and array.dtype != x.dtype:
            raise other_type(name, array.dtype, x.dtype)
    return x, w, b


def other_type(name: str, dtype: object, of_features: object) -> TypeError:
    """Return the error for a weight or a bias that is not of the type of the features."""
    return TypeError(
        f"{name} has dtype {dtype}, but features has dtype {of_features}; both must be the same"
    )


def head_shapes(
    features: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None
) -> None:
    """Raise ValueError unless the shapes are those of a layer."""
    if not features:
        raise ValueError("features is a single number; it must have shape (..., D)")
    if len(weight) != 2 or weight[1] != features[-1] or not weight[0]:
        raise ValueError(
            f"weight has shape {weight}, but features has shape {features}; "
            f"it must have shape (V, {features[-1]}), for one class or more"
        )
    if bias is not None and bias != weight[:1]:
        raise ValueError(f"bias has shape {bias}; it must have shape {weight[:1]}")


def budget_for_rows(budget: int, bytes_per_row: int) -> int:
    """Return how many rows fit a memory budget, at least one."""
    if budget < bytes_per_row:
        raise ValueError(
            f"memory_budget is {budget} bytes, but one row needs {bytes_per_row}; "
            "it must be at least that"
        )
    return budget // bytes_per_row


def top_indices(value: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the indices of a pair (indices, probabilities) for scores of a shape (..., V)."""
    classes = shape[-1]
    array = as_array("indices of targets", value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"indices of targets has dtype {array.dtype}; it must be integer")
    if array.shape[:-1] != shape[:-1] or array.ndim != len(shape):
        raise ValueError(
            f"indices of targets has shape {array.shape}, but there are rows of shape "
            f"{shape[:-1]}; the k classes of every row must have shape that and k"
        )
    outside = (array < 0) | (array >= classes)
    if outside.any():
        position = _position(outside)
        raise ValueError(
            f"indices of targets{position} is {array[position]}; it must be in [0, {classes - 1}]"
        )
    return array.astype(np.int64, copy=False)


def top_probabilities(value: Any, shape: tuple[int, ...], part: Any) -> NDArray[np.float64]:
    """Return the probabilities of a pair (indices, probabilities), those of `part` in [0, 1]."""
    array = as_float64("probabilities of targets", value)
    tolerance = sum_tolerance(getattr(value, "dtype", array.dtype).name)
    if array.shape != shape:
        raise ValueError(
            f"probabilities of targets has shape {array.shape}; "
            f"it must have the shape of the indices, {shape}"
        )
    wrong = ~((array >= 0) & (array <= 1)) & part
    if wrong.any():
        raise bad_probability(array, "probabilities of targets", part)
    sums = np.where(part, array, 0.0).sum(axis=-1)
    if (sums > 1 + tolerance).any():
        position = _position(sums > 1 + tolerance)
        raise ValueError(
            f"probabilities of targets{position} add up to {sums[position]}; "
            f"those of a row must not exceed 1 (to {tolerance:g})"
        )
    return array


def labels(value: Any, num_classes: int) -> Array:
    """Return class indices in [0, num_classes)."""
    if whole_number("num_classes", num_classes) < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    array = as_array("labels", value)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels has dtype {array.dtype}; it must be integer")
    outside = (array < 0) | (array >= num_classes)
    if outside.any():
        position = _position(outside)
        raise ValueError(
            f"labels{position} is {array[position]}; it must be in [0, {num_classes - 1}]"
        )
    return array


def sparse_rows(rows: Any) -> None:
    """Raise ValueError unless X, a CSR matrix, is what its shape says; SciPy does not look."""
    starts, columns = rows.indptr, rows.indices
    if (falls := starts[1:] < starts[:-1]).any():
        at = int(falls.argmax())
        raise ValueError(
            f"X.indptr is {starts[at]} at position {at} and {starts[at + 1]} at position "
            f"{at + 1}; it must not fall"
        )
    if len(columns) and not 0 <= columns.min() <= columns.max() < rows.shape[1]:
        at = int(((columns < 0) | (columns >= rows.shape[1])).argmax())
        raise ValueError(
            f"X.indices is {columns[at]} at position {at}; it must be at least 0 and less "
            f"than {rows.shape[1]}, the number of columns"
        )


def acts_on_logits(**options: float | None) -> None:
    """Raise if an option is set that has no meaning once probabilities are given."""
    for name, value in options.items():
        neutral = 1.0 if name == "temperature" else None if name == "softcap" else 0.0
        if value != neutral:
            raise ValueError(
                f"{name} is {value}, but it acts on logits and probabilities are given; "
                f"leave it at {neutral}"
            )


def no_z_loss(z_loss: float) -> None:
    """Raise if a z-loss is set: it is no function of the probabilities, so it has no chain."""
    if z_loss:
        raise ValueError(f"z_loss is {z_loss}; the chain rule goes through p, so it must be 0")


def _finite_and_not_negative(name: str, array: Array) -> None:
    if array.size and not (array.min() >= 0 and array.max() < np.inf):  # twice as fast as to look
        position = _position(~(np.isfinite(array) & (array >= 0)))  # for all that is wrong
        raise ValueError(f"{name}{position} is {array[position]}; a weight must be finite, >= 0")


class _Position(tuple[int, ...]):
    """An index that prints as one: [3] or [3, 1], nothing for a single number."""

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self))}]" if self else ""

    def __format__(self, spec: str) -> str:
        return str(self)


def _position(where: Array) -> _Position:
    """Return the first position at which `where` holds."""
    return _Position(int(i) for i in np.unravel_index(int(np.argmax(where)), np.shape(where)))


def listed(names: Any) -> str:
    """Return labels or names of columns for a message, not more than twenty of them."""
    given = names.tolist() if isinstance(names, np.ndarray) else list(names)
    shown = ", ".join(map(repr, given[:20]))
    return shown if len(given) <= 20 else f"{shown}, ... ({len(given)} in all)"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
