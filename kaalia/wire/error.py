"""Errors on the wire: {"success": false, "error": code, "msg": sentence}, as the public client reads them."""

from typing import Any

from kaalia.errors import KaaliaError


class ApiError(KaaliaError):
    """A refusal with its HTTP status. `extra` keys stand beside `error` and `msg` in the body."""

    def __init__(self, status: int, code: str, message: str, *, remedy: str = "", **extra: Any) -> None:
        super().__init__(code, message, remedy=remedy)
        self.status = status
        self.extra = extra


def body(error: KaaliaError) -> dict[str, Any]:
    """The JSON body of a refusal. `msg` holds sentence and remedy, since clients print only `msg`."""
    problem = error.problem
    message = f"{problem.message}. {problem.remedy}" if problem.remedy else problem.message
    extra = error.extra if isinstance(error, ApiError) else {}
    return {"success": False, "error": problem.code, "msg": message, **extra}
