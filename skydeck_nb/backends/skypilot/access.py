"""How SkyPilot's API server is reached: its address, who asks, and in which workspace.

Decides endpoint, token, cookies, user and client configuration by SkyPilot's own
rules (``sky/server/common.py``, ``sky/client/service_account_auth.py``,
``sky/skypilot_config.py``, ``sky/utils/common_utils.py``; 0.12 to 0.14), so that
the SDK and this package always ask the same server as the same user. Refuses to
import SkyPilot, to ask the network, and to guess: without an endpoint there is
no server, since the one that SkyPilot would start by itself is nobody's choice.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import LoadError, MozillaCookieJar
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from skydeck_nb.errors import InvalidSetting, NeedsSignIn

ENDPOINT: Final = "SKYPILOT_API_SERVER_ENDPOINT"
TOKEN: Final = "SKYPILOT_SERVICE_ACCOUNT_TOKEN"
COOKIES: Final = "SKYPILOT_API_COOKIE_FILE"
USER_ID: Final = "SKYPILOT_USER_ID"
USER: Final = "SKYPILOT_USER"
GLOBAL_CONFIG: Final = "SKYPILOT_GLOBAL_CONFIG"
PROJECT_CONFIG: Final = "SKYPILOT_PROJECT_CONFIG"

_HASH: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]*")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who asks: a bearer token, else the cookie jar's file. Never shown."""

    token: str | None = field(default=None, repr=False)
    cookie_file: Path = field(default=Path("~/.sky/cookies.txt"), repr=False)

    def cookies(self) -> MozillaCookieJar:
        """The cookies that have not expired, read from disk (raises ``NeedsSignIn`` for a file that is none)."""
        jar = MozillaCookieJar(self.cookie_file)
        try:
            if self.cookie_file.exists():
                if not all(map(_is_cookie, self.cookie_file.read_text().split("\n"))):
                    raise LoadError
                jar.load()
        except (OSError, UnicodeError):  # whose words may hold the cookie itself
            raise NeedsSignIn(
                f"{self.cookie_file} is no cookie file: remove it and sign in with deck.sign_in()."
            ) from None
        return jar

    def keep(self, jar: MozillaCookieJar) -> None:
        """Write the cookie file in one step, since SkyPilot's client may be reading."""
        self.cookie_file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self.cookie_file.parent, delete=False) as part:
            written = Path(part.name)
        try:
            jar.save(str(written))
            written.replace(self.cookie_file)
        finally:
            written.unlink(missing_ok=True)

    def stamp(self) -> tuple[int, int] | None:
        """What changes when the cookie file does; ``None`` where there is none."""
        try:
            found = self.cookie_file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


@dataclass(frozen=True, slots=True)
class Access:
    """One client of one API server."""

    url: str = field(repr=False)
    """As configured, without a slash at its end; it may hold a password."""
    credentials: Credentials = field(default_factory=Credentials)
    user_id: str = ""
    """SkyPilot's user hash of this machine; a server with sign-in goes by its own id for the user."""
    user_name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The client's configuration that goes along with each request."""
    cwd: str | None = None
    """The folder whose ``.sky.yaml`` was read: SkyPilot's own client must be started in the same."""

    @property
    def place(self) -> str:
        """The address as it may be shown and stored: without a password."""
        return redacted(self.url)

    @property
    def chosen_workspace(self) -> str | None:
        """The workspace that the client's configuration names; without one the server decides (since 0.13)."""
        named = self.config.get("active_workspace")
        return named if isinstance(named, str) and named else None

    @property
    def workspace(self) -> str:
        return self.chosen_workspace or "default"

    @property
    def sign_in_command(self) -> str:
        """The one command that signs in from a terminal."""
        return f"sky api login -e {self.place}"


