"""The pages of the console, for people: made here, so that they need no script; a script keeps them up to date."""

from ion_console.pages.pages import Pages, is_for_people
from ion_console.pages.shell import Shell

__all__ = ["Pages", "Shell", "is_for_people"]
