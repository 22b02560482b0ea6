"""Routes of instances."""

from kaalia.marketplace.routing import Route

ROUTES: tuple[Route, ...] = ()
