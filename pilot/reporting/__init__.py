"""Results as pictures, tables, sentences and one page."""
