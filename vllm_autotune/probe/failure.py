"""How a server under test failed: raised by whoever sees it first, caught by `certify` alone."""

from ..outcome import Crashed, Degraded, FailedOutcome


class ProbeFailed(Exception):
    """The server under test failed; `outcome` says how."""

    def __init__(self, outcome: FailedOutcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class RequestRefused(ProbeFailed):
    """A request got an HTTP status other than 200, and no error of the server."""


def raise_if(failed: FailedOutcome | None) -> None:
    if failed is not None:
        raise ProbeFailed(failed)


def degraded(cause: str, reason: str, evidence: tuple[str, ...] = ()) -> Degraded:
    """Return the outcome of a server that answers, but wrongly."""
    return Degraded(cause=cause, phase="serving", reason=reason, evidence=evidence)


def crashed(cause: str, reason: str, evidence: tuple[str, ...] = ()) -> Crashed:
    return Crashed(cause=cause, phase="serving", reason=reason, evidence=evidence)


def refused(item: str, status: int, text: str) -> ProbeFailed:
    reason, evidence = f"`{item}` got HTTP {status}", (text[:300],)
    if status < 500:
        return RequestRefused(degraded("request_refused", reason, evidence))
    return ProbeFailed(crashed("server_error", reason, evidence))
