"""The exception and the warning that are addressed to the user."""


class SpikeSepError(Exception):
    """An error that the user can correct.

    The message is one line that names the file or option, the fault and the remedy. The command
    line prints it and exits with status 2.
    """


class SpikeSepWarning(UserWarning):
    """A warning about an input that does not stop the work.

    The message is one line that names the file. The command line prints it on standard error.
    """
