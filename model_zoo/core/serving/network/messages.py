"""What requests and answers hold; the OpenAPI description follows from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from torch import Tensor

_ID = {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def _one_each(values: Any) -> Any:
    if isinstance(values, list) or (isinstance(values, Tensor) and values.dim() > 0):
        return values
    raise PydanticCustomError("list_type", "expected a list")


# Ids and values are checked by the scorer, which knows the data set; in the compact form
# (``binary``) a list may be a tensor.
_Sequence = Annotated[Any, AfterValidator(_one_each)]
ItemIds = Annotated[_Sequence, WithJsonSchema({"type": "array", "items": _ID})]
Histories = Annotated[
    _Sequence, WithJsonSchema({"type": "array", "items": {"type": "array", "items": _ID}})
]
Values = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "additionalProperties": True})]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Options(_Message):
    """How to answer a scoring request."""

    calibrated: StrictBool = Field(False, description="apply the calibration map of the file")
    explain: StrictBool = Field(False, description="return the attention weights too")
    deadline_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="how long from now the answer is of use"
    )


class UserOptions(Options):
    """How to answer a request of one user."""

    top_k: StrictInt | None = Field(
        None, ge=1, description="return only so many candidates, the likeliest first"
    )


class ScoreRequest(UserOptions):
    """One user and many candidates."""

    history: ItemIds = Field(description="item ids, oldest first; may be empty")
    candidates: ItemIds = Field(description="item ids")
    context: Values = Field(
        default_factory=dict,
        description="row features by name: one value for all candidates, or a list with one each",
    )


class RowsRequest(Options):
    """Rows, each one candidate for a user with a history."""

    histories: Histories = Field(description="the item ids of each row, oldest first")
    candidates: ItemIds = Field(description="one item id for each row")
    context: Values = Field(
        default_factory=dict,
        description="row features by name: one value for all rows, or a list with one each",
    )


class ScoreAnswer(_Message):
    """Click probabilities."""

    probability: list[float] = Field(description="of each candidate or row")
    candidates: ItemIds | None = Field(
        None, description="only with top_k: the ids that the probabilities belong to"
    )
    weight: list[list[float]] | None = Field(
        None, description="only with explain: for each probability one weight of each history item"
    )
    model: str = Field(description="digest of the folded file that scored all of it")


class ItemsRequest(_Message):
    """Items to add, or to replace features of."""

    ids: ItemIds = Field(description="each once")
    features: Values = Field(
        default_factory=dict, description="item features by name: a list with one value for each id"
    )


class ItemsAnswer(_Message):
    """What was changed; it is on disk."""

    added: int
    updated: int
    items: int = Field(description="items that can be scored now")
    model: str


class ReloadRequest(_Message):
    """A folded file to serve from now on."""

    file: str | None = Field(
        None, description="its name, in the folder of the served file; else that file, read again"
    )


class FeatureDescription(_Message):
    """An input."""

    name: str
    kind: str = Field(description="categorical, sequence, numeric or embedding")
    width: int | None = Field(None, description="numbers in a vector")
    ids: int | None = Field(None, description="ids are below it, where tokens are not raw")


class ModelAnswer(_Message):
    """What is served."""

    name: str
    digest: str = Field(description="SHA-256 of the folded file, its first 16 hex digits")
    file: str
    checkpoint: str | None = Field(description="SHA-256 of the checkpoint that was folded")
    loaded: str = Field(description="when, ISO 8601")
    items: int
    changes: int = Field(description="changes of items since the file was folded")
    max_len: int = Field(description="history items that count, the most recent ones")
    calibrated: bool = Field(description="whether there is a calibration map")
    context: list[FeatureDescription]
    item_features: list[FeatureDescription]
    metrics: dict[str, float] = Field(description="of the training, on valid")


class Health(_Message):
    """Whether it lives, or can take requests."""

    status: str


class Place(BaseModel):
    """A place in a request, and what is wrong there."""

    pointer: str = Field(description="JSON pointer, such as #/context/age/3")
    detail: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    detail: str
    errors: list[Place] = Field(default_factory=list)
