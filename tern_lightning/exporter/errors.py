"""What an export raises, and what it warns of."""


class ExportError(RuntimeError):
    """The network cannot be exported as asked; the message names the layer or argument and what to do."""


class VerificationError(ExportError):
    """The exported file does not compute what the module computes."""


class ExportWarning(UserWarning):
    """What was exported is verified, but may not be what was wanted."""
