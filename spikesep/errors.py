"""The one exception a user is meant to read."""


class SpikeSepError(Exception):
    """A fault that the user can mend: the message names the file or option and the remedy, in one line.

    The command line prints it as it is and exits with status 2.
    """
