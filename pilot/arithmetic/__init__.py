"""Arithmetic with parentheses: the expressions that the small transformer learns, as text, tokens and pairs."""
