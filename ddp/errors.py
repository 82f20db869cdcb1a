"""The errors whose text is for the user."""


class ConfigurationError(ValueError):
    """Something the user asked for cannot be done. The text is one sentence: what was seen, what to do instead.

    The command line prints the sentence once, without a traceback, and ends every rank with status 2.
    """
