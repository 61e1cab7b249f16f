"""What a check of a dataset found: findings, and a line for every episode; what the parts of the doctor write into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    level: Level
    """"error": items are wrong or cannot be read; "warning": LeRobot or people may stumble over it."""
    where: str
    """The file, table or column."""
    what: str
    """What was expected and what was found."""
    episode: int | None = None
    """The episode that it is about."""

    def __str__(self) -> str:
        episode = "" if self.episode is None else f"episode {self.episode}: "
        return f"{self.where}: {episode}{self.what}"


@dataclass(slots=True)
class EpisodeLine:
    """What there is of an episode."""

    number: int
    length: int
    """Rows, as the table of episodes says."""
    rows: int | None = None
    """Rows that there are; None where they could not be read."""
    frames: dict[str, int | None] = field(default_factory=dict)
    """By camera: frames in the episode's time; None where the video could not be read."""


@dataclass(slots=True)
class CheckReport:
    """What a check found."""

    uri: str
    findings: list[Finding] = field(default_factory=list)
    episodes: list[EpisodeLine] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong that makes items wrong or unreadable."""
        return not any(finding.level == "error" for finding in self.findings)

    def wrong_episodes(self) -> list[int]:
        """Episodes with an error of their own."""
        return sorted({f.episode for f in self.findings if f.level == "error" and f.episode is not None})

    def error(self, where: str, what: str, *, episode: int | None = None) -> None:
        """Note something that makes items wrong or unreadable."""
        self.findings.append(Finding("error", where, what, episode))

    def warn(self, where: str, what: str, *, episode: int | None = None) -> None:
        """Note something to be looked at."""
        self.findings.append(Finding("warning", where, what, episode))


Advance = Callable[[str, int, int], None]
"""Called with what is looked at, how many files of it are done, and how many there are."""
