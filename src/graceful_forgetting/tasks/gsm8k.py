"""GSM8K: grade-school arithmetic word problems (Cobbe et al., arXiv 2110.14168).

A row becomes

    prompt      "Question: Weng earns $12 an hour ...\\nAnswer:"
    completion  " Weng earns 12/60 = $0.2 per minute.\\n...\\n#### 10"
    answer      "10"

The data set's calculator annotations (`<<12/60=0.2>>`, meant for a tool that fills in results while sampling)
are removed from the completion: no calculator runs here, and without them the completion is plain text.
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction
from unicodedata import normalize

from graceful_forgetting.tasks.task import Row, Task, text_of

_ANNOTATION = re.compile(r"<<[^<>]*>>")
# Full-width characters, the minus signs and dashes that stand for a hyphen before a number, and a fraction's slash.
_PLAIN = str.maketrans(
    {chr(code + 0xFEE0): chr(code) for code in range(ord("!"), ord("~") + 1)}
    | dict.fromkeys("−‐‑‒–﹣", "-")
    | {"⁄": "/"}
)
# The sign counts only where it cannot be the minus of a subtraction such as 5-3. Groups of thousands are set off by
# commas (in India the last three digits, and then pairs), apostrophes, no-break spaces or, as in code, underscores.
_NUMBER = re.compile(
    r"((?<![\w)])-)?[$€£¥]?(?=\.?\d)((?<!\w)\d{1,3}(?:_\d{3})+(?!\w)|\d{1,3}(?:[,'’\u00a0\u2009\u202f]\d{3})+(?!\d)|"
    r"\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+)?(\.\d+)?"
    r"([eE][-+]?\d{1,3}(?!\w))?(?:/([1-9]\d{0,17})(?![\d/]))?"
)
_LONGEST_FRACTION = 18
# ½ and the like, which Unicode takes apart into 1⁄2; and 1 1/2, which is one number.
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_VULGAR_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_MIXED = re.compile(r"(?<![\w.,/])(\d{1,9}) +(\d{1,3})/(\d{1,3})(?![\w/])")
_MARKER = "####"
# Of a number that stands alone: its sign, and groups of thousands that spaces set off.
_SPACED_GROUPS = re.compile(r"^\s*-?[$€£¥]?\d{1,3}(?: \d{3})+(?![\d/])")
_SPACED_SIGN = re.compile(r"^\s*-\s+(?=[$€£¥.]?\d)")
# What a base model writes after its answer: the next problem in the form of the prompt.
_NEXT_PROMPT = "\nQuestion:"


def _numbers(text: str) -> list[str]:
    """The numbers in `text`, in order and in one form: no $, no commas, no trailing zeros after the point.

    However long, a number is compared digit for digit. 1/2 is 0.5, and 1/3 stays a fraction.
    """
    numbers = []
    text = _VULGAR.sub(lambda found: normalize("NFKC", found[0]), _VULGAR_AFTER_DIGIT.sub(" ", text))
    text = _MIXED.sub(_improper, text.translate(_PLAIN))
    for match in _NUMBER.finditer(text):
        sign, whole, fraction, exponent, below = match.groups()
        digits = f"{re.sub(r'[^0-9]', '', _ascii(whole or '0'))}{_ascii(fraction or '')}"
        # A longer numerator is no fraction that anybody writes, and two numbers then.
        divided = (
            below is not None and text[match.start() - 1 : match.start()] != "/" and len(digits) <= _LONGEST_FRACTION
        )
        value = Decimal(f"{sign or ''}{digits}{exponent or ''}")
        numbers.append(_divided(value, int(below)) if divided else _plain(value))
        if below is not None and not divided:
            numbers.append(_plain(Decimal(below)))
    return numbers


def _improper(mixed: re.Match[str]) -> str:
    whole, above, below = map(int, mixed.groups())
    return f"{whole * below + above}/{below}" if 0 < above < below else mixed[0]


def _ascii(digits: str) -> str:
    return "".join(str(int(one)) if one.isdecimal() else one for one in digits)


def _plain(value: Decimal) -> str:
    # Formatting is exact; arithmetic would round to the 28 digits of the context.
    plain = f"{value:f}" if value else "0"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _divided(value: Decimal, below: int) -> str:
    ratio = Fraction(value) / below
    rest = ratio.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return str(ratio)
    with localcontext(prec=400):
        return _plain(Decimal(ratio.numerator) / ratio.denominator)


def parse_number(text: str) -> str | None:
    """The number after the last '####', else the last number of `text`, else none.

    Text from the next 'Question:' line on is not read. '$1,080.00' and '1080' are the same answer, '1080'; a minus
    sign of any form counts.
    """
    own = text.split(_NEXT_PROMPT, 1)[0].translate(_PLAIN)
    if _MARKER in own:
        marked = _marked(own)
        if marked is not None:
            return marked
    numbers = _numbers(own)
    return numbers[-1] if numbers else None


def _marked(text: str) -> str | None:
    """The first number after the last '####' of `text`; '#### - 5' is -5, since nothing stands before the sign."""
    own = _SPACED_SIGN.sub("-", text.translate(_PLAIN).rsplit(_MARKER, 1)[1])
    found = _numbers(_SPACED_GROUPS.sub(lambda match: match.group().replace(" ", ""), own))
    return found[0] if found else None


def _format(row: Row) -> dict[str, str]:
    solution = _ANNOTATION.sub("", text_of(row, "answer")).strip()
    reference = _marked(solution) if _MARKER in solution else None
    if reference is None:
        raise ValueError("answer has no number after '####'")
    return {
        "prompt": f"Question: {text_of(row, 'question').strip()}\nAnswer:",
        "completion": f" {solution}",
        "answer": reference,
    }


GSM8K = Task(
    name="gsm8k",
    description="grade-school arithmetic word problems, answered with worked steps",
    licence="MIT",
    hub_id="openai/gsm8k",
    hub_configs=("main",),
    splits={"train": "train", "test": "test"},
    columns=("question", "answer"),
    format_row=_format,
    parse_answer=parse_number,
    metric="exact_match",
)
