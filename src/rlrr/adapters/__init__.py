"""Adapter folders: what a finished run is saved as, how it comes back, and how several are combined."""
