"""VTAB-1k and FGVC: readers of their layouts, an inventory, and conversion from other copies."""
