"""What the report shows."""

from pydantic import Field

from raysel.settings import Section


class ReportSettings(Section):
    """What is shown where all of it would be too much.

    map_samples: how many samples the 2-D map of the vectors shows, shared out over the languages.
    examples: how many evaluated items of every task and language are shown with the models' answers, drawn at random.
    """

    map_samples: int = Field(2000, ge=10)
    examples: int = Field(1, ge=0, le=10)
