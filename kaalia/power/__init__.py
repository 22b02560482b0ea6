"""Keeps power limits and clocks of the GPUs as the owner wants them, by what each does. See docs/power.md."""
