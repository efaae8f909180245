"""Build-time tools; no recipe imports them."""
