"""An extension of griffe: our docstrings say "Example:" above doctests, which griffe knows as "Examples:"."""

from __future__ import annotations

from typing import Any

import griffe


class OneExample(griffe.Extension):
    """Makes the one an "Examples:" section, so that it is shown as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called with each object that was read."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
