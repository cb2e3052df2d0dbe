"""Settings: arguments, then ``SKYDECK_*``, then ``~/.skydeck/config.toml``, then defaults.

Decides which settings there are, what may stand in them, which source wins,
and where this package keeps its files. Refuses to know what the settings are
used for, and never writes a setting.

A bad value, an unknown key or an unknown argument is one
:class:`~skydeck_nb.errors.InvalidSetting` that names the place and the
remedy. pydantic is imported by :func:`load`, not by this module.

``config.toml`` is flat, apart from the templates of links::

    max_gpus = 64
    run_name = "{user}.{name}"

    [links]
    wandb = "https://wandb.ai/team/{run_name}"
"""

from __future__ import annotations

import difflib
import os
import stat
import string
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from skydeck_nb.errors import InvalidSetting

if TYPE_CHECKING:
    from pydantic import BaseModel

Kind = Literal["local", "skypilot", "fake"]

DATABASES: Final[Mapping[str, str]] = {"local": "local.db", "skypilot": "skydeck.db"}
"""The default file by backend; ``fake`` has none and lives in memory."""

LINK_FIELDS: Final = ("name", "run_name", "experiment_id", "attempt_id", "job_id", "user", "workspace", "git_commit")
"""What may stand in braces in a link template."""

RUN_VARIABLES: Final = frozenset(
    {
        "SKYDECK_HOME",
        "SKYDECK_EXPERIMENT",
        "SKYDECK_ATTEMPT",
        "SKYDECK_RUN_DIR",
        "SKYDECK_CHECKPOINT_DIR",
        "SKYDECK_SIGN_IN",
    }
)
"""Variables of ours that are no settings: the home, and what a run is told."""

ARGUMENT: Final = "argument"
DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value and where it came from: ``argument``, a variable, a file, or ``default``."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. ``None`` means: no limit, or whatever the backend finds right."""

    backend: Kind = "local"
    db_path: Path | None = None
    """Absolute; ``None`` is in memory."""
    poll_interval: float | None = None
    """Seconds between looks at live jobs."""
    reconcile_interval: float | None = None
    """Seconds between looks for what is not known of."""
    sync_interval: float = 60.0
    max_live: int | None = None
    max_gpus: int | None = None
    max_gpu_hours: float | None = None
    max_cost: float | None = None
    """The budgets of the whole deck, in GPU hours and US dollars: over every job it ever had."""
    run_name: str = "{name}"
    checkpoints: str | None = None
    policy_url: str | None = None
    slots: int | None = None
    gpus: int | None = None
    local_root: Path
    grace: float = 10.0
    """Seconds from TERM to KILL on the local backend."""
    links: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """By setting (``links.wandb`` for a link), where its value came from."""
    notes: tuple[str, ...] = ()
    """Sentences a person should read once: a misspelt variable, a file that others can read."""

    def __iter__(self) -> Iterator[Setting]:
        found = {name: getattr(self, name) for name in FIELDS if name != "links"}
        found |= {f"links.{name}": template for name, template in self.links.items()}
        for name, value in found.items():
            yield Setting(name=name, value=value, source=self.sources.get(name, DEFAULT))

    def __getitem__(self, name: str) -> Setting:
        for one in self:
            if one.name == name:
                return one
        raise InvalidSetting(f"There is no setting {name!r}; {_near(name, [one.name for one in self])}")


@dataclass(frozen=True, slots=True)
class _Field:
    """What one setting takes: the words for it, whether ``none`` may stand there, and a check beyond its type."""

    takes: str
    optional: bool = True
    check: Callable[[Any], bool] = lambda value: True


