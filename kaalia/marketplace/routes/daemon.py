"""Routes of daemon."""

from kaalia.marketplace.routing import Route

ROUTES: tuple[Route, ...] = ()
