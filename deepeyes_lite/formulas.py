"""Are two numbers or formulas equal? Read as text, computed in floats at a few points, never by ``eval``.

A formula is written by a model, so it may be built to hang whoever computes it: exact arithmetic on
``(9^{9999})^{9999}`` does, and no time-out reaches it. Floats overflow instead, at once and in any thread.
"""

import cmath
import math
import re
import unicodedata

MAX_CHARS = 200
POINTS = 5  # at which formulas with letters are compared
_TOKEN = re.compile(r"\d+(?:\.\d*)?|\.\d+|\\?[A-Za-z]+|\S")
_GREEK = str.split(
    "alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi varphi omega"
)
_SMALL = str.split(
    "am an as at be by cm do dm he if in is it kg km me mg ml mm my no of ok on or so to up us we"
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_CONSTANTS = {"pi": math.pi, "e": math.e, "i": 1j, "infty": math.inf}
_FUNCTIONS = {
    "sqrt": cmath.sqrt,
    "abs": abs,
    "ln": cmath.log,
    "log": cmath.log10,
    "exp": cmath.exp,
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan")},
}
# How a formula is written, to how it is read.
_SPELLINGS = [
    (r"\\(?:left|right|displaystyle|,|;|!|:|quad\b|qquad\b|big\w*\b|Big\w*\b)|\\ |[$~]", ""),
    (r"\\(?:d|t|c)frac", r"\\frac"),
    (r"\{,\}|(?<=\d),(?=\d{3}(?!\d))(?![^(]*\))", ""),
    (r"(?<![\d.])(\d{1,3})((?: \d{3})+)(?![\d.])", lambda m: m[0].replace(" ", "")),
    (r"(\d*) ?([¼-¾⅐-⅞])", lambda m: f"({m[1] or 0}+{unicodedata.numeric(m[2])!r})"),
    (r"(?<![\d.])(\d+) (\d+) ?/ ?(\d+)", r"(\1+\2/\3)"),
    (r"[⁰¹²³⁴-⁹⁻]+", lambda m: "^{" + m[0].translate(_RAISED) + "}"),
    (r"\\(?:times|cdot|ast)\b|[×·⋅∗]|\*(?!\*)", "*"),
    (r"(?<=\d) ?x ?(?=10\s?\^)", "*"),
    (r"(?<=[\d.])[eE](?=[-+]?\d)", "*10^"),
    (r"\\div\b|÷|⁄", "/"),
    (r"\*\*", "^"),
    (r"±", r"\\pm "),
    (r"√", r"\\sqrt "),
    (r"π", r"\\pi "),
    (r"∞", r"\\infty "),
    (r"\^ ?(?:\{ ?)?\\circ ?\}?|\\degree\b|°", "°"),
    (r"\\%", "%"),
]
_SPELLINGS = [(re.compile(pattern), new) for pattern, new in _SPELLINGS]
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def spelled(text: str) -> str:
    r"""A formula in one spelling, whatever typography it came in.

    >>> spelled(r"2 \times 10³"), spelled(r"\left[2,5\right)"), spelled("1 200")
    ('2 * 10^{3}', '[2,5)', '1200')
    """
    for pattern, new in _SPELLINGS:
        text = pattern.sub(new, text)
    return text.strip()


def values(text: str) -> list[complex | None] | None:
    r"""What a formula is worth at ``POINTS`` choices of its letters; None where it is no formula.

    >>> [round(value.real, 3) for value in values(r"\frac{3}{4} + \sqrt{4}")][:2]
    [2.75, 2.75]
    >>> values("about 12"), values("1 2"), values("__import__('os')"), values("(9^{9999})^{9999}")
    (None, None, None, None)
    """
    text = spelled(text)
    if not text or len(text) > MAX_CHARS:
        return None
    tokens = _TOKEN.findall(text)
    try:
        worth = [_Reader(tokens, point).all() for point in range(POINTS)]
    except (ValueError, IndexError, RecursionError):
        return None
    return worth if sum(value is not None for value in worth) > 1 else None


_WORDS = str.split("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
    """)
_WORDS = {word: str(i) for i, word in enumerate(_WORDS)}
_TENS = str.split("twenty thirty forty fifty sixty seventy eighty ninety")
_TENS = {word: 10 * i for i, word in enumerate(_TENS, start=2)}
_COMPOUND = re.compile(
    rf"\b({'|'.join(_TENS)})(?:[- ]({'|'.join([*_WORDS][1:10])}))?\b", re.IGNORECASE
)
_WORDS |= {
    "half": "0.5",
    "minus": "-",
    "percent": "%",
    "per cent": "%",
    "degrees": "°",
    "degree": "°",
    "dollars": "$",
}
_WORDS |= {"usd": "$", "pct": "%"}
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)
_SCALES = {
    "hundred": 1e2,
    "dozen": 12,
    "thousand": 1e3,
    "k": 1e3,
    "million": 1e6,
    "m": 1e6,
    "billion": 1e9,
    "b": 1e9,
}
_UNIT = re.compile(r"°?[A-Za-zµΩ]+(?:\^?\{?[23]\}?)?(?:/[A-Za-z]+)?|°|\\?\$")
_SPACE = re.compile(r"(?<![\w.])\s+|\s+(?![\w.])")  # "x > 3" is "x>3", and "1 2" is not "12"
_GLUED = re.compile(r"(?<=[\d)}])(°[CFK]?|[A-Za-z]{2,}|(?<=\d)[mgshlkLVWNMBK])$")
_HEDGES = str.split("""
    st nd rd th or and to than but not if plus times over under below above between per of by no nor
    """)
_NAME = re.compile(r"\\?[A-Za-z]+(?: ?[A-Z]{1,3})?(?:_\{?\w\}?)?(?:\(x\))?")


def same(answer: str, truth: str, tolerance: float = 0.0) -> bool | None:
    r"""Whether two numbers or formulas are equal; None where that cannot be told.

    A unit, a currency or a percent sign may be left out; another one is not converted.

    Args:
        answer: what was answered.
        truth: what is correct.
        tolerance: relative.

    >>> same(r"\sqrt{12}", r"2\sqrt{3}"), same("12 %", "0.12"), same("$.50", "50"), same("12 m", "12 cm")
    (True, True, False, None)
    >>> same("(x+1)^2", "x^2+2x+1"), same("x = 3", "3"), same("[2, 5)", "[2, 5]"), same("red", "3")
    (True, True, False, None)
    """
    (ours, left), (theirs, right) = (_sides(text) for text in (answer, truth))
    if ours is None or theirs is None or (left and right and left != right):
        return None
    if _SPACE.sub("", spelled(ours)) == _SPACE.sub("", spelled(theirs)):
        return True
    pairs = [_parts(ours), _parts(theirs)]
    if all(pairs):
        (start, parts, end), (their_start, their_parts, their_end) = pairs
        if len(parts) != len(their_parts):
            return False
        if start == their_start == "{":  # a set has no order
            return True if all(any(same(a, b) for b in their_parts) for a in parts) else None
        verdicts = [same(*pair, tolerance) for pair in zip(parts, their_parts)]
        if all(verdicts) and (start, end) != (their_start, their_end):
            return False if {start, end, their_start, their_end} <= set("()[]") else None
        return True if all(verdicts) else None if None in verdicts else False
    return _same_quantity(ours, theirs, tolerance)


def _sides(text: str) -> tuple[str | None, str]:
    """The right side of ``x = 3``, and its left one; None for more than one equation."""
    if len(text) > MAX_CHARS:
        return None, ""
    text = _COMPOUND.sub(
        lambda m: str(_TENS[m[1].lower()] + int(_WORDS.get((m[2] or "").lower(), 0))), text
    )
    text = _WORD.sub(lambda m: _WORDS[m[0].lower()], text)
    name, sign, value = re.sub(r"\\in\b|∈", "=", text).rpartition("=")
    name = spelled(name)
    if name and not _NAME.fullmatch(name):
        return None, ""
    return (value.strip() if sign else text.strip()), name


def _parts(text: str) -> tuple[str, list[str], str] | None:
    """Brackets and members of ``(1, -2)`` or ``[2, 5)``."""
    text = spelled(text).replace("\\{", "{").replace("\\}", "}")
    if text[:1] not in tuple("([{") or text[-1:] not in tuple(")]}"):
        return None
    parts, depth = [""], 0
    for sign in text[1:-1]:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return None
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return (text[0], parts, text[-1]) if len(parts) > 1 else None


def _quantity(text: str) -> tuple[list[complex | None] | None, str, float, bool]:
    """Values, unit, scale and whether in percent, of ``1.2 million people`` or ``$3.50``."""
    money = re.match(r"[-+]?\s*\\?([$€£¥₹])", text) if text.count("$") < 2 else None
    text = text.replace(money[1], "", 1).replace("\\", "", money[0].count("\\")) if money else text
    words, unit = (
        _GLUED.sub(
            r" \1",
            spelled(text)
            if not (text.endswith("$") and text.count("$") == 1)
            else text[:-1] + " $",
        ).split(),
        [],
    )
    while len(words) > 1 and _UNIT.fullmatch(words[-1]) and words[-1].lower() not in _HEDGES:
        unit.insert(0, words.pop().lower())
    if unit and words[-1][-1] not in "0123456789)}.%" and not words[-1].endswith("pi"):
        words, unit = [*words, *unit], []
    scale = _SCALES.get(unit[0], 1.0) if unit else 1.0
    formula = " ".join(words)
    unit = unit[1:] if scale > 1 else unit
    name = " ".join(unit).rstrip("s").replace("{", "").replace("}", "") or (
        money[1] if money else ""
    )
    return (
        values(formula.rstrip(".") if formula[-2:-1].isdigit() else formula),
        name,
        scale,
        "%" in formula,
    )


def _same_quantity(answer: str, truth: str, tolerance: float) -> bool | None:
    (ours, unit, scale, percent), (theirs, their_unit, their_scale, their_percent) = map(
        _quantity, (answer, truth)
    )
    if ours is None or theirs is None:
        return None

    def equal(factor: float = 1.0, tolerance: float = tolerance) -> bool | None:
        both = [(a * factor, b) for a, b in zip(ours, theirs) if None not in (a, b)]
        close = [cmath.isclose(a, b, rel_tol=max(tolerance, 1e-9), abs_tol=1e-12) for a, b in both]
        return True if close and all(close) else None if any(close) or not close else False

    if unit and their_unit and unit != their_unit:
        return None
    factor = scale / their_scale
    if equal(factor) or (percent is not their_percent and equal(100.0 if percent else 0.01)):
        # 0.5 % for 0.5 is as likely a mistake as a habit
        if percent is not their_percent and not equal(factor):
            whole = abs(next(v for v in (theirs if percent else ours) if v is not None))
            return True if whole > 1 and not percent else None
        return True
    doubts = [1.0, 1 / factor, 180 / math.pi, math.pi / 180]
    doubts += [10.0**n for n in (-9, -6, -3, 3, 6, 9)]  # an axis may be in millions
    if (unit != their_unit and not {unit, their_unit} & set("$€£¥₹")) or factor != 1:
        doubts += [10.0**n for n in range(-9, 10)] + [60, 1 / 60, 3600, 1 / 3600, 12, 1 / 12]
    if re.fullmatch(r"\d{1,3}\.\d{3}", answer):
        doubts.append(1000.0)
    if answer.startswith("("):  # as accountants write what is negative
        doubts.append(-1.0)
    if unit != their_unit and any(len(u) == 1 and u.isalpha() for u in (unit, their_unit)):
        return None  # a metre, or a variable m
    rounded = "." in answer + truth and not tolerance
    if any(equal(doubt) is not False for doubt in doubts) or (rounded and equal(1.0, 0.01)):
        return None
    return False


class _Reader:
    """Reads the tokens of a formula from left to right, and computes as it goes."""

    def __init__(self, tokens: list[str], point: int):
        self.tokens, self.place, self.point = tokens, 0, point

    def all(self) -> complex | None:
        """The value of the whole; None where it has none at this point."""
        try:
            value = self.sum()
        except (ArithmeticError, OverflowError):  # 1/0 at this point, or too large
            value = None
            self._skip()
        if self.place < len(self.tokens):
            raise ValueError("not read to its end")
        return value if value is not None and cmath.isfinite(value) else None

    def _skip(self) -> None:
        self.place = len(self.tokens)

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.peek()
        if not token or (expected and token not in expected):
            raise ValueError(f"got {token!r}")
        self.place += 1
        return token

    def sum(self) -> complex:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> complex:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        value, before = sign * self.power(), self.tokens[self.place - 1]
        while (token := self.peek()) and token not in "+-)]},|=":
            if token in ("*", "/"):
                self.take()
                after = self.product_part()
                value = value * after if token == "*" else value / after
            elif token[0].isdigit() and before[0].isdigit():
                raise ValueError("two numbers side by side")
            else:
                value *= self.power()
            before = self.tokens[self.place - 1]
        return value

    def product_part(self) -> complex:
        return -self.product_part() if self.peek() == "-" and self.take() else self.power()

    def power(self) -> complex:
        value = self.atom()
        while self.peek() in ("^", "%", "°", "!"):
            sign = self.take()
            if sign == "^":
                value = complex(value) ** self.argument()
            elif sign == "!":
                if value not in range(21):
                    raise OverflowError
                value = math.factorial(int(value.real))
            else:
                value *= 0.01 if sign == "%" else math.pi / 180
        return value

    def argument(self) -> complex:
        r"""What stands in braces, or one sign: ``\frac34`` is three quarters, ``x^-1`` is one over x."""
        token = self.peek()
        if token == "-":
            self.take()
            return -self.argument()
        if token[:1].isdigit() and len(token) > 1 and self.tokens[self.place - 1] in (r"\frac",):
            self.tokens[self.place : self.place + 1] = [token[0], token[1:]]
        return self.atom()

    def atom(self) -> complex:
        token = self.take()
        if token in _PAIRS:
            value = self.sum()
            self.take(_PAIRS[token])
            return value
        if token == "|":
            value = abs(self.sum())
            self.take("|")
            return value
        if token[0].isdigit() or token[0] == ".":
            if len(token) > 16 or not any(c.isdigit() for c in token):
                raise ValueError("more digits than a float holds")
            return complex(float(token))
        name = token.removeprefix("\\")
        if token == r"\frac":
            above = self.argument()
            return above / self.argument()
        if name == "sqrt" and self.peek() == "[":
            self.take()
            root = self.sum()
            self.take("]")
            return self.argument() ** (1 / root)
        if name in _FUNCTIONS:
            base = self.argument() if name == "log" and self.peek() == "_" and self.take() else 10
            power = self.argument() if self.peek() == "^" and self.take() else 1
            value = self.power() if name != "sqrt" else self.argument()
            while name != "sqrt" and self.peek().strip("\\").isalpha():  # sin 2x, but sin(2)x
                if self.tokens[self.place - 1] in ")]}" or self.peek().strip("\\") in _FUNCTIONS:
                    break
                value *= self.power()
            if name == "log":
                return (cmath.log(value) / cmath.log(base)) ** power
            return complex(_FUNCTIONS[name](value)) ** power
        if name in _CONSTANTS and (token[0] == "\\" or len(name) == 1 or name == "pi"):
            return complex(_CONSTANTS[name])
        return self.letters(token)

    def letters(self, token: str) -> complex:
        """A variable, or two side by side; any fixed number will do, as long as it is no special one."""
        name = token.removeprefix("\\")
        good = name in _GREEK if name != token else len(name) < 3 and name.lower() not in _SMALL
        if not name.isalpha() or not good:
            raise ValueError(f"no formula: {token!r}")
        value = 1.0
        for letter in [token] if token[0] == "\\" else token:
            value *= math.sin(sum(map(ord, letter)) * (self.point + 1.7)) + 1.3 * (-1) ** self.point
        return complex(value)
