"""The exception and the warning that a user is meant to read."""


class SpikeSepError(Exception):
    """A fault that the user can mend: the message names the file or option and the remedy, in one line.

    The command line prints it as it is and exits with status 2.
    """


class SpikeSepWarning(UserWarning):
    """A doubt about what the user gave, which does not stop the work: the message names the file, in one line.

    The command line prints it on standard error.
    """
