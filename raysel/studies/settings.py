"""What the file of a study says: the question, how it is asked small and in full, and what is compared with what."""

from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from raysel.errors import UserError
from raysel.evaluation.heldout import METRIC
from raysel.experiment import explain, parse_yaml
from raysel.models.settings import BaseModelSettings
from raysel.settings import Section
from raysel.sweep.settings import Parameter

FILES = files("raysel.studies") / "files"
# What the studies share: the small form's experiment and models, and controls that several use.
SHARED = "shared.yaml"


class StudyError(UserError):
    """A study that is not there, or a study file that cannot be used."""


class DerivedCorpus(Section):
    """A corpus made from the experiment's own; what is held out of it is what is held out of that one.

    languages, tasks: only these (left open: all). confused: this share of the samples that are trained on, but those in
    the language with most of them, gets a response in that language. translations: in place of the samples, the prompts
    of items that English has as well, from English and into it; a pair's language is the one that is translated into.
    per_language: so many of the samples that are trained on, and none that is held out.
    """

    languages: list[str] = []
    tasks: list[str] = []
    confused: float = Field(0.0, ge=0, le=1)
    translations: bool = False
    per_language: int | None = Field(None, ge=1)


class StudyModel(Section):
    """A small base model that is made first, from the experiment's corpus or from a derived one (`corpus`)."""

    corpus: str | None = None
    base: BaseModelSettings = BaseModelSettings()


class Control(Section):
    """Two conditions of which the answer is known beforehand: the first is better (detected), or they differ by chance
    alone (not detected). what: in a few words, the first condition against the second."""

    what: str
    expected: Literal["detected", "not detected"]
    first: dict[str, JsonValue]
    second: dict[str, JsonValue]


class Compared(Section):
    """What is compared with what.

    across: the key on the horizontal axis (left open: the conditions one below the other); lines: the keys that divide
    them into lines; reference: the keys and values of the condition that every other is compared with, of several the
    one that is equal in all other keys. languages: those whose mean counts (left open: all); groups: name -> languages,
    in place of one mean one for each group; groups_follow: the keys of the experiment that the groups' names speak of.
    named: how keys and values are called in figures and tables: a key's value stands at `{}` (`{} sample(s)`, whose
    `(s)` falls away after 1), or behind the key's name; unnamed: keys that are not shown. saturation: where the curve
    over `across` levels off.
    """

    across: str | None = None
    lines: list[str] = []
    reference: dict[str, JsonValue] = {}
    languages: list[str] = []
    groups: dict[str, list[str]] = {}
    groups_follow: list[str] = []
    saturation: bool = False
    named: dict[str, str] = {}
    unnamed: list[str] = []

    @property
    def axis(self) -> str:
        """What the horizontal axis is called; "" where there is none."""
        if self.across is None:
            return ""
        return self.named.get(self.across, self.across).replace("{}", "").replace("(s)", "s").strip(" =")


class Form(Section):
    """The study over an experiment: in its small form over one for two cores and minutes that all studies share.

    The conditions (`parameters` as a space has them, or `points` by their names), each with every seed. measure: a
    metric of the results (bits per byte of what is held out, an accuracy), of `tasks`; or the coverage of what is
    chosen (how far what was left out is from the nearest chosen sample, over the vectors), for which nothing is
    trained. corpus: the derived corpus that the conditions are of, in place of the experiment's own. experiment:
    changes to the experiment. controls: own ones beside the shared ones that are named. shows, cannot_show: what such
    a run can tell, and what it cannot.
    """

    experiment: dict[str, Any] = {}
    parameters: dict[str, Parameter] = {}
    points: dict[str, dict[str, JsonValue]] = {}
    measure: str = METRIC
    tasks: list[str] = Field(["*"], min_length=1)
    corpus: str | None = None
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([0, 1, 2], min_length=1)
    corpora: dict[str, DerivedCorpus] = {}
    models: dict[str, StudyModel] = {}
    controls: dict[str, Control] = {}
    shared_controls: list[str] = []
    shows: str
    cannot_show: str

    @model_validator(mode="after")
    def something_is_compared(self) -> "Form":
        if bool(self.parameters) == bool(self.points):
            raise ValueError("give parameters or points, one of them")
        return self


class FullForm(Form):
    """The study over an experiment of the user's. experiments: the files in `experiments/` that have the models, data
    and sizes of the papers; given: keys that the user has to set beside, with an example of each; compared: where it is
    not what the small form compares."""

    experiments: list[str] = Field(min_length=1)
    given: dict[str, str] = {}
    compared: Compared | None = None


class Study(Section):
    """A study file. title: in a few words; question: in one sentence; source: paper and section; claim: what the paper
    says; published: the published figures drawn beside (a name in `raysel.studies.published`)."""

    title: str
    question: str
    source: str
    claim: str
    published: Literal["selectors", "language_strategy", "language_count", "monolingual", "transfer"] | None = None
    compared: Compared = Compared()
    small: Form
    full: FullForm

    def compared_over(self, experiment: bool) -> Compared:
        """What is compared, in the small form or over an experiment of the user's."""
        return (self.full.compared if experiment else None) or self.compared


class SharedSettings(Section):
    """What the studies share: see `Form`, which may change and add to it. experiment, models: of the small forms."""

    experiment: dict[str, Any]
    models: dict[str, StudyModel]
    corpora: dict[str, DerivedCorpus]
    controls: dict[str, Control]


def names() -> list[str]:
    """The studies there are."""
    return sorted(
        file.name.removesuffix(".yaml")
        for file in FILES.iterdir()
        if file.name.endswith(".yaml") and file.name != SHARED
    )


def load_study(name: str) -> Study:
    """Read a study's file. Raises `StudyError`."""
    if name not in names():
        raise StudyError(f"there is no study {name!r}; the studies are {', '.join(names())}")
    return _read(f"{name}.yaml", Study)


def load_shared() -> SharedSettings:
    return _read(SHARED, SharedSettings)


def _read(name: str, kind: Any) -> Any:
    data = parse_yaml((FILES / name).read_text(encoding="utf-8"), name)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise StudyError(explain(error, name, kind)) from None
