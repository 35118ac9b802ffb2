"""Logs in at Dex as a browser would, where a cluster has its default login form.

Kubeflow's manifests put oauth2-proxy (earlier: oidc-authservice) and Dex before everything. Whoever asks
without a session is sent to Dex's form; the form's answer sets session cookies. Other identity providers have
other forms: take the cookies of a browser, or a token, there.
"""

from __future__ import annotations

import http.cookiejar
import ssl
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit, urlunsplit
from urllib.request import HTTPCookieProcessor, HTTPSHandler, OpenerDirector, Request, build_opener

from clipseg_kfp.client.errors import ClusterError, LoginError

SECONDS = 30.0


def session_cookies(
    host: str, username: str, password: str, *, ca_cert: str = "", verify: bool = True
) -> str:
    """Fills in Dex's form.

    Args:
        host: URL of the API.
        username: login name, an e-mail address for static users.
        password: its password; sent to Dex's form only.
        ca_cert: file with the certificates to trust; empty takes the system's.
        verify: whether to check certificates.

    Returns:
        The session's cookies as ``name=value; name=value``; empty where the host asks for no login.

    Raises:
        LoginError: Dex refused, or no login form was found.
        ClusterError: the host cannot be reached.
    """
    context = ssl.create_default_context(cafile=ca_cert or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    jar = http.cookiejar.CookieJar()
    opener = build_opener(HTTPCookieProcessor(jar), HTTPSHandler(context=context))

    status, url = _visit(opener, f"{host}/")
    if status in (401, 403):  # oauth2-proxy shows its own page first
        root = urlsplit(host)
        status, url = _visit(opener, urlunsplit((root.scheme, root.netloc, "/oauth2/start", "rd=%2F", "")))
    if "/auth" not in urlsplit(url).path:
        if status >= 400:
            raise _no_form(host, status)
        return _header(jar, host)  # let in without a login
    form = urlsplit(url)
    if form.path.endswith("/auth"):  # the choice of connectors: take the local one
        _, url = _visit(opener, urlunsplit(form._replace(path=f"{form.path}/local")))
        form = urlsplit(url)
    if not form.path.endswith("/login"):
        raise _no_form(host, status)
    if form.scheme == "http" and urlsplit(host).scheme == "https":
        raise LoginError(
            "The login form is not encrypted, but the endpoint is.",
            "Tell the administrator.",
            code="dex_unencrypted",
            where=host,
        )
    status, url = _visit(opener, url, {"login": username, "password": password})
    if urlsplit(url).path.endswith("/login"):  # Dex shows the form again
        raise LoginError(
            f"Dex does not accept {username} with this password.",
            "Check KFP_DEX_USERNAME and the password.",
            code="dex_refused",
            where=username,
        )
    if urlsplit(url).path.endswith("/approval"):
        status, url = _visit(opener, url, {"approval": "approve"})
    cookies = _header(jar, host)
    if not cookies:
        raise _no_form(host, status)
    return cookies


def _visit(opener: OpenerDirector, url: str, form: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and address of the page that the redirects end at."""
    body = urlencode(form).encode() if form is not None else None
    try:
        with opener.open(url, body, SECONDS) as answer:
            return int(answer.status), str(answer.geturl())
    except HTTPError as error:
        with error:
            return int(error.code), str(error.geturl())
    except (URLError, OSError) as error:
        reason: Any = getattr(error, "reason", error)
        place = urlsplit(url)
        raise ClusterError(
            f"{place.scheme}://{place.netloc} cannot be reached: {reason}.",
            "Check the endpoint.",
            code="unreachable",
            where=place.netloc,
        ) from None


def _header(jar: http.cookiejar.CookieJar, host: str) -> str:
    """What a browser would send to the host: Dex's own cookies stay with Dex."""
    request = Request(f"{host}/")
    jar.add_cookie_header(request)
    return request.get_header("Cookie", "") or ""


def _no_form(host: str, status: int) -> LoginError:
    return LoginError(
        f"{host} leads to no login form of Dex that this client knows (status {status}).",
        "Log in with a browser and give its session cookies in KFP_COOKIES_FILE, or a token in KFP_TOKEN_FILE.",
        code="dex_form_unknown",
        where=host,
    )
