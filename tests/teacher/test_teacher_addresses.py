"""Addresses of endpoints, and the proxies that the environment names."""

import os
from pathlib import Path

import pytest
from endpoint_teacher import card_file, kept

from udrl.errors import MissingDependency, UsageError
from udrl.teacher import cards
from udrl.teacher.backends.addresses import endpoint_address, proxy_for
from udrl.teacher.backends.openai import OpenAITeacher


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:80a0/v1",
        "http://127.0.0.1:0/v1",
        "http://[::1/v1",
        "http://[zz]/v1",
        "http://foo..bar/v1",
        f"http://{'a' * 70}/v1",
        "http://exa mple/v1",
        "http://:80/v1",
        "http:///v1",
        "",
        "http://\ud800/v1",
        "http://h\x00/v1",
    ],
)
def test_address_that_is_none_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match=r"is no address of an endpoint.*write it as http://HOST:PORT/v1"):
        endpoint_address(url)


def test_address_that_is_none_shows_no_password() -> None:
    with pytest.raises(UsageError) as caught:
        endpoint_address("http://me:secret@host:99999/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "address", "shown"),
    [
        ({"HTTP_PROXY": "http://me:pw@10.0.0.1:1"}, "http://host/v1", "the proxy http://10.0.0.1:1 (HTTP_PROXY)"),
        ({"http_proxy": "proxy:3128"}, "http://host/v1", "the proxy http://proxy:3128 (http_proxy)"),
        ({"ALL_PROXY": "http://p:1"}, "https://host/v1", "the proxy http://p:1 (ALL_PROXY)"),
        ({"HTTP_PROXY": "http://p:1"}, "https://host/v1", None),
        *(({"HTTP_PROXY": "http://p:1"}, f"http://{host}/v1", None) for host in ("127.0.0.1", "localhost:80", "[::1]")),
        *(
            ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": excepted}, "http://a.example:8000/v1", None)
            for excepted in ("*", "example", ".example", "*.example", "x, a.example", "a.example:8000")
        ),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,fd00::/8"}, "http://10.2.3.4/v1", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,fd00::/8"}, "http://[fd00::1]/v1", None),
        (
            {"ALL_PROXY": "http://p:1", "NO_PROXY": "ample,a.example:81"},
            "http://a.example/v1",
            "the proxy http://p:1 (ALL_PROXY)",
        ),
    ],
)
def test_proxy_is_what_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], address: str, shown: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(address)
    assert (None if proxy is None else str(proxy)) == shown


def test_proxy_that_cannot_be_used_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udrl.teacher.backends.addresses.is_installed", lambda name: False)
    monkeypatch.setenv("ALL_PROXY", "socks5://me:pw@p:1")
    with pytest.raises(MissingDependency, match=r"the proxy socks5://p:1 \(ALL_PROXY\).*pip install socksio"):
        proxy_for("http://host/v1")
    for wrong in ("socks4://p:1", "http://p:99999", "http://"):
        monkeypatch.setenv("ALL_PROXY", wrong)
        with pytest.raises(UsageError, match="ALL_PROXY names cannot be used"):
            proxy_for("http://host/v1")


def test_proxy_in_use_is_named_where_a_connection_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    card = cards.load_card(card_file(tmp_path, openai={"attempts": 1}))
    teacher = OpenAITeacher(cards.at_endpoint(card, "http://endpoint.invalid/v1"))
    replies, said = kept(teacher, 2)
    assert replies == []
    assert "through the proxy http://127.0.0.1:1 (HTTP_PROXY)" in said
