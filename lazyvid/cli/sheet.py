"""Contact sheets: small pictures in rows, each with a line of text under it, as one image file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BACKGROUND = (22, 24, 29)
_TEXT = (214, 218, 226)
_TITLE = (255, 255, 255)
_GAP = 12
_LABEL_SIZE = 14
_TITLE_SIZE = 18


def thumbnail_size(height: int, width: int, *, longest: int) -> tuple[int, int]:
    """(height, width) with the shape of a picture and `longest` pixels on its longer side; never larger than it."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def save_sheet(
    path: str | os.PathLike[str],
    pictures: Sequence[npt.NDArray[np.uint8]],
    labels: Sequence[str],
    *,
    title: str,
    columns: int | None = None,
) -> None:
    """Write a contact sheet.

    Args:
        path: The image file; its suffix chooses the format.
        pictures: uint8 [H, W, 3] each; sizes may differ.
        labels: A line of text for each.
        title: A line of text above all.
        columns: Pictures in a row; None makes a sheet somewhat wider than high.

    Raises:
        ValueError: if there is no picture, or the suffix names no image format.
        OSError: if the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont  # only this function needs it

    if not pictures:
        raise ValueError("Expected a picture or more for the contact sheet, got none.")
    cell_height = max(picture.shape[0] for picture in pictures)
    cell_width = max(picture.shape[1] for picture in pictures)
    columns = min(columns or _columns(len(pictures), cell_height, cell_width), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    line = _LABEL_SIZE + 2 * (_GAP // 2)
    top = _TITLE_SIZE + 2 * _GAP
    size = (_GAP + columns * (cell_width + _GAP), top + rows * (cell_height + line + _GAP // 2) + _GAP // 2)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    label_font, title_font = ImageFont.load_default(_LABEL_SIZE), ImageFont.load_default(_TITLE_SIZE)
    draw.text((_GAP, _GAP), _fitting(draw, title, title_font, size[0] - 2 * _GAP), fill=_TITLE, font=title_font)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(number, columns)
        x, y = _GAP + column * (cell_width + _GAP), top + row * (cell_height + line + _GAP // 2)
        height, width = picture.shape[:2]
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x + (cell_width - width) // 2, y))
        text = _fitting(draw, label, label_font, cell_width)
        draw.text((x + cell_width // 2, y + height + _GAP // 2), text, fill=_TEXT, font=label_font, anchor="ma")
    sheet.save(path)


def _columns(count: int, height: int, width: int) -> int:
    """So many that the sheet is about one and a half times as wide as high."""
    return max(1, round(math.sqrt(1.5 * count * (height + 2 * _GAP) / (width + _GAP))))


def _fitting(draw: Any, text: str, font: Any, width: int) -> str:
    """The text, its middle left out where it is too long."""
    if draw.textlength(text, font=font) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept // 2]}...{text[len(text) - (kept - kept // 2) :]}"
        if draw.textlength(shorter, font=font) <= width:
            return shorter
    return ""
