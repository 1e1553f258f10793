"""Keep a spreadsheet from running a cell of a CSV file as a formula, and take the guard off again when it is read."""

import re
from typing import Final

# What spreadsheets take for the start of a formula. The apostrophes in front belong to the rule: a text that itself
# is '=1 becomes ''=1, so that taking one apostrophe off gives back what was written. A text such as 's Morgens is
# neither guarded nor touched.
_DANGEROUS: Final = re.compile(r"'*[=+\-@\t\r]")
_GUARDED: Final = re.compile(r"'+[=+\-@\t\r]")


def guarded(cell: str) -> str:
    """The cell, with an apostrophe in front where it would begin a formula."""
    return f"'{cell}" if _DANGEROUS.match(cell) else cell


def unguarded(cell: str) -> str:
    """What `guarded` was given."""
    return cell[1:] if _GUARDED.match(cell) else cell
