#!/usr/bin/env bash
# torchcodec loads the system's FFmpeg libraries; install Debian's where that is possible. Nothing else in lazyvid
# needs them (PyAV brings its own), so that their absence is told in one line and is no error.
set -euo pipefail

has_ffmpeg() { ldconfig -p 2>/dev/null | grep -q 'libavcodec\.so\.[0-9]' || ls /usr/lib/*/libavcodec.so.[0-9]* >/dev/null 2>&1; }

if has_ffmpeg; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Debian's ffmpeg (for torchcodec)"
    if apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y ffmpeg >/dev/null; then
        exit 0
    fi
fi
echo "note: no FFmpeg libraries here, so the torchcodec backend will not load; all else works." \
     "To have it: sudo apt-get install ffmpeg" >&2
