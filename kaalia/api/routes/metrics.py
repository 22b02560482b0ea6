"""For Prometheus: all metrics, or those that concern one contract."""

from aiohttp import web

from kaalia.api.metrics.scrape import Scraper
from kaalia.errors import ConfigError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Every Prometheus reads it, and it takes two thirds of the time of OpenMetrics, which would say no more here."""
SCRAPER = web.AppKey("scraper", Scraper)


async def show(request: web.Request) -> web.Response:
    """GET /metrics, or /metrics?contract=ID. Raises ConfigError `contract_invalid`."""
    scraper = request.app[SCRAPER]
    wanted = request.query.get("contract")
    if wanted is None:
        body = await scraper.whole()
    else:
        body = await scraper.of_contract(_number(wanted))
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ConfigError(
            "contract_invalid",
            f"cannot show metrics of contract {text[:40]!r}: that is no number",
            remedy="give its id, such as 51",
        )
    return int(text)
