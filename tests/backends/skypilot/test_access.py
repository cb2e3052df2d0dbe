"""Which server is asked, as whom, with what: by SkyPilot's own rules, and said so where they cannot be followed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from skydeck_nb.backends.skypilot import SkyPilotBackend
from skydeck_nb.backends.skypilot.access import Access, Credentials, redacted, resolve
from skydeck_nb.errors import InvalidSetting, NeedsSignIn
from tests.backends.skypilot.conftest import Sdk

ENDPOINT = {"SKYPILOT_API_SERVER_ENDPOINT": "https://sky.example.com"}
USER = "api_server: {endpoint: https://user.example.com}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One environment, and files in the home and in the project's folder; ``~`` in a value is the home."""

    environ: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    project: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    """By names below the home."""


def made(case: Case, root: Path) -> tuple[dict[str, str], Path]:
    """The environment and the folder of a case."""
    home, project = root / "user", root / "project"
    (home / ".sky").mkdir(parents=True)
    project.mkdir()
    for name, text in {".sky/config.yaml": case.user, **case.files}.items():
        if text is not None:
            (home / name).write_text(text)
    if case.project is not None:
        (project / ".sky.yaml").write_text(case.project)
    told = {name: value.replace("HOME/", f"{home}/") for name, value in case.environ.items()}
    return {"HOME": str(home), "PATH": os.environ["PATH"], **told}, project


def found(case: Case, root: Path) -> Access:
    environ, project = made(case, root)
    return resolve(environ, project)


# -- whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "url"),
    [
        (Case(environ=ENDPOINT), "https://sky.example.com"),
        (Case(environ=ENDPOINT, user=USER), "https://sky.example.com"),
        (Case(user=USER), "https://user.example.com"),
        (Case(user=USER, project="api_server: {endpoint: 'http://p:80/'}"), "http://p:80"),
        (Case(environ={"SKYPILOT_API_SERVER_ENDPOINT": "http://a:b@c/x//"}), "http://a:b@c/x"),
    ],
)
def test_the_server_is_the_environments_then_the_projects_then_the_users(case: Case, url: str, tmp_path: Path) -> None:
    assert found(case, tmp_path).url == url


@pytest.mark.parametrize("case", [Case(), Case(user=""), Case(user="api_server: {}"), Case(user="api_server:")])
def test_no_server_is_guessed(case: Case, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="sky api login -e https://your-server"):
        found(case, tmp_path)


