"""What one entry of ``dataset_config.yaml`` may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from model_zoo.core.data.list_columns import separator_problem
from model_zoo.core.errors import suggestion
from model_zoo.core.paths import expanded


def _separator(text: str) -> str:
    problem = separator_problem(text)
    if problem:
        raise ValueError(problem)
    return text


PathText = Annotated[str, AfterValidator(expanded)]  # ~ and $VARIABLE replaced
Separator = Annotated[str, AfterValidator(_separator)]
# Names in a batch beside those of columns: of the histories' lengths, behind the history's own,
# and of the rows of all processes together.
LENGTH_SUFFIX, BATCH_ROWS = "_length", "batch_rows"
Pooling = Literal["layers.MaskedAveragePooling()", "layers.MaskedSumPooling()"]


class Spec(BaseModel):
    """Base of what is read from YAML: no unknown keys, no text where a number belongs, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FeatureSpec(Spec):
    """One column (an entry of FuxiCTR's ``feature_cols``).

    ``source: item`` puts a column into the item vector of target and history; its values
    come from item_info. Other columns describe the row and come from the split files.
    """

    name: str
    type: Literal["categorical", "sequence", "numeric", "embedding", "meta"]
    dtype: Literal["int", "float", "str"]
    active: bool = True
    source: str = ""
    vocab_size: int | None = Field(None, ge=2)
    min_categr_count: int | None = Field(None, ge=1)
    max_len: int | None = Field(None, ge=1)
    pretrain_dim: int | None = Field(None, ge=1)
    embedding_dim: int | None = Field(None, ge=1)
    share_embedding: str | None = None
    splitter: Separator | None = None  # of lists written as text, in raw data
    # How numbers are brought to one scale (FuxiCTR's names), and what a missing one counts as.
    normalizer: Literal["StandardScaler", "MinMaxScaler"] | None = None
    fill_na: float | None = Field(None, allow_inf_nan=False)
    # FuxiCTR passes this text to eval, so only the poolings that make one vector are let in.
    feature_encoder: Pooling | None = None

    def missing(self, *, encoded: bool) -> list[str]:
        """Keys that this type of column needs and that are not given.

        Args:
            encoded: Whether the ids are integers already, of a known vocabulary.
        """
        required = {"sequence": ["max_len"], "embedding": ["pretrain_dim"]}.get(self.type, [])
        if encoded and self.type in ("categorical", "sequence"):
            required = ["vocab_size", *required]
        return [key for key in required if getattr(self, key) is None]


class LabelSpec(Spec):
    """The click column, 0 or 1."""

    name: str
    dtype: Literal["int", "float"] = "float"


class DemoSpec(Spec):
    """Arguments of :func:`model_zoo.core.prepare.demo.generate_demo`, where they differ."""

    seed: int | None = Field(None, ge=0)
    num_users: int | None = Field(None, ge=1)
    num_items: int | None = Field(None, ge=1)
    train_rows: int | None = Field(None, ge=1)
    valid_rows: int | None = Field(None, ge=1)
    test_rows: int | None = Field(None, ge=1)


def one_entry_per_column(entries: Any) -> Any:
    """FuxiCTR lets one entry describe several columns: ``name: [a, b]``."""
    columns: list[Any] = []
    for entry in entries if isinstance(entries, list) else []:
        names = entry.get("name") if isinstance(entry, dict) else None
        columns += [entry | {"name": n} for n in names] if isinstance(names, list) else [entry]
    return columns or entries


