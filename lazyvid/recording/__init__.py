"""Frames to videos that are born ready for training: crash-safe MP4s with their index."""

from __future__ import annotations

from lazyvid.recording.writer import VideoWriter

__all__ = ["VideoWriter"]
