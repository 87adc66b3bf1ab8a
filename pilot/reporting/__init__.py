"""What a run measured, as sentences, plots, tables and one page."""