class DatasetSpec(Spec):
    """One data set; paths are relative to the working directory.

    With ``rebuild_dataset`` the files are raw: ids are of any kind, and
    :func:`model_zoo.core.data.encode.encode_dataset` makes integers of them. Without it they
    are encoded: integers of known vocabularies, row k of item_info is item k.
    """

    dataset_id: str
    data_root: PathText
    data_format: Literal["parquet"]
    rebuild_dataset: bool = False
    min_categr_count: int = Field(1, ge=1)
    list_separator: Separator | None = None  # of all columns without a splitter
    train_data: PathText
    valid_data: PathText
    test_data: PathText | None = None
    item_info: PathText
    feature_cols: Annotated[list[FeatureSpec], BeforeValidator(one_entry_per_column)]
    label_col: LabelSpec
    item_col: str = "item_id"
    history_col: str = "item_seq"
    demo: DemoSpec | None = None
    oracle: PathText | None = None
    download_page: str | None = None

    @model_validator(mode="after")
    def _columns_fit_together(self) -> DatasetSpec:
        columns = {column.name: column for column in self.feature_cols}
        if len(columns) < len(self.feature_cols):
            raise ValueError("feature_cols names a column twice")
        used = {BATCH_ROWS}
        if not self.rebuild_dataset:
            used.add(self.history_col + LENGTH_SUFFIX)
        for name in used & {c.name for c in self.feature_cols if c.active}:
            raise ValueError(f"column '{name}': batches use this name; rename the column")
        for role in ("item_col", "history_col"):
            if getattr(self, role) not in columns:
                raise ValueError(f"{role} '{getattr(self, role)}' is not among feature_cols")
        if columns[self.history_col].type != "meta":
            raise ValueError(f"the history column '{self.history_col}' must have type meta")
        if not self.features(of_items=True):
            raise ValueError("no active feature has 'source: item': nothing to attend over")
        for column in self.feature_cols:
            for key in ("normalizer", "fill_na"):
                if column.type != "numeric" and getattr(column, key) is not None:
                    raise ValueError(f"{column.name}: {key} is for type numeric")
            if column.active and column.type != "meta":
                missing = column.missing(encoded=not self.rebuild_dataset)
                if missing:
                    raise ValueError(
                        f"{column.name}: type {column.type} needs {' and '.join(missing)}"
                    )
            if not self.rebuild_dataset and (self.list_separator or column.splitter):
                raise ValueError(
                    "list_separator and splitter need rebuild_dataset: True; encoded files hold "
                    "lists as such"
                )
            if column.active and column.dtype == "str" and not self.rebuild_dataset:
                raise ValueError(f"{column.name}: dtype str needs rebuild_dataset: True")
            if column.active and column.share_embedding is not None:
                self._check_sharing(column, columns)
        return self

    def _check_sharing(self, column: FeatureSpec, columns: dict[str, FeatureSpec]) -> None:
        name = column.share_embedding
        if name not in columns:
            hint = suggestion(str(name), columns)
            raise ValueError(f"{column.name}: share_embedding '{name}' is no column{hint}")
        owner = columns[name]
        where = f"{column.name}: share_embedding '{name}'"
        tables = ("categorical", "sequence")
        if column.type not in tables or owner.type not in tables or name == self.history_col:
            raise ValueError(
                f"{where}: type {column.type} and type {owner.type}; only categorical and sequence "
                "features have an embedding table to share"
            )
        if not owner.active:
            raise ValueError(f"{where} is not active")
        if owner.dtype != column.dtype:
            raise ValueError(
                f"{where}: dtype {column.dtype} and dtype {owner.dtype}; expected one dtype"
            )
        if owner.embedding_dim != column.embedding_dim:
            raise ValueError(
                f"{where}: embedding_dim {column.embedding_dim} and {owner.embedding_dim}; "
                "expected the same"
            )
        chain = [column.name]
        while name is not None and name in columns:
            chain.append(name)
            if name in chain[:-1]:
                raise ValueError(f"{column.name}: share_embedding goes round: {' -> '.join(chain)}")
            name = columns[name].share_embedding

    def embedding_owner(self, name: str) -> str:
        """The feature whose embedding table a feature uses, at the end of ``share_embedding``."""
        columns = {column.name: column for column in self.feature_cols}
        while (shared := columns[name].share_embedding) is not None:
            name = shared
        return name

    def features(self, *, of_items: bool) -> list[FeatureSpec]:
        """Active model inputs that describe items, or those that describe the row."""
        return [
            self._with_splitter(column)
            for column in self.feature_cols
            if column.active
            and column.type != "meta"
            and (column.source == "item") == of_items
            and column.name != self.history_col
        ]

    def sources(self) -> dict[str, str]:
        """Paths of item_info and of the splits that there are, by name."""
        paths = {
            "item_info": self.item_info,
            "train": self.train_data,
            "valid": self.valid_data,
            "test": self.test_data,
        }
        return {name: path for name, path in paths.items() if path is not None}

    def meta_columns(self) -> list[FeatureSpec]:
        """Active columns that are no model input: users, groups."""
        return [
            column
            for column in self.feature_cols
            if column.active
            and column.type == "meta"
            and column.name not in (self.item_col, self.history_col)
        ]

    def ids(self, name: str) -> FeatureSpec:
        """The target or the history column as a column of item ids, whatever its entry says.

        Its vocabulary is the item table; raw histories have no length of their own.
        """
        column = self.column(name)
        kind: Literal["sequence", "categorical"] = "categorical"
        if name == self.history_col:
            kind = "sequence"
        length = None if self.rebuild_dataset else column.max_len
        # Constructed without validation: a sequence of its own would need a vocabulary.
        return FeatureSpec.model_construct(
            name=name,
            type=kind,
            dtype=column.dtype,
            max_len=length,
            splitter=column.splitter or self.list_separator,
        )

    def _with_splitter(self, column: FeatureSpec) -> FeatureSpec:
        """A column of lists with the separator that is declared for it."""
        if column.type not in ("sequence", "embedding") or self.list_separator is None:
            return column
        return column.model_copy(update={"splitter": column.splitter or self.list_separator})

    def column(self, name: str) -> FeatureSpec:
        return next(column for column in self.feature_cols if column.name == name)
