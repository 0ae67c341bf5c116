"""Every error that a client or an operator can meet, each with its HTTP status and its RFC 9457 type.

Owns the names, statuses and wording. Knows nothing of HTTP frameworks: `service.http` turns these into responses.
"""

from __future__ import annotations

from collections.abc import Sequence


class BertieError(Exception):
    """Base of all errors with a meaning outside this package.

    Attributes:
        status: HTTP status code.
        slug: last part of the problem's `type` URI reference.
        title: the problem's short, constant summary (RFC 9457, section 3.1.3).
        reason: under which requests that it refuses are counted; empty where it refuses none.
        field: where in the request the fault is (`inputs.3.text`), or None.
    """

    status = 500
    slug = "internal"
    title = "Internal error"
    reason = ""

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class ConfigurationError(BertieError):
    """The settings ask for something that this machine or these bundles cannot give. Start-up stops."""

    slug = "configuration"
    title = "Configuration error"


class BundleError(BertieError):
    """A bundle is broken, incomplete or unfit for the chosen device. Start-up stops and names the bundle."""

    slug = "bundle"
    title = "Broken model bundle"


class Unservable(BertieError):
    """A version is refused: its bundle is broken, or not what the model's clients rely on."""

    status = 422
    slug = "unservable"
    title = "Version refused"
    reason = "invalid"


class RolloutError(BertieError):
    """A step of a rollout makes no sense as things are."""

    status = 409
    slug = "rollout"
    title = "Step refused"
    reason = "invalid"


class InferenceError(BertieError):
    """The engine failed on an input."""

    slug = "inference"
    title = "Inference failed"


class MalformedBody(BertieError):
    """The body is not JSON."""

    status = 400
    slug = "malformed-json"
    title = "Malformed JSON"
    reason = "invalid"


class Unauthorized(BertieError):
    """The bearer token is missing or unknown."""

    status = 401
    slug = "unauthorized"
    title = "Unauthorized"
    reason = "unauthorized"


class Forbidden(BertieError):
    """The key is known, and may not use what it asks for."""

    status = 403
    slug = "forbidden"
    title = "Forbidden"
    reason = "forbidden"


class UnknownModel(BertieError):
    """No such model is loaded."""

    status = 404
    slug = "unknown-model"
    title = "Unknown model"
    reason = "invalid"


class UnknownRequest(BertieError):
    """No answer to such a request is kept."""

    status = 404
    slug = "unknown-request"
    title = "Unknown request"
    reason = "invalid"


class TooLarge(BertieError):
    """The body, or the number of inputs, is over the limit."""

    status = 413
    slug = "too-large"
    title = "Request too large"
    reason = "too_large"


class UnsupportedMediaType(BertieError):
    """The body is not declared as JSON."""

    status = 415
    slug = "unsupported-media-type"
    title = "Unsupported media type"
    reason = "invalid"


class InvalidInput(BertieError):
    """A field is wrong; `field` says which one, the detail says why.

    Attributes:
        errors: (field, detail) of every wrong field, where there are several.
        index: which of several examples it is about, where a task found it.
    """

    status = 422
    slug = "invalid-input"
    title = "Invalid input"
    reason = "invalid"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        errors: tuple[tuple[str, str], ...] = (),
        index: int | None = None,
    ) -> None:
        super().__init__(detail, field=field)
        self.errors = errors
        self.index = index

    def in_input(self, places: Sequence[int] | None = None, noun: str = "inputs") -> InvalidInput:
        """Get the same error with its field named as one of many inputs, where a task found it.

        Args:
            places: of the examples among the inputs, where the task had some of them.
            noun: what the request calls the inputs.
        """
        if self.index is None:
            return self
        place = self.index if places is None else places[self.index]
        return InvalidInput(self.detail, field=f"{noun}.{place}.{self.field}")


class QueueFull(BertieError):
    """Too much is in flight.

    Attributes:
        retry_after: seconds until what is in flight will have run, at the rate measured of late.
    """

    status = 429
    slug = "queue-full"
    title = "Queue full"
    reason = "queue_full"

    def __init__(self, detail: str, *, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class RateLimited(QueueFull):
    """A client sends more requests or tokens a second than it may; `retry_after`: until it may send this one."""

    slug = "rate-limited"
    title = "Rate limited"
    reason = "rate_limit"


class NotReady(BertieError):
    """The service is starting, draining, or has lost a worker."""

    status = 503
    slug = "not-ready"
    title = "Not ready"
    reason = "not_ready"


class Draining(NotReady):
    """The service is stopping: to a client the same problem, to an operator no fault."""

    reason = "draining"


class DeadlineExceeded(BertieError):
    """The answer was not ready before the request's deadline."""

    status = 504
    slug = "deadline-exceeded"
    title = "Deadline exceeded"
    reason = "deadline"
