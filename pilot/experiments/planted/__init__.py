"""Circuits that are set by hand, to test the experiment on."""