def _url(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return not _unprintable(value) and parts.scheme in ("http", "https") and bool(parts.hostname)


def _unprintable(value: str) -> bool:
    return any(character.isspace() or not character.isprintable() for character in value)


def _holes(template: str) -> set[str] | None:
    """The names in braces; ``None`` where the braces do not match or hold more than a name."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    if any(name is not None and (not name.isidentifier() or spec or conversion) for _, name, spec, conversion in parts):
        return None
    return {name for _, name, _, _ in parts if name is not None}


def _run_name(value: str) -> bool:
    holes = _holes(value)
    return holes is not None and "name" in holes <= {"name", "user"} and not _unprintable(value) and "/" not in value


def _checkpoints(value: str) -> bool:
    bucket = value.removeprefix("s3://").split("/", 1)[0]
    return value.startswith("s3://") and bool(bucket) and "{" not in bucket and _holes(value) == {"name"}


def _link(value: str) -> bool:
    holes = _holes(value)
    return _url(value) and "{" not in urlsplit(value).netloc and holes is not None and holes <= set(LINK_FIELDS)


FIELDS: Final[Mapping[str, _Field]] = {
    "db_path": _Field("the path of a database file", False, lambda value: str(value) not in ("", ":memory:")),
    "backend": _Field("local, skypilot or fake", False),
    "poll_interval": _Field("seconds, 0.05 or more", check=lambda value: 0.05 <= value <= 86_400),
    "reconcile_interval": _Field("seconds, 0.05 or more", check=lambda value: 0.05 <= value <= 86_400),
    "sync_interval": _Field("seconds, 0.05 or more", False, lambda value: 0.05 <= value <= 86_400),
    "max_live": _Field("a whole number, 1 or more", check=lambda value: value >= 1),
    "max_gpus": _Field("a whole number, 0 or more", check=lambda value: value >= 0),
    "max_gpu_hours": _Field("GPU hours, more than 0", check=lambda value: value > 0),
    "max_cost": _Field("US dollars, more than 0", check=lambda value: value > 0),
    "run_name": _Field("a template with {name}, and {user} if you like, such as {user}.{name}", False, _run_name),
    "checkpoints": _Field("an S3 folder with {name} in it, such as s3://bucket/policies/{name}/", check=_checkpoints),
    "policy_url": _Field("an address that begins with https:// or http://", check=_url),
    "slots": _Field("a whole number, 1 or more", check=lambda value: value >= 1),
    "gpus": _Field("a whole number, 0 or more", check=lambda value: value >= 0),
    "local_root": _Field("the path of a folder", False, lambda value: str(value) != ""),
    "grace": _Field("seconds, 0 or more", False, lambda value: 0 <= value <= 86_400),
    "links": _Field("a table of addresses, such as {'wandb': 'https://wandb.ai/team/{run_name}'}", False),
}
"""Every setting, in the order in which they are shown."""

LINK: Final = _Field(f"an https:// address in whose path may stand {', '.join('{' + one + '}' for one in LINK_FIELDS)}",
                     True, _link)  # fmt: skip


def home(environ: Mapping[str, str] | None = None) -> Path:
    """Where this package keeps what is its own: ``SKYDECK_HOME``, or ``~/.skydeck``."""
    given = (os.environ if environ is None else environ).get("SKYDECK_HOME", "")
    return _absolute(Path(given) if given else Path("~/.skydeck"), Path.cwd())


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, for nobody but the user (0700); one that exists stays."""
    for folder in [*reversed(path.parents), path]:
        if not folder.exists():
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                continue
            folder.chmod(0o700)  # whatever the umask took away
    return path


def open_to_others(path: Path) -> str | None:
    """A sentence where others may read or write this file or folder of ours, else ``None``."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    if not mode & 0o077:
        return None
    right = "700" if path.is_dir() else "600"
    return f"{path} is open to other users (mode {mode:03o}); `chmod {right} {path}` closes it."


def load(
    arguments: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings that hold, each with its source.

    Args:
        arguments: what the caller was given. One that is there counts: ``None``
            lifts a limit that a file sets, and is *not given* where a setting
            always has a value (``backend``, ``db_path``, …).
        environ: in place of ``os.environ``. An empty variable is not set;
            ``none`` lifts a limit.
        file: in place of ``config.toml`` in :func:`home`; it need not exist.
    """
    environ = os.environ if environ is None else environ
    folder = home(environ)
    file = folder / "config.toml" if file is None else file
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    links: dict[str, str] = {}

    def take(name: str, value: Any, source: str, place: str, beside: Path) -> None:
        """Let this source's value win over those taken before."""
        if name == "links":
            if not isinstance(value, Mapping):
                raise _bad(place, value, FIELDS["links"])
            for link, template in value.items():
                take(f"links.{link}", template, source, f"{place}.{link}", beside)
            return
        if name.startswith("links."):
            checked = _checked("link", value, place, LINK)
            links.pop(name[6:], None)
            if checked is not None:
                links[name[6:]] = checked
        elif value is None and not FIELDS[name].optional:
            return
        else:
            checked = _checked(name, value, place, FIELDS[name])
            values[name] = _absolute(checked, beside) if isinstance(checked, Path) else checked
        sources[name] = source

    here = Path.cwd()
    for name, value in _read(file).items():
        take(name, value, str(file), f"{name} in {file}", file.absolute().parent)
    for variable, text in sorted(environ.items()):
        setting = _of_variable(variable)
        if setting is not None and text != "":
            take(setting, _none(text, setting), variable, variable, here)
    for name, value in (arguments or {}).items():
        if name not in FIELDS:
            raise InvalidSetting(f"There is no setting {name!r}; {_near(name, FIELDS)}")
        take(name, value, ARGUMENT, f"The argument {name}", here)

    backend: Kind = values.setdefault("backend", "local")
    if "db_path" not in values and backend in DATABASES:
        values["db_path"] = folder / DATABASES[backend]
    values.setdefault("local_root", folder / "local")
    notes = (*_misspelt(environ), *filter(None, (open_to_others(one) for one in (folder, file))))
    return Settings(**values, links=links, sources=sources, notes=notes)


def frame_rows(settings: Settings) -> list[dict[str, Any]]:
    """The rows of ``deck.settings``: ``setting``, ``value``, ``source``; a password in an address is left out."""
    return [{"setting": one.name, "value": _shown(one.value), "source": one.source} for one in settings]


@cache
def _model() -> type[BaseModel]:
    """The types of the settings; everything beyond a type is in :data:`FIELDS`."""
    from pydantic import BaseModel, ConfigDict

    class Model(BaseModel):
        model_config = ConfigDict(allow_inf_nan=False)

        db_path: Path | None = None
        backend: Kind = "local"
        poll_interval: float | None = None
        reconcile_interval: float | None = None
        sync_interval: float = 60.0
        max_live: int | None = None
        max_gpus: int | None = None
        max_gpu_hours: float | None = None
        max_cost: float | None = None
        run_name: str = "{name}"
        checkpoints: str | None = None
        policy_url: str | None = None
        slots: int | None = None
        gpus: int | None = None
        local_root: Path | None = None
        grace: float = 10.0
        link: str | None = None

    Model.model_rebuild(_types_namespace={"Path": Path, "Kind": Kind})
    return Model


def _checked(name: str, value: Any, place: str, field: _Field) -> Any:
    """The value in its type, or the one error that names the place and what may stand there."""
    from pydantic import ValidationError

    if isinstance(value, bool):  # an int to Python, never a number to people
        raise _bad(place, value, field)
    try:
        checked = getattr(_model().model_validate({name: value}), name)
    except ValidationError:
        raise _bad(place, value, field) from None
    if checked is None:
        if not field.optional:
            raise _bad(place, value, field)
    elif not field.check(value if isinstance(checked, Path) else checked):
        raise _bad(place, value, field)
    if name == "checkpoints" and checked is not None and not checked.endswith("/"):
        checked += "/"
    return checked


def _bad(place: str, value: Any, field: _Field) -> InvalidSetting:
    shown = repr(_shown(value))
    shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
    none = ", or none" if field.optional else ""
    return InvalidSetting(f"{place} is {shown}; it takes {field.takes}{none}.")


def _read(file: Path) -> dict[str, Any]:
    """The file's settings; nothing where there is no file."""
    try:
        found = tomllib.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidSetting(f"{file} cannot be read ({error.strerror}); make it readable, or remove it.") from None
    except UnicodeDecodeError:
        raise InvalidSetting(f"{file} is not UTF-8 text; save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"{file} is not TOML: {error}. Correct that place.") from None
    for name in found:
        if name not in FIELDS:
            raise InvalidSetting(f"{file} has the unknown key {name!r}; {_near(name, FIELDS)}")
    return {name: _none(value, name) if isinstance(value, str) else value for name, value in found.items()}


def _of_variable(variable: str) -> str | None:
    """The setting that an environment variable sets."""
    name = variable.removeprefix("SKYDECK_").lower()
    if not variable.startswith("SKYDECK_") or variable != variable.upper():
        return None
    if name.startswith("link_") and len(name) > len("link_"):
        return f"links.{name.removeprefix('link_')}"
    return name if name in FIELDS and name != "links" else None


def _none(text: str, name: str) -> str | None:
    optional = LINK if name.startswith("links.") else FIELDS[name]
    return None if optional.optional and text.strip().lower() == "none" else text


def _misspelt(environ: Mapping[str, str]) -> list[str]:
    """A sentence for every ``SKYDECK_`` variable that sets nothing."""
    variables = [f"SKYDECK_{name.upper()}" for name in FIELDS if name != "links"]
    return [
        f"The variable {one} is no setting and was left out; {_near(one, variables)}"
        for one in sorted(environ)
        if one.startswith("SKYDECK_") and one not in RUN_VARIABLES and _of_variable(one) is None
    ]


def _near(name: str, names: Iterable[str]) -> str:
    known = list(names)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."


def _absolute(path: Path, beside: Path) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError:
        raise InvalidSetting(f"The home folder in {path} cannot be found; write the path in full.") from None
    return Path(os.path.normpath(beside / path))


def _shown(value: Any) -> Any:
    """The value as it may be shown: without what stands before the @ of an address."""
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, rest = value.split("://", 1)
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return value
