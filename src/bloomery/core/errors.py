"""What can go wrong because of the outside world, as opposed to a bug of ours.

    BloomeryError
     ├── ConfigError   a recipe, option or command line is wrong           -> exit code 2
     ├── DataError     an input file is missing, damaged or of another kind -> exit code 1
     ├── StoreError    the store cannot be read, written or locked          -> exit code 1
     └── Stopped       nothing is wrong: SIGTERM came, and all is saved     -> exit code 143

The command line shows the message of a BloomeryError without a traceback; anything else is a bug and shows one.
"""


class BloomeryError(Exception):
    """Base of every error that the person at the keyboard can mend; its message says how."""


class ConfigError(BloomeryError):
    """A recipe, an option or a command line that cannot be right."""


class DataError(BloomeryError):
    """An input that is missing, damaged, or not of the kind that was expected."""


class Stopped(BloomeryError):
    """A training that was asked to stop and has saved what it needs to go on."""


class StoreError(BloomeryError):
    """A store that cannot be read, written or locked."""
