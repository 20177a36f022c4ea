"""The base of every type that crosses a file or a socket, and numpy arrays as fields of such types."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


class Frozen(BaseModel):
    """Immutable, unknown keys refused, bytes as base64 in JSON, NaN and infinities refused as bare floats."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="constants",
        arbitrary_types_allowed=True,
    )

    def __eq__(self, other: object) -> bool:
        # Arrays have no single truth value, so equality compares the JSON form (bit-exact for arrays).
        return type(self) is type(other) and self.model_dump_json() == other.model_dump_json()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def _decode(value: Any, dtype: str) -> NDArray[Any]:
    if isinstance(value, dict):
        raw = np.frombuffer(base64.b64decode(value["data"]), dtype=value["dtype"])
        value = raw.reshape(value["shape"])
    array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
    array = array if not array.flags.writeable else array.copy()
    array.flags.writeable = False
    return array


def _encode(array: NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}


def _array(dtype: str) -> Any:
    return Annotated[
        np.ndarray,
        BeforeValidator(lambda value: _decode(value, dtype)),
        PlainSerializer(_encode, return_type=dict),
    ]


F32 = _array("float32")
I32 = _array("int32")
I8 = _array("int8")
Bool = _array("bool")


def _any_decode(value: Any) -> NDArray[Any]:
    dtype = value["dtype"] if isinstance(value, dict) else np.asarray(value).dtype.str
    return _decode(value, dtype)


AnyArray = Annotated[np.ndarray, BeforeValidator(_any_decode), PlainSerializer(_encode, return_type=dict)]
