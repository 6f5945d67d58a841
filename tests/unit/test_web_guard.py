import base64

import httpx
import pytest
from starlette.responses import PlainTextResponse

from studio_runner.web.guard import Access, Guard

TOKEN = "tökén"
BEARER = {"Authorization": b"Bearer " + TOKEN.encode()}
LOCAL = Access(frozenset({"localhost", "127.0.0.1", "[::1]"}), private=False, token="")


async def ask(access, method="GET", path="/", host="localhost:9090", **headers):
    transport = httpx.ASGITransport(Guard(PlainTextResponse("reached"), access))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, headers={"Host": host, **headers})


def basic(password):
    return {"Authorization": "Basic " + base64.b64encode(f"name:{password}".encode()).decode()}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1:1", "[::1]:9090", "[::1]"])
async def test_this_machine_is_answered_under_its_names(host):
    assert (await ask(LOCAL, host=host)).text == "reached"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::2]:80",
        "",
        ":9090",
    ],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/api/v1/runner"])
async def test_no_other_name_is(host, path):
    answer = await ask(LOCAL, host=host, path=path)
    assert answer.status_code == 421
    assert answer.json()["hint"]


async def test_every_answer_forbids_scripts_from_elsewhere():
    for answer in (await ask(LOCAL), await ask(LOCAL, host="evil.example")):
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "XYZZY"])
async def test_nothing_changes_without_a_configured_token(method):
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"}, basic("")):
        answer = await ask(LOCAL, method, **headers)
        assert answer.status_code == 403
        assert "http.token" in answer.json()["hint"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": b"Bearer " + TOKEN.encode() + b"x"},
        {"Authorization": b"Token " + TOKEN.encode()},
        {"Authorization": b"Bearer \xff\xfe"},
        basic(TOKEN),
    ],
)
async def test_changing_needs_the_token_as_a_bearer(headers):
    access = Access(LOCAL.names, private=False, token=TOKEN)
    answer = await ask(access, "POST", **headers)
    assert answer.status_code == 401
    assert "www-authenticate" in answer.headers
    assert TOKEN not in answer.text


async def test_the_token_opens():
    for scheme in (b"Bearer ", b"bearer  "):
        access = Access(LOCAL.names, private=False, token=TOKEN)
        assert (await ask(access, "POST", Authorization=scheme + TOKEN.encode())).text == "reached"


async def test_reading_on_this_machine_needs_none():
    assert (await ask(Access(LOCAL.names, private=False, token=TOKEN))).text == "reached"


async def test_from_elsewhere_reading_needs_the_token_but_for_probes():
    access = Access(None, private=True, token=TOKEN)
    assert (await ask(access, host="runner.example")).status_code == 401
    assert (await ask(access, "HEAD", host="runner.example")).status_code == 401
    for path in ("/healthz", "/readyz"):
        assert (await ask(access, path=path, host="runner.example")).text == "reached"
    for headers in (BEARER, basic(TOKEN)):
        assert (await ask(access, host="runner.example", **headers)).text == "reached"
    for headers in (basic("no"), {"Authorization": "Basic ???"}, {"Authorization": "Basic /w=="}):
        assert (await ask(access, host="runner.example", **headers)).status_code == 401


async def test_whoever_opened_it_without_a_token_meant_it():
    assert (await ask(Access(None, private=True, token=""), host="runner.example")).text == "reached"


def test_the_token_is_in_no_text_about_it():
    assert TOKEN not in repr(Access(None, private=True, token=TOKEN))
