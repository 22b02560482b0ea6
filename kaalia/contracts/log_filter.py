"""The filter of `vastai logs`: a regular expression, in Python's syntax. Pure."""

import re
import warnings

from kaalia.errors import ContractError

FILTER_MAX_CHARACTERS = 512
_FAR = re.compile(r"\\[uUN]|[^\x00-\xff]")


def has_wide_set(pattern: str) -> bool:
    """Whether there may be a set of characters beyond U+00FF: Python takes up to a second to prepare 500 of its own."""
    return "[" in pattern and _FAR.search(pattern) is not None


def check(pattern: str) -> None:
    """Raises ContractError `filter_invalid` for what is none, or too long."""
    shown = f"cannot use filter={pattern[:80]!r}: "
    if len(pattern) > FILTER_MAX_CHARACTERS:
        raise _invalid(f"{shown}it has {len(pattern)} characters, at most {FILTER_MAX_CHARACTERS} are allowed")
    if has_wide_set(pattern):
        raise _invalid(f"{shown}a set in [] is allowed with characters up to U+00FF only")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _invalid(f"{shown}it is no regular expression ({str(error)[:80]})") from error


def _invalid(message: str) -> ContractError:
    remedy = r"put \ before characters that stand for themselves, as in C\+\+, or ask for a plain word"
    return ContractError("filter_invalid", message, remedy=remedy)
