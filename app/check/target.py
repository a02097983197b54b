"""The running server that is asked: its address, its key, its model, from the command line."""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Sequence

import httpx

from app.errors import ConfigError
from app.settings.command_line import Parser
from app.settings.load import load

_CONNECT_TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", type=_base_url, metavar="URL", help="default: localhost, PORT or UDS")
    add("--port", type=_port, metavar="N", help="of a server on this machine; default: PORT")
    add("--uds", metavar="PATH", help="ask on this unix socket")
    add("--ca", metavar="FILE", help="trust the authorities of this PEM file, too (https)")
    add("--cert", metavar="FILE", help="show this certificate (PEM), if the server wants one")
    add("--key", metavar="FILE", help="its key; default: the file of --cert")
    add("--api-key", metavar="KEY", help="default: the first of API_KEY")
    add("--model", metavar="NAME", help="default: the first that is listed")
    add("--timeout", type=_seconds, default=60.0, metavar="S", help="per answer; default: 60")
    add("--json", action="store_true", help="print JSON")


def parsed(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """Of this program's settings it takes the port and the key. Raises
    ConfigError for wrong usage."""
    options = parser.parse_args(argv)
    try:
        own = load({}).settings
    except ConfigError as error:  # another server may be asked: go on without them
        print(f"the settings here are not used: {error}", file=sys.stderr)
        own = load({}, {"ENV_FILE": "", "SECRETS_DIR": ""}).settings
    if options.port is not None and (options.base_url or options.uds) is not None:
        parser.error("--port stands alone: --base-url and --uds say where, too")
    if options.base_url is None:
        tls = own.ssl_certfile is not None and options.uds is None
        scheme = "https" if tls else "http"
        options.base_url = _base_url(f"{scheme}://localhost:{options.port or own.port or 8000}")
        if options.port is None:
            options.uds = options.uds or own.uds
    if options.key is not None and options.cert is None:
        parser.error("--key needs --cert")
    _check_scheme(parser, options)
    try:
        options.tls = _tls(options)
    except (OSError, ValueError) as error:
        parser.error(f"--ca, --cert, --key: {error}")
    if options.api_key is None and own.api_key:
        options.api_key = own.api_key[0].get_secret_value()
    if options.api_key and not options.api_key.isprintable():  # httpx would refuse it, and quote it
        parser.error("the API key has characters that no header can carry")
    return options


def _check_scheme(parser: Parser, options: argparse.Namespace) -> None:
    """What would have no effect is an error."""
    is_tls = options.base_url.scheme == "https"
    if is_tls and options.uds is not None:
        parser.error("--uds needs an http:// address: a unix socket is without TLS")
    if not is_tls and (options.ca is not None or options.cert is not None):
        parser.error("--ca, --cert and --key need an https:// address")


def client_of(options: argparse.Namespace) -> httpx.Client:
    url: httpx.URL = options.base_url
    return httpx.Client(
        base_url=url,
        headers={"authorization": b"Bearer " + options.api_key.encode()} if options.api_key else {},
        timeout=httpx.Timeout(options.timeout, connect=min(options.timeout, _CONNECT_TIMEOUT_S)),
        verify=options.tls,
        transport=httpx.HTTPTransport(uds=options.uds) if options.uds else None,
        # A proxy from the environment leads to other machines only.
        trust_env=url.host not in ("localhost", "127.0.0.1", "::1"),
    )


def _tls(options: argparse.Namespace) -> ssl.SSLContext:
    """Of plain connections, too, which do not look at it: the system's authorities are many."""
    if options.base_url.scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if options.ca is not None:
        context.load_verify_locations(options.ca)
    if options.cert is not None:
        context.load_cert_chain(options.cert, options.key)
    return context


def _base_url(text: str) -> httpx.URL:
    """With or without a scheme, /v1 and a slash at its end."""
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    known = url.scheme in ("http", "https") and url.host and (url.port or 0) < 65536
    if not known or url.userinfo or url.query:
        raise argparse.ArgumentTypeError("must be http(s)://host[:port][/path]")
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/v1") or "/", fragment=None)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError("must be from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 86400")
    return seconds
