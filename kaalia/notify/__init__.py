"""Tells the owner by webhooks and mail what happens to his machine. See docs/notifications.md."""
