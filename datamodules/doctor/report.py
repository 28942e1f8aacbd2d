"""What the doctor says: findings by severity, and the figures they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
_NAMED = 5  # episodes spelled out in a message


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found: its severity, the check that found it, and the episodes it concerns (none: all of them)."""

    level: Level
    check: str
    message: str
    episodes: tuple[int, ...] = ()


@dataclass(kw_only=True)
class Report:
    """All findings about one data set, with ``figures`` as plain values."""

    path: str
    figures: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, level: Level, check: str, message: str, episodes: Sequence[int] = ()) -> None:
        """Note a finding; the episodes it concerns are named in front of the message."""
        chosen = tuple(int(episode) for episode in episodes)
        text = f"{name_episodes(chosen)}: {message}" if chosen else message
        self.findings.append(Finding(level=level, check=check, message=text, episodes=chosen))

    def count(self, level: Level) -> int:
        """Number of findings of one severity."""
        return sum(finding.level == level for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def name_episodes(episodes: Sequence[int]) -> str:
    """``episode 3``, or ``12 episodes (0, 4, 5, 9, 11, …)``."""
    if len(episodes) == 1:
        return f"episode {episodes[0]}"
    named = ", ".join(map(str, episodes[:_NAMED]))
    return f"{len(episodes)} episodes ({named}{', …' if len(episodes) > _NAMED else ''})"
