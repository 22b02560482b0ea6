"""Routes of offers."""

from kaalia.marketplace.routing import Route

ROUTES: tuple[Route, ...] = ()
