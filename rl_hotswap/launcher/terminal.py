"""A console for tables and colours that shows texts of others as they are."""

from typing import Any

from rich.console import Console
from rich.text import Text

from shared.errors import printable


class Terminal(Console):
    """A rich console that escapes control characters in every string, in cells of tables too, and knows no markup.

    Manifests, notes and logs hold texts of anybody. Neither can they move the cursor or add a line, nor colour it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text``, escaped."""
        return super().render_str(printable(text), **options)
