"""Languages: their codes and scripts, and which of them are trained on."""

from raysel.languages.choice import choose_languages
from raysel.languages.published import BACTRIAN_X

__all__ = ["BACTRIAN_X", "choose_languages"]
