"""What can go wrong in a benchmark, each as one readable message instead of a traceback."""


class BenchError(Exception):
    """Base of the errors that the command line prints without a traceback."""


class ServerError(BenchError):
    """A server did not start, or ended."""


class ClientError(BenchError):
    """The load generator failed, or its output cannot be read."""
