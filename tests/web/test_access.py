"""Who gets in: the token, the cookie, Host and Origin; and what answers tell browsers to forbid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import obeql
from obeql.web.access import AccessRules
from tests.web.conftest import Site


@pytest.fixture(scope="module")
def page() -> Iterator[Site]:
    with obeql.connect() as session:
        site = Site(session)
        with site.client:
            yield site
        site.page.close()


@pytest.fixture
def site(page: Site) -> Site:
    """The page, and a client that has its cookie and no other."""
    page.client.cookies.clear()
    page.client.cookies.set(page.rules.cookie, page.rules.token)
    return page


def test_the_token_is_traded_for_a_cookie_and_leaves_the_address(site: Any) -> None:
    site.client.cookies.clear()
    assert site.client.get("/api/state").status_code == 401
    answer = site.client.get("/?token=a-token&view=runs", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/?view=runs"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and cookie.startswith("obeql_4321=")
    assert site.client.get("/api/state").status_code == 200


@pytest.mark.parametrize("token", ["", "another", "a-toke", "a-token-", "ä"])
def test_another_token_is_refused(site: Any, token: str) -> None:
    site.client.cookies.clear()
    answer = site.client.get("/", params={"token": token}, follow_redirects=False)
    assert answer.status_code == 401 and "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:4321", "", "["])
def test_another_host_is_refused(site: Any, host: str) -> None:
    answer = site.client.get("/api/state", headers={"host": host})
    assert answer.status_code == 421


def test_this_machine_has_several_names(site: Any) -> None:
    assert site.client.get("/api/state", headers={"host": "localhost:4321"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:4321", "http://127.0.0.1:9999"])
def test_another_origin_is_refused(site: Any, origin: str) -> None:
    answer = site.client.post("/api/jobs", json={"text": "SHOW RUNS"}, headers={"origin": origin})
    assert answer.status_code == 403
    assert site.get("/api/jobs") == {"jobs": []}


def test_a_page_of_another_site_cannot_read_along(site: Any) -> None:
    answer = site.client.get("/api/state", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    own = {"origin": "http://127.0.0.1:4321", "sec-fetch-site": "same-origin"}
    answer = site.client.get("/api/state", headers=own)
    assert answer.status_code == 200
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", ["/", "/api/state", "/static/main.js", "/api/nothing", "/static/../app.py"])
def test_every_answer_says_what_a_page_may_load(site: Any, path: str) -> None:
    answer = site.client.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in policy


def test_the_page_has_no_script_or_style_of_its_own_inside(site: Any) -> None:
    text = site.client.get("/").text
    assert " style=" not in text and "<style" not in text and " onclick" not in text
    assert text.count("<script") == 1 and 'src="/static/main.js"' in text


def test_other_files_are_not_served(site: Any) -> None:
    for name in ("../app.py", "__init__.py", "nothing.js", "../../results/heatmap.py"):
        assert site.client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    ("host", "local", "known", "unknown"),
    [
        ("127.0.0.1", True, ["127.0.0.1:5", "localhost:5", "[::1]:5"], ["10.0.0.7:5", "box:5"]),
        ("localhost", True, ["localhost:5"], ["10.0.0.7:5"]),
        ("0.0.0.0", False, ["10.0.0.7:5", "127.0.0.1:5"], ["evil.example:5"]),
        ("box.example", False, ["box.example:5"], ["10.0.0.7:5", "evil.example:5"]),
    ],
)
def test_hosts_by_where_the_server_listens(host: str, local: bool, known: list[str], unknown: list[str]) -> None:
    rules = AccessRules(host, 5)
    assert rules.is_local is local
    assert all(map(rules.knows_host, known)) and not any(map(rules.knows_host, unknown))
    assert rules.token in rules.address and len(rules.token) >= 32
    assert AccessRules(host, 5).token != rules.token
