"""Frames to videos that are born ready for training: crash-safe MP4s with their index."""

from __future__ import annotations

from lazyvid.recording.codecs import (
    HW_ENCODERS,
    VALID_VIDEO_CODECS,
    EncoderStatus,
    codec_options,
    detect_available_hw_encoders,
    encoder_report,
    resolve_vcodec,
)
from lazyvid.recording.encoder import CameraEncoderThread, StreamingVideoEncoder
from lazyvid.recording.images import ImageWriter, encode_video_frames
from lazyvid.recording.layout import Layout, RecordingLayout
from lazyvid.recording.recorder import Recorder, VideoEncodingManager
from lazyvid.recording.recover import RecoverReport, recover
from lazyvid.recording.remux import concatenate_video_files
from lazyvid.recording.statistics import ImageStatistics, RunningQuantileStats
from lazyvid.recording.writer import VideoWriter

__all__ = [
    "HW_ENCODERS",
    "VALID_VIDEO_CODECS",
    "CameraEncoderThread",
    "EncoderStatus",
    "ImageStatistics",
    "ImageWriter",
    "Layout",
    "Recorder",
    "RecordingLayout",
    "RecoverReport",
    "RunningQuantileStats",
    "StreamingVideoEncoder",
    "VideoEncodingManager",
    "VideoWriter",
    "codec_options",
    "concatenate_video_files",
    "detect_available_hw_encoders",
    "encode_video_frames",
    "encoder_report",
    "recover",
    "resolve_vcodec",
]
