"""Routes of machines."""

from kaalia.marketplace.routing import Route

ROUTES: tuple[Route, ...] = ()
