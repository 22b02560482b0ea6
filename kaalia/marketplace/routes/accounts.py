"""Routes of accounts."""

from kaalia.marketplace.routing import Route

ROUTES: tuple[Route, ...] = ()
