"""Cheap approximations of activation patching, and how far each is from the exact result."""
