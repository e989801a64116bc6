"""How separability is scored and how the pool is taken from the scores."""

from typing import Any, Literal

from pydantic import Field, model_validator

from raysel.settings import Section, execution


class SeparabilitySettings(Section):
    """Silhouette of language separability over plain Euclidean distances (LangGPS, section 3; docs/separability.md).

    label: what makes a cluster: the language's code, what the source calls it, or the language in one script (the
    script of most of a sample's letters).
    clusters: those of the whole corpus, or of the chosen languages only; both are rescored from the same distance sums.
    precision: how inner products are multiplied: float32 is exact to some 2e-7; the others pay on a GPU,
    docs/separability.md has their errors.
    block_rows: rows that one worker holds twice (left open: 8,192, on GPUs 32,768).
    cores: CPU cores of one worker.
    """

    label: Literal["lang", "lang_raw", "lang_script"] = "lang"
    clusters: Literal["corpus", "chosen"] = "corpus"
    precision: Literal["float32", "tf32x3", "bf16x3", "tf32"] = "float32"
    block_rows: int | None = execution(None, ge=1)
    cores: int = execution(1, ge=1)


class PreselectSettings(Section):
    """The pool, which samples are then selected from: a share of each language's rows by their separability.

    rho: the share of each language's rows.
    size: rows in all, in place of rho, shared out in proportion.
    minimum: at least so many rows of each language, taken off the largest shares.
    band: which rows: those of `high`, `middle` or `low` separability; or a control: `random`, `permuted` (high, after
    the scores were shuffled within the language), `length_matched` (random rows as long as those of `high`) or
    `lid_clean` (those that language identification is surest of, which corpus.audit.checks must have
    `language_mismatch` for).
    """

    rho: float | None = Field(0.2, gt=0, le=1)
    size: int | None = Field(None, ge=1)
    minimum: int = Field(0, ge=0)
    band: Literal["high", "low", "middle", "random", "permuted", "length_matched", "lid_clean"] = "high"

    @model_validator(mode="before")
    @classmethod
    def size_takes_the_place_of_the_default_rho(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("size") is not None and "rho" not in data:
            return data | {"rho": None}
        return data

    @model_validator(mode="after")
    def one_of_rho_and_size(self) -> "PreselectSettings":
        if (self.rho is None) == (self.size is None):
            raise ValueError("give either rho (a share of each language) or size (rows in all; then rho: null)")
        return self
