"""What a job costs an hour: the cheapest of the catalogue's offers where it is, or not known."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skydeck_nb.backends.skypilot import catalogue
from skydeck_nb.backends.skypilot.catalogue import Catalogue, cheapest, offers, place_of
from skydeck_nb.backends.skypilot.transport import Transport
from tests.backends.skypilot.server import Server
from tests.backends.skypilot.wrongdoer import failed


def offer(cloud: str, region: str, price: Any, spot_price: Any = None) -> list[Any]:
    """As it travels (``sky/catalog/common.py``)."""
    return [cloud, "p5.48xlarge", "H100", 8, 192, 80.0, 2048.0, price, spot_price, region]


H100 = [
    offer("AWS", "us-east-1", 98.0, 40.0),
    offer("AWS", "us-west-2", 90.0, None),
    offer("GCP", "us-central1", 88.0, 30.0),
]


@pytest.mark.parametrize(
    ("infra", "cloud", "region"),
    [
        ("AWS (us-east-1)", "aws", "us-east-1"),
        ("aws/us-east-1", "aws", "us-east-1"),
        ("AWS (us-east-1, us-east-1a)", "aws", "us-east-1"),
        ("Slurm (loop)", "slurm", "loop"),
        ("GCP", "gcp", ""),
        ("", "", ""),
    ],
)
def test_a_place_is_a_cloud_and_a_region(infra: str, cloud: str, region: str) -> None:
    assert place_of(infra) == (cloud, region)


@pytest.mark.parametrize(
    ("infra", "spot", "price"),
    [
        ("AWS (us-east-1)", False, 98.0),
        ("AWS (us-east-1)", True, 40.0),
        ("AWS (us-west-2)", True, None),
        ("AWS", False, 90.0),
        ("AWS (mars-1)", False, 90.0),
        ("GCP (us-central1)", False, 88.0),
        ("Azure (westus)", False, None),
    ],
)
def test_the_cheapest_offer_of_the_place(infra: str, spot: bool, price: float | None) -> None:
    assert cheapest(offers({"H100": H100}, "h100"), infra, spot=spot) == price


@pytest.mark.parametrize("price", [None, 0, -1.0, math.nan, math.inf, 1e9, 10**400, "98", [], True])
def test_a_price_that_is_none_is_not_known(price: Any) -> None:
    assert cheapest(offers({"H100": [offer("AWS", "r", price)]}, "H100"), "AWS (r)", spot=False) is None


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.text() | st.floats() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("H100", "cloud", "price")), inner),
    )
)
def test_any_json_is_offers_or_none(answer: Any) -> None:
    price = cheapest(offers(answer, "H100"), "AWS (r)", spot=False)
    assert price is None or price > 0


@pytest.fixture
def prices(transport: Transport) -> Catalogue:
    return Catalogue(transport)


def hourly(
    prices: Catalogue, accelerators: str | None = "H100:8", infra: str | None = "AWS (us-east-1)"
) -> float | None:
    return prices.hourly(accelerators, 2, infra, spot=False, until=time.monotonic() + 20)


def test_a_job_costs_what_its_nodes_cost(server: Server, prices: Catalogue) -> None:
    server.offers = {"H100": H100}
    assert hourly(prices) == 2 * 98.0


def test_offers_are_asked_for_once(server: Server, prices: Catalogue) -> None:
    server.offers = {"H100": H100}
    for infra in ("AWS (us-east-1)", "AWS (us-west-2)", "GCP"):
        hourly(prices, infra=infra)
    hourly(prices, "h100:8")
    (asked,) = server.of("/list_accelerators")
    assert asked.json["name_filter"] == "^H100$"
    assert asked.json["quantity_filter"] == 8


def test_offers_are_asked_for_again_when_they_are_old(
    server: Server, prices: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "BELIEVED", -1.0)
    hourly(prices)
    hourly(prices)
    assert len(server.of("/list_accelerators")) == 2


@pytest.mark.parametrize(
    ("accelerators", "infra"),
    [
        (None, "AWS"),
        ("H100:8", None),
        ("H100:8", "Slurm (loop)"),
        ("H100:8", "Kubernetes (ctx)"),
        ("H100:8", "SSH (pool)"),
    ],
)
def test_where_nothing_has_a_price_nobody_is_asked(
    server: Server, prices: Catalogue, accelerators: str | None, infra: str | None
) -> None:
    assert hourly(prices, accelerators, infra) is None
    assert server.asked == []


def test_a_catalogue_that_fails_means_that_no_price_is_known_and_is_not_asked_at_each_look(
    server: Server, prices: Catalogue
) -> None:
    server.tell("/api/get", failed("RuntimeError", "no catalogue"))
    assert hourly(prices) is hourly(prices) is None
    assert len(server.of("/list_accelerators")) == 1


def test_a_catalogue_that_failed_is_asked_again_after_a_while(
    server: Server, prices: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "AGAIN", -1.0)
    server.offers = {"H100": H100}
    server.tell("/api/get", failed("RuntimeError", "no catalogue"))
    assert hourly(prices) is None
    server.forget()
    assert hourly(prices) == 2 * 98.0


def test_an_accelerators_name_is_no_pattern() -> None:
    assert catalogue.body("A100.*|H", 1)["name_filter"] == r"^A100\.\*\|H$"
