"""How the small transformer learns."""