@pytest.mark.parametrize("url", ["sky.example.com", "ftp://a", "https://", "http://[::1", "http:///x", "file:///etc"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"https://sky\.example\.com"):
        found(Case(environ={"SKYPILOT_API_SERVER_ENDPOINT": url}), tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://sky.example.com", "https://sky.example.com"),
        ("https://ada:s3cret@sky.example.com:8080/x", "https://sky.example.com:8080/x"),
        ("https://t0ken@sky.example.com", "https://sky.example.com"),
        ("http://a:b@[::1]:5", "http://[::1]:5"),
        ("http://a:s3cret@[::1", "http://[::1"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    access = Access(url=url)
    assert redacted(url) == access.place == shown
    assert access.sign_in_command == f"sky api login -e {shown}"


# -- as whom -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "token"),
    [
        (Case(environ={"SKYPILOT_SERVICE_ACCOUNT_TOKEN": "sky_a"}), "sky_a"),
        (Case(user="api_server: {service_account_token: sky_b}"), "sky_b"),
        (
            Case(
                environ={"SKYPILOT_SERVICE_ACCOUNT_TOKEN": "sky_a"}, user="api_server: {service_account_token: sky_b}"
            ),
            "sky_a",
        ),
        (Case(environ={"SKYPILOT_SERVICE_ACCOUNT_TOKEN": ""}), None),
        (Case(), None),
    ],
)
def test_the_token_is_the_environments_then_the_configurations(case: Case, token: str | None, tmp_path: Path) -> None:
    case = Case(environ={**ENDPOINT, **case.environ}, user=case.user)
    assert found(case, tmp_path).credentials.token == token


@pytest.mark.parametrize(
    "case",
    [
        Case(environ={**ENDPOINT, "SKYPILOT_SERVICE_ACCOUNT_TOKEN": "s3cret"}),
        Case(environ=ENDPOINT, user="api_server: {service_account_token: s3cret}"),
        Case(environ=ENDPOINT, user="api_server: {service_account_token: [s3cret]}"),
    ],
)
def test_a_token_that_is_none_is_refused_and_not_shown(case: Case, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="begin with sky_") as caught:
        found(case, tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "file"),
    [(None, ".sky/cookies.txt"), ("~/c.txt", "c.txt"), ("HOME/d.txt", "d.txt"), ("", ".sky/cookies.txt")],
)
def test_the_cookies_are_in_the_environments_file_else_in_the_homes(
    named: str | None, file: str, tmp_path: Path
) -> None:
    environ = ENDPOINT if named is None else {**ENDPOINT, "SKYPILOT_API_COOKIE_FILE": named}
    assert found(Case(environ=environ), tmp_path).credentials.cookie_file == tmp_path / "user" / file


@pytest.mark.parametrize(
    ("kept", "environ", "user_id"),
    [
        ("abcd1234\n", {}, "abcd1234"),
        ("abcd1234", {"SKYPILOT_USER_ID": "sa-7f-token"}, "sa-7f-token"),
        ("abcd1234", {"SKYPILOT_USER_ID": "not one!"}, "abcd1234"),
    ],
)
def test_the_user_is_the_environments_then_the_one_that_is_kept(
    kept: str, environ: dict[str, str], user_id: str, tmp_path: Path
) -> None:
    case = Case(environ={**ENDPOINT, **environ}, files={".sky/user_hash": kept})
    assert found(case, tmp_path).user_id == user_id


def test_asking_writes_nothing(tmp_path: Path) -> None:
    found(Case(environ=ENDPOINT), tmp_path)
    assert [path.name for path in (tmp_path / "user").rglob("*")] == [".sky"]


# -- with what -----------------------------------------------------------------------------------


def test_the_projects_configuration_lies_over_the_users_key_by_key(tmp_path: Path) -> None:
    user = "active_workspace: a\njobs: {controller: {consolidation_mode: true}, x: [1, 2]}\nadmin_policy: p.q\n" + USER
    access = found(Case(user=user, project="active_workspace: b\njobs: {x: [3], y: 4}\n"), tmp_path)
    assert access.config == {
        "active_workspace": "b",
        "jobs": {"controller": {"consolidation_mode": True}, "x": [3], "y": 4},
    }
    assert access.workspace == "b"


@pytest.mark.parametrize("config", ["", "active_workspace: ''", "active_workspace: 5", "active_workspace:"])
def test_the_workspace_is_the_default_where_none_is_named(config: str, tmp_path: Path) -> None:
    assert found(Case(environ=ENDPOINT, user=config), tmp_path).workspace == "default"


@pytest.mark.parametrize(
    "case",
    [
        Case(environ={**ENDPOINT, "SKYPILOT_GLOBAL_CONFIG": "HOME/g.yaml"}, files={"g.yaml": "active_workspace: g"}),
        Case(environ={**ENDPOINT, "SKYPILOT_PROJECT_CONFIG": "~/p.yaml"}, files={"p.yaml": "active_workspace: g"}),
    ],
)
def test_the_environment_names_other_files(case: Case, tmp_path: Path) -> None:
    case = Case(environ=case.environ, files=case.files, user="active_workspace: u")
    assert found(case, tmp_path).workspace == "g"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            Case(environ={**ENDPOINT, "SKYPILOT_GLOBAL_CONFIG": "HOME/no.yaml"}),
            r"SKYPILOT_GLOBAL_CONFIG names .*no\.yaml",
        ),
        (Case(environ={**ENDPOINT, "SKYPILOT_PROJECT_CONFIG": "HOME/no.yaml"}), "SKYPILOT_PROJECT_CONFIG"),
        (Case(environ=ENDPOINT, user="a: [b"), r"config\.yaml is not YAML"),
        (Case(environ=ENDPOINT, user="- a"), r"config\.yaml holds no mapping"),
        (Case(environ=ENDPOINT, project="just text"), r"\.sky\.yaml holds no mapping"),
        (Case(environ=ENDPOINT, user="api_server: text"), "api_server"),
        (Case(environ=ENDPOINT, user="a: !!python/object/apply:os.system [x]"), r"config\.yaml is not YAML"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_said_by_name(case: Case, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=words):
        found(case, tmp_path)


def test_a_configuration_that_is_no_text_is_said_by_name(tmp_path: Path) -> None:
    environ, project = made(Case(environ=ENDPOINT), tmp_path)
    (tmp_path / "user" / ".sky" / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSetting, match=r"config\.yaml"):
        resolve(environ, project)


# -- cookies -----------------------------------------------------------------------------------------

HEAD = "# Netscape HTTP Cookie File\n"
GOOD = "sky.example.com\tFALSE\t/\tTRUE\t4000000000\t_oauth2\tabc\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (HEAD + GOOD, ["_oauth2"]),
        (HEAD + "#HttpOnly_" + GOOD + "\n# a comment\n$ another\n", ["_oauth2"]),
        (HEAD + GOOD.replace("4000000000", "1000"), []),
        (HEAD + GOOD.replace("4000000000", ""), []),
        (HEAD + GOOD.replace("4000000000", "4000000000.5"), ["_oauth2"]),
        (HEAD, []),
        (None, []),
    ],
)
def test_cookies_are_read_from_the_file(text: str | None, names: list[str], tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    if text is not None:
        file.write_text(text)
    assert [cookie.name for cookie in Credentials(None, file).cookies()] == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD,
        HEAD + "s3cret\n",
        HEAD + GOOD.replace("abc", "s3cret").replace("4000000000", "soon"),
        HEAD + GOOD.replace("abc", "s3cret").replace("FALSE", "TRUE", 1),
        HEAD + GOOD.replace("abc", "s3cret\tmore"),
        "\x00\x01",
    ],
)
def test_a_cookie_file_that_is_none_needs_a_sign_in_and_shows_nothing(text: str, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(text)
    with pytest.raises(NeedsSignIn, match=r"deck\.sign_in\(\)") as caught:
        Credentials(None, file).cookies()
    assert "s3cret" not in str(caught.value)


def test_a_cookie_file_that_is_a_folder_needs_a_sign_in(tmp_path: Path) -> None:
    with pytest.raises(NeedsSignIn):
        Credentials(None, tmp_path).cookies()


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    credentials = Credentials(None, tmp_path / "cookies.txt")
    stamps = [credentials.stamp()]
    for text in (HEAD, HEAD + GOOD):
        part = tmp_path / "part"
        part.write_text(text)
        part.replace(tmp_path / "cookies.txt")
        stamps.append(credentials.stamp())
    assert stamps[0] is None
    assert len(set(stamps)) == 3


# -- nothing leaks -------------------------------------------------------------------------------------


def test_nothing_that_is_shown_or_stored_holds_a_secret(tmp_path: Path) -> None:
    environ = {"SKYPILOT_API_SERVER_ENDPOINT": "https://ada:s3cret@h", "SKYPILOT_SERVICE_ACCOUNT_TOKEN": "sky_s3cret"}
    access = found(Case(environ=environ, user="api_server: {service_account_token: sky_s3cret}"), tmp_path)
    backend = SkyPilotBackend(access=access)
    shown = (access, access.credentials, access.place, access.config, backend.identity, backend.describe(), backend)
    assert "s3cret" not in "".join(f"{one!r}{one!s}" for one in shown)
    backend.close()


# -- as SkyPilot has it ----------------------------------------------------------------------------------

COOKIE = HEAD + "sky.example.com\tFALSE\t/\tFALSE\t4000000000\ta\tb\n"

AGREED = {
    "environment": Case(environ={"SKYPILOT_API_SERVER_ENDPOINT": "https://sky.example.com/"}),
    "environment over user": Case(environ=ENDPOINT, user=USER),
    "user": Case(user=USER),
    "project over user": Case(user=USER, project="api_server: {endpoint: 'http://p:80'}\nactive_workspace: w"),
    "merged": Case(
        user="active_workspace: a\njobs: {controller: {consolidation_mode: true}}\naws: {vpc_names: [x, y]}\n" + USER,
        project="jobs: {controller: {resources: {cpus: 4}}}\naws: {vpc_names: [z]}\n",
    ),
    "other files": Case(
        environ={"SKYPILOT_GLOBAL_CONFIG": "HOME/g.yaml", "SKYPILOT_PROJECT_CONFIG": "~/p.yaml"},
        files={"g.yaml": USER, "p.yaml": "active_workspace: p"},
        user="active_workspace: u",
        project="active_workspace: q",
    ),
    "token of the environment": Case(
        environ={**ENDPOINT, "SKYPILOT_SERVICE_ACCOUNT_TOKEN": "sky_a"},
        user="api_server: {service_account_token: sky_b}",
    ),
    "token of the file": Case(environ=ENDPOINT, user="api_server: {service_account_token: sky_b}"),
    "empty token": Case(environ={**ENDPOINT, "SKYPILOT_SERVICE_ACCOUNT_TOKEN": ""}),
    "bad token": Case(environ={**ENDPOINT, "SKYPILOT_SERVICE_ACCOUNT_TOKEN": "abc"}),
    "bad token of the file": Case(environ=ENDPOINT, user="api_server: {service_account_token: abc}"),
    "user id": Case(environ={**ENDPOINT, "SKYPILOT_USER_ID": "sa-1", "SKYPILOT_USER": "ci"}),
    "user id that is none": Case(environ={**ENDPOINT, "SKYPILOT_USER_ID": "a b"}, files={".sky/user_hash": "beef\n"}),
    "user id that is kept": Case(environ=ENDPOINT, files={".sky/user_hash": "beef0123"}),
    "user id of nobody yet": Case(environ=ENDPOINT),
    "cookies": Case(environ=ENDPOINT, files={".sky/cookies.txt": COOKIE}),
    "cookies elsewhere": Case(
        environ={**ENDPOINT, "SKYPILOT_API_COOKIE_FILE": "~/c.txt"}, files={"c.txt": COOKIE.replace("\ta\tb", "\tc\td")}
    ),
    "no such file": Case(environ={**ENDPOINT, "SKYPILOT_GLOBAL_CONFIG": "HOME/none.yaml"}),
    "empty file": Case(environ=ENDPOINT, user=""),
    "kubernetes": Case(
        environ=ENDPOINT,
        user="kubernetes: {allowed_contexts: [a, b], pod_config: {spec: {hostNetwork: true}}}",
        project="kubernetes: {allowed_contexts: [c], pod_config: {metadata: {labels: {x: y}}}}",
    ),
}


@pytest.mark.parametrize("name", AGREED)
def test_skypilots_own_client_asks_the_same_server_as_the_same_user(name: str, sdk: Sdk, tmp_path: Path) -> None:
    environ, project = made(AGREED[name], tmp_path)
    try:
        access = resolve(environ, project)
    except InvalidSetting:
        ours = None
    else:
        token = access.credentials.token
        ours = {
            "url": access.url,
            "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
            "cookies": {cookie.name: cookie.value for cookie in access.credentials.cookies()},
            "cookie_file": str(access.credentials.cookie_file),
            "user_id": access.user_id,
            "user_name": access.user_name,
            "config": dict(access.config),
            "workspace": access.workspace,
        }
    theirs: dict[str, Any] = sdk.ask("access", environ=environ, folder=str(project))
    assert (None if "error" in theirs else theirs) == ours