def redacted(url: str) -> str:
    """A URL without the user and password before its host."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no address, and shown all the same
        return re.sub(r"//[^/]*@", "//", url)
    if parts.username is None and parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def resolve(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Access:
    """Who asks which server, by environment, project and user configuration.

    Raises:
        InvalidSetting: no endpoint is named, or a configuration file or token cannot be used.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or "~").expanduser()
    folder = Path.cwd() if cwd is None else cwd
    config = _configuration(environ, home, folder)
    server = config.get("api_server") or {}
    if not isinstance(server, Mapping):
        raise InvalidSetting("api_server in SkyPilot's configuration is no mapping; write `api_server: {endpoint: …}`.")
    url = environ.get(ENDPOINT) or server.get("endpoint")
    if not url:
        raise InvalidSetting(
            "No SkyPilot API server is named: run `sky api login -e https://your-server` in a terminal, "
            f"or set {ENDPOINT}, and open the deck again."
        )
    if not isinstance(url, str) or not _is_address(url):
        raise InvalidSetting(
            f"SkyPilot's endpoint is {redacted(str(url))!r}; it takes an address such as https://sky.example.com."
        )
    cookie_file = environ.get(COOKIES) or str(home / ".sky" / "cookies.txt")
    return Access(
        url=url.rstrip("/"),
        credentials=Credentials(token=_token(environ, server), cookie_file=_below(cookie_file, home)),
        user_id=_user_id(environ, home),
        user_name=environ.get(USER) or _login(),
        config={key: value for key, value in config.items() if key not in ("api_server", "admin_policy")},
        cwd=str(folder),
    )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_cookie(line: str) -> bool:
    """Whether a line of a cookie file can be read: what cannot makes ``http.cookiejar`` warn of its own bugs."""
    line = line.removeprefix("#HttpOnly_")
    if not line.strip() or line.strip().startswith(("#", "$")):
        return True
    fields = line.split("\t")
    number = len(fields) == 7 and re.fullmatch(r"-?\d{0,15}(\.\d*)?", fields[4])
    return bool(number) and (fields[1] == "TRUE") == fields[0].startswith(".")


def _token(environ: Mapping[str, str], server: Mapping[str, Any]) -> str | None:
    for place, token in ((TOKEN, environ.get(TOKEN)), ("api_server.service_account_token", _text(server))):
        if token:
            if not token.startswith("sky_"):
                raise InvalidSetting(f"{place} is no service account token of SkyPilot; those begin with sky_.")
            return token
    return None


def _text(server: Mapping[str, Any]) -> str | None:
    token = server.get("service_account_token")
    return None if token is None else str(token)


def _below(path: str, home: Path) -> Path:
    return home / path[2:] if path.startswith("~/") else Path(path).expanduser()


def _configuration(environ: Mapping[str, str], home: Path, cwd: Path) -> dict[str, Any]:
    """The user's file with the project's over it, mapping by mapping."""
    merged: dict[str, Any] = {}
    places = ((GLOBAL_CONFIG, home / ".sky" / "config.yaml"), (PROJECT_CONFIG, cwd / ".sky.yaml"))
    for variable, usual in places:
        named = environ.get(variable)
        file = _below(named, home) if named else usual
        if named and not file.exists():
            raise InvalidSetting(f"{variable} names {file}, which does not exist; correct it, or unset it.")
        if file.is_file():
            _merge(merged, _read(file))
    return merged


def _merge(into: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting(f"{file} cannot be read ({error.strerror}); make it readable.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{file} is not YAML: {' '.join(str(error).split())}. Correct that place.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidSetting(f"{file} holds no mapping; see SkyPilot's page on its configuration.")
    return found


def _user_id(environ: Mapping[str, str], home: Path) -> str:
    """SkyPilot's hash of the user; where none is kept yet, the one that SkyPilot will make and keep."""
    file = home / ".sky" / "user_hash"
    candidates = [environ.get(USER_ID) or ""]
    if file.is_file():
        candidates.append(file.read_text(encoding="utf-8", errors="replace").strip())
    for candidate in candidates:
        if _HASH.fullmatch(candidate):
            return candidate
    host = hashlib.md5(socket.gethostname().encode(), usedforsecurity=False).hexdigest()[-4:]
    return hashlib.md5(f"{_login()}-{host}".encode(), usedforsecurity=False).hexdigest()[:8]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"
