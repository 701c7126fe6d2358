"""What commands share: kinds of arguments, options that several have, the configuration that they mean, and how they answer."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edge.errors import ConfigError
from edge.redaction import redact

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.config import Config


TORCH = "torch==2.13.0"  # as docs/install.md and the Makefile install it: before all else, by itself


class Parser(argparse.ArgumentParser):
    """Takes -v before and after a command's name. `fill` adds its arguments, once they are to be read: of a command that is not
    asked for, the module stays unread."""

    def __init__(self, *args: Any, fill: Callable[[Parser], None] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fill = fill
        self.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log what happens to stderr"
        )

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))  # what was typed wrong may be an address with its password

    def fill(self) -> None:
        """Adds the arguments, where they are still missing."""
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        return super().parse_known_args(args, namespace)

    # -- options that several commands have

    def add_flag(self, name: str, text: str) -> None:
        self.add_argument(name, action="store_true", help=text)

    def add_path(self, name: str, metavar: str, text: str | None = None, **more: Any) -> None:
        self.add_argument(name, type=Path, metavar=metavar, help=text, **more)

    def add_json(self, text: str = "print one JSON object") -> None:
        self.add_flag("--json", text)

    def add_bundle(self, text: str = "another bundle than the daemon's: the installed one, else the shipped one") -> None:
        """Which bundle, and that it may be one that nobody trusted signed."""
        self.add_argument("--bundle", metavar="B", help=text)
        self.add_flag("--allow-unsigned", "run a bundle that nobody trusted signed")

    def add_config(self, text: str = "the daemon's YAML file; edge/config.example.yaml shows every key") -> None:
        self.add_path("--config", "C", text)

    def add_recipe(self, nargs: str | None = None) -> None:
        text = "YAML: data, models, folds and where the work goes; export/recipes has examples"
        self.add_argument("recipe", type=Path, metavar="RECIPE.yaml", nargs=nargs, help=text)

    def add_store(self, text: str = "the event store (else events.dir of the configuration)", name: str = "--events") -> None:
        self.add_argument(name, metavar="DIR", dest="store", help=text)

    def add_daemons_bundle(
        self, text: str = "another bundle than the daemon's: the installed one, else the shipped one", store: str = "--events"
    ) -> None:
        """Which bundle, where the daemon's own is meant unless another is named. store: the option's name."""
        self.add_bundle(text)
        self.add_config("the daemon's YAML file: it says where its bundles are installed, and whom it trusts")
        self.add_store("the daemon's event store, beside which its bundles are installed", store)

    def add_numbers(self, rows: Iterable[tuple[str, float, str]], kind: Callable[[str], Any] | None = None) -> None:
        """Options with a number each. rows: name, default, help. kind: None for the default's own type."""
        for name, default, text in rows:
            self.add_argument(
                f"--{name}", type=kind or type(default), default=default, metavar="N", help=f"{text} (default {default})"
            )

    def add_device(self) -> None:
        """Where it trains."""
        self.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="bf16 on both (default: cpu)")

    def add_ray(self, tasks: str) -> None:
        """tasks: what is one."""
        self.add_argument(
            "--ray", metavar="ADDRESS", help=f"{tasks} as tasks of a Ray cluster: auto, host:port, or local"
        )

    def add_accept_failing(self, what: str = "it") -> None:
        self.add_flag("--accept-failing-gate", f"write {what} all the same; recorded and shown")

    def add_labelled(self) -> None:
        """A user's own images."""
        self.add_path("data", "DATA", "a folder per class, or a table (docs/data.md)")
        self.add_argument("--positive", default="hygroma", metavar="CLASS", help="the positive folder (default: hygroma)")


# -- kinds of arguments -------------------------------------------------------------------------------------------------


def share(text: str) -> float:
    try:
        value = float(text.rstrip("% ")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be a percentage of 0 or more, such as 10%")
    return value


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be a whole number of at least 1") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}; must be at least 1")
    return value


def hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 24 * 366:
        raise argparse.ArgumentTypeError(f"found {text!r}; must be hours, above 0 and at most 8784, a year")
    return value


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"found {value}; must be 0 or more, below 2^31")
    return value


def rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {value}; must be above 0 and below 1, such as 2e-4")
    return value


# -- what the arguments mean --------------------------------------------------------------------------------------------


def config_of(args: argparse.Namespace, at_home: bool = False) -> Config:
    """The configuration of --config, changed by --bundle, --allow-unsigned and --events where a command has them. at_home: where
    neither --config nor --events names a store, one that this user may write."""
    from edge.config import Config, load_config

    given = vars(args)
    config = load_config(given["config"]) if given.get("config") else Config()
    if given.get("bundle"):
        config = config.but(engine={"bundle": args.bundle})
    if given.get("allow_unsigned"):
        config = config.but(bundle={"allow_unsigned": True})
    if given.get("store"):
        return config.but(events={"dir": args.store})
    if at_home and not given.get("config"):
        from edge.watching import keep_at_home

        return keep_at_home(config)
    return config


def bundle_of(config: Config) -> Bundle:
    """The bundle that a daemon with this configuration runs: the one that it names, else the installed one, else the shipped
    one."""
    from edge.bundle import load_bundle
    from edge.update.slots import bundle_path

    return load_bundle(bundle_path(config), config.bundle.trust())


@contextmanager
def toolchain() -> Iterator[None]:
    """Around the imports of a workstation's command: ConfigError, saying how to install it, for a package that is missing."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("edge", "export", "calibration"):  # ours: a bug, not a package to install
            raise
        first = f"pip install {TORCH}, then " if error.name == "torch" else ""
        raise ConfigError(
            f"the workstation's packages are missing ({error.name}): {first}pip install -e '.[toolchain]'"
            + (" (plain torch would fetch gigabytes of CUDA: without a GPU take a CPU build)" if first else "")
        ) from None


def require_writable(folder: Path, option: str) -> Path:
    """ConfigError, naming the option, when this user cannot write the folder."""
    from edge.events.disk import why_unwritable

    if problem := why_unwritable(folder):
        raise ConfigError(f"{option}: {problem}; name a folder that this user may write")
    return folder


# -- how it answers -----------------------------------------------------------------------------------------------------


def tell(args: argparse.Namespace, value: object, text: Callable[[], str]) -> int:
    """Prints what was found, as JSON or in words; returns exit code 0."""
    print(json.dumps(value) if args.json else text())
    return 0


class LogHandler(logging.StreamHandler):
    """Log lines to stderr, each on a line of its own: a bar that stands there is wiped first. Its next step draws it again."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if Progress._drawn is not None:
            Progress._drawn.clear()
        super().emit(record)


class Progress:
    """A one-line bar on a terminal; a line now and then elsewhere. Always on stderr."""

    WIDTH = 30  # characters
    QUIET_S = 10.0  # seconds between lines when stderr is a file

    _drawn: Progress | None = None  # whose bar stands on the terminal's last line

    def __init__(self) -> None:
        self._live, self._last, self._what = sys.stderr.isatty(), 0.0, ""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        wait = 0.1 if self._live else self.QUIET_S
        if what == self._what and now - self._last < wait:
            return
        self._last, self._what = now, what
        Progress._drawn = self if self._live else None
        filled = self.WIDTH * done // max(1, total)
        line = f"[{'#' * filled}{'.' * (self.WIDTH - filled)}] {what} {done}/{total} {note}"
        print(
            f"\r{line[:110]:<110}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True
        )

    def clear(self) -> None:
        if Progress._drawn is self:
            Progress._drawn = None
            print("\r" + " " * 110 + "\r", end="", file=sys.stderr, flush=True)
