"""A judge model's rating of an open-ended answer."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval.api.instance import Instance

from raysel.languages.codes import english_name

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

WORST, BEST = 1, 5
LONGEST_JUDGEMENT = 512
RATING = re.compile(r"\[\[\s*([1-5])\s*\]\]")
# The criteria are those of transfer-dynamics (arXiv 2504.16677, appendix): the demand for the same language is one.
PROMPT = """\
Please act as an impartial judge and evaluate the quality of the response that an AI assistant gave to the instruction \
below. Consider its helpfulness, relevance, accuracy, depth, creativity and level of detail. The instruction is in \
{language}, and the response must be in {language} as well. Begin with a short explanation and be as objective as \
possible. Then rate the response from {worst} (worst) to {best} (best), strictly in this form: "Rating: [[3]]".

[Instruction]
{instruction}

[Response]
{response}

[Judgement]
"""


def judge_prompt(instruction: str, response: str, lang: str) -> str:
    return PROMPT.format(
        language=english_name(lang), worst=WORST, best=BEST, instruction=instruction, response=response
    )


def rating_of(judgement: str) -> int | None:
    """The last rating (1 to 5) that the judge wrote; None where there is none."""
    found = RATING.findall(judgement)
    return int(found[-1]) if found else None


def judge(judge_model: "HFLM", prompts: Sequence[str]) -> list[str]:
    """What the judge writes on each prompt, greedily; by its own chat template where it has one."""
    if judge_model.tokenizer.chat_template:
        prompts = [judge_model.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in prompts]
    how = {"until": [], "do_sample": False, "max_gen_toks": LONGEST_JUDGEMENT}
    requests = [Instance(request_type="generate_until", doc={}, arguments=(prompt, how), idx=0) for prompt in prompts]
    written: list[str] = judge_model.generate_until(requests, disable_tqdm=True)
    return written
