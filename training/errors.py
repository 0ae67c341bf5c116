"""What a person can get wrong here, each as one readable message instead of a traceback."""


class TrainingError(Exception):
    """Base of the errors that the command line prints without a traceback."""


class RecipeError(TrainingError):
    """A recipe has an unknown key, a wrong type or a value out of range."""


class DataError(TrainingError):
    """A data file cannot be read, or holds bad records."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be loaded, continued or served rightly."""


class GateError(TrainingError):
    """An exported graph does not answer as its checkpoint does. No bundle is written."""
