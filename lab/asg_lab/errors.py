"""What the lab raises when something it needs is missing or a command it drives fails."""


class LabError(Exception):
    """A failure that the person at the keyboard can mend: the text says what is wrong and how."""
