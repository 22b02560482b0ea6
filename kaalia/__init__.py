"""kaalia: the open host daemon for GPU providers."""

__version__ = "0.1.0"
