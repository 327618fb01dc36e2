"""What one entry of ``dataset_config.yaml`` may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Pooling = Literal["layers.MaskedAveragePooling()", "layers.MaskedSumPooling()"]


class Spec(BaseModel):
    """Base of what is read from YAML: no unknown keys, no text where a number belongs."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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

    seed: int | None = None
    num_users: int | None = None
    num_items: int | None = None
    train_rows: int | None = None
    valid_rows: int | None = None
    test_rows: int | None = None


def one_entry_per_column(entries: Any) -> Any:
    """FuxiCTR lets one entry describe several columns: ``name: [a, b]``."""
    expanded: list[Any] = []
    for entry in entries if isinstance(entries, list) else []:
        names = entry.get("name") if isinstance(entry, dict) else None
        expanded += [entry | {"name": n} for n in names] if isinstance(names, list) else [entry]
    return expanded or entries


class DatasetSpec(Spec):
    """One data set; paths are relative to the working directory.

    With ``rebuild_dataset`` the files are raw: ids are of any kind, and
    :func:`model_zoo.core.data.encode.encode_dataset` makes integers of them. Without it they
    are encoded: integers of known vocabularies, row k of item_info is item k.
    """

    dataset_id: str
    data_root: str
    data_format: Literal["parquet"]
    rebuild_dataset: bool = False
    min_categr_count: int = Field(1, ge=1)
    train_data: str
    valid_data: str
    test_data: str | None = None
    item_info: str
    feature_cols: Annotated[list[FeatureSpec], BeforeValidator(one_entry_per_column)]
    label_col: LabelSpec
    item_col: str = "item_id"
    history_col: str = "item_seq"
    demo: DemoSpec | None = None
    oracle: str | None = None
    download_page: str | None = None

    @model_validator(mode="after")
    def _columns_fit_together(self) -> DatasetSpec:
        columns = {column.name: column for column in self.feature_cols}
        if len(columns) < len(self.feature_cols):
            raise ValueError("feature_cols names a column twice")
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
            if column.active and column.dtype == "str" and not self.rebuild_dataset:
                raise ValueError(f"{column.name}: dtype str needs rebuild_dataset: True")
            if column.share_embedding is not None and column.share_embedding not in columns:
                raise ValueError(
                    f"{column.name}: share_embedding '{column.share_embedding}' is no column"
                )
        return self

    def features(self, *, of_items: bool) -> list[FeatureSpec]:
        """Active model inputs that describe items, or those that describe the row."""
        return [
            column
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

    def column(self, name: str) -> FeatureSpec:
        return next(column for column in self.feature_cols if column.name == name)
