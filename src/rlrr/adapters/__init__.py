"""Adapter folders: how a finished run is saved, loaded, and combined with others."""
