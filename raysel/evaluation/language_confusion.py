"""Whether an answer is in the language it was asked for in."""

from raysel.languages.identification import alike_to, identify, known_languages, letters

# Shorter lines (numbers, names, labels) are not judged: the identification is a guess there.
LEAST_LETTERS = 20


def right_language(answer: str, lang: str) -> bool | None:
    """Whether every line of `answer` that is long enough to tell is in `lang`, or in a language not told apart from it.

    None where there is no such line, or where the identification does not know `lang`. The mean over answers is the
    line-level pass rate (Marchisio et al. 2024, "Understanding and mitigating language confusion in LLMs", section 3).
    """
    if lang not in known_languages():
        return None
    lines = [line for line in answer.splitlines() if letters(line) >= LEAST_LETTERS]
    if not lines:
        return None
    return all(identify("", line, lang).found in alike_to(lang) for line in lines)
