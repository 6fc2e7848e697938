"""A number and its noun, as a sentence has them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 map``, ``1,500 pixels``; for nouns whose plural ends in s."""
    return f"{count:,} {noun}" + "s" * (count != 1)
