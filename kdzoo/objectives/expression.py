"""Objectives as a short expression: ``mine = cos_nce@hidden[uniform] + kd(temperature=2)*0.5 + ce``."""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from typing import Any

from kdzoo.errors import KdzooError, check_name

LONGEST = 4000  # characters; more is a file's
NAME_LENGTH = 64
# By what stands before the place that cannot be read, what belongs there.
EXPECTED = {
    "": "a loss",
    "+": "another term, which begins with a loss",
    "*": "a weight, which is a number",
    "@": "a feature, such as hidden or cls",
    "=": "a value",
    "(": "options, name=value, and then ')'",
    "[": "a layer map, and then ']'",
}
GRAMMAR = "terms joined by '+', each LOSS(option=value)@feature[layers]*weight with all but the loss left out at will"


def name_and_terms(text: str) -> tuple[str, str]:
    """The name of an expression, ``NAME = TERMS``, and its terms; one without a name is called by its terms.

    Raises:
        KdzooError: for a name that is none, and for an expression that is too long.
    """
    if len(text) > LONGEST:
        raise KdzooError(f"a method of {len(text)} characters is too long; write a recipe's YAML file")
    name, equals, terms = text.partition("=")
    if not equals or re.search(r"[(\[]", name):
        return method_name(text), text.strip()
    return check_name("method", name.strip()), terms.strip()


def is_expression(text: str) -> bool:
    """Whether a text is an expression, and neither a name nor a file."""
    return not re.fullmatch(r"[\w.-]+", text) and not text.endswith((".yaml", ".yml"))


def split_methods(text: str) -> list[str]:
    """Methods separated by commas; a comma within brackets belongs to its expression."""
    methods, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            methods.append("")
        else:
            methods[-1] += letter
    return [method.strip() for method in methods if method.strip()]


def parse_terms(text: str) -> list[dict[str, Any]]:
    """The terms of an expression, as the mappings that a recipe's YAML holds.

    Args:
        text: terms joined by ``+``. A term is a loss's name, then, each where wanted, its options in parentheses,
            ``@`` and the feature, the layer map in brackets, and ``*`` and the weight (which may also come first).
            A layer map is a name with an optional slice, or (student, teacher) pairs.

    Raises:
        KdzooError: names the part that cannot be read.
    """
    text = re.sub(r"\s*\n\s*", " ", text.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about how numbers are written
            tree = ast.parse(text, mode="eval").body
        return [_term(node, text) for node in _summands(tree)]
    except SyntaxError as error:
        raise KdzooError(_expected(text, error)) from None
    except KdzooError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise KdzooError(f"method {text!r} cannot be read ({error}); it is {GRAMMAR}") from None


def method_name(text: str) -> str:
    """A name for an expression that is good for files."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "method"
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{name[: NAME_LENGTH - 9].rstrip('-.')}-{digest}"


def _expected(text: str, error: SyntaxError) -> str:
    """What cannot be read where, and what was expected there."""
    at = error.offset or len(text) + 1
    open_ = error.msg.endswith("was never closed")
    before = text[: at if open_ else at - 1].rstrip()
    found = "its end" if at > len(text) else f"character {at}, {text[at - 1 : at]!r}"
    wanted = EXPECTED.get(before[-1:], "'+' and another term, or '*' and a weight")
    return f"method {text!r} cannot be read at {found}: expected {wanted}; a method is {GRAMMAR}"


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _term(node: ast.expr, text: str) -> dict[str, Any]:
    term: dict[str, Any] = {}
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            number, rest = (node.right, node.left) if _is_number(node.right) else (node.left, node.right)
            if not _is_number(number):
                raise _unreadable(node, text, "a weight is a number")
            try:
                _set(term, "weight", float(ast.literal_eval(number)), node, text)
            except OverflowError:
                raise _unreadable(number, text, "a weight is finite") from None
            node = rest
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            feature, node = node.right, _with_suffixes(node)
            while isinstance(feature, (ast.Subscript, ast.Call)):
                feature = feature.value if isinstance(feature, ast.Subscript) else feature.func
            if not isinstance(feature, ast.Name):
                raise _unreadable(feature, text, "after '@' stands a feature")
            _set(term, "feature", feature.id, feature, text)
        elif isinstance(node, ast.Subscript):
            _set(term, "layers", _layers(node.slice, text), node, text)
            node = node.value
        elif isinstance(node, ast.Call):
            if node.args or any(keyword.arg is None for keyword in node.keywords):
                raise _unreadable(node, text, "options are written name=value")
            for keyword in node.keywords:
                assert keyword.arg is not None
                if keyword.arg in term:
                    raise _unreadable(keyword.value, text, f"{keyword.arg} is given twice")
                term[keyword.arg] = _value(keyword.value, text)
            node = node.func
        else:
            raise _unreadable(node, text, f"a method is {GRAMMAR}")
    return {"loss": node.id} | term


def _with_suffixes(node: ast.BinOp) -> ast.expr:
    """What stands behind the feature, moved to the loss in front of it: ``a@b[c]`` means ``a[c]`` on b."""
    chain: list[ast.expr] = []
    part = node.right
    while isinstance(part, (ast.Subscript, ast.Call)):
        chain.append(part)
        part = part.value if isinstance(part, ast.Subscript) else part.func
    inner = node.left
    for suffix in reversed(chain):
        if isinstance(suffix, ast.Subscript):
            inner = ast.copy_location(ast.Subscript(inner, suffix.slice, ast.Load()), suffix)
        elif isinstance(suffix, ast.Call):
            inner = ast.copy_location(ast.Call(inner, suffix.args, suffix.keywords), suffix)
    return inner


def _layers(node: ast.expr, text: str) -> Any:
    written = ast.unparse(node).replace(" ", "")
    if re.fullmatch(r"[a-z]+(\[-?\d*:?-?\d*\])?", written):
        return written
    pairs = _value(node, text)
    # One pair alone, [(1, 2)], reads like a pair of numbers.
    return [pairs] if isinstance(pairs, tuple) and all(isinstance(index, int) for index in pairs) else pairs


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "null": None}.get(node.id, node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise _unreadable(node, text, "a value is a number, a word, a 'text', or a list of them") from None


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _set(term: dict[str, Any], key: str, value: Any, node: ast.expr, text: str) -> None:
    if key in term:
        raise _unreadable(node, text, f"{key} is given twice")
    term[key] = value


def _unreadable(node: ast.expr, text: str, why: str) -> KdzooError:
    return KdzooError(f"method {text!r}: {ast.unparse(node)!r} cannot be read: {why}")
