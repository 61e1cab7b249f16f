from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_samples import indexes, make_index, same

from lazyvid.errors import CorruptIndexError
from lazyvid.index import arrow
from lazyvid.index.frame_index import FrameIndex


@settings(max_examples=50, deadline=None)
@given(index=indexes())
def test_a_sidecar_table_gives_back_the_index(index: FrameIndex) -> None:
    assert same(arrow.from_sidecar_table(arrow.to_sidecar_table(index)), index)


@settings(max_examples=30, deadline=None)
@given(many=st.lists(indexes(min_frames=0), min_size=1, max_size=4))
def test_blocks_give_back_each_index_as_views(many: list[FrameIndex]) -> None:
    rows, directory = arrow.to_blocks(many, [index.content_hash() for index in many])
    for position, index in enumerate(many):
        content_hash, back = arrow.from_blocks(rows, directory, position)
        assert same(back, index)
        assert content_hash == index.content_hash()
        assert not back.timestamp.flags.owndata


def test_the_first_four_columns_are_the_contract() -> None:
    schema = arrow.to_sidecar_table(make_index()).schema
    contract = [(field.name, field.type) for field in schema][:4]
    assert contract == [
        ("segment_idx", pa.int64()),
        ("local_frame_idx", pa.int64()),
        ("pts", pa.int64()),
        ("timestamp", pa.float64()),
    ]
    assert all(field.metadata == {b"lance-encoding:compression": b"zstd"} for field in schema)


def test_what_was_not_read_is_null() -> None:
    index = make_index()
    table = arrow.to_sidecar_table(index)
    assert table["crc32"].null_count == np.sum(index.packets.crc32 == -1) > 0
    assert table["disposable"].null_count == np.sum(index.packets.disposable == -1) > 0


def test_an_index_without_frames_has_no_sidecar() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        arrow.to_sidecar_table(FrameIndex.join([make_index(0)]))


@pytest.mark.parametrize("column", arrow.to_sidecar_table(make_index(3)).column_names[:13])
def test_one_changed_value_is_noticed(column: str) -> None:
    table = arrow.to_sidecar_table(make_index(50))
    position = table.column_names.index(column)
    values = table[column].to_pylist()
    row = next(i for i, value in enumerate(values) if value is not None)
    values[row] = not values[row] if isinstance(values[row], bool) else values[row] + 1
    damaged = table.set_column(position, table.schema.field(position), [pa.array(values, table[column].type)])
    with pytest.raises(CorruptIndexError):
        arrow.from_sidecar_table(damaged)


@pytest.mark.parametrize("change", ["fewer rows", "more rows", "no column", "blob gone", "no checksum", "nulls"])
def test_another_shape_is_noticed(change: str) -> None:
    table = arrow.to_sidecar_table(make_index(50))
    metadata = dict(table.schema.metadata)
    if change == "fewer rows":
        table = table.slice(0, 49)
    elif change == "more rows":
        table = pa.concat_tables([table, table.slice(49)])
    elif change == "no column":
        table = table.drop_columns(["dts"])
    elif change == "blob gone":
        table = table.set_column(13, table.schema.field(13), [pa.nulls(50, pa.binary())])
    elif change == "no checksum":
        table = table.replace_schema_metadata({k: v for k, v in metadata.items() if k != b"lazyvid:checksum"})
    else:
        table = table.set_column(2, pa.field("pts", pa.int64()), [pa.array([None, *range(49)], pa.int64())])
    with pytest.raises(CorruptIndexError):
        arrow.from_sidecar_table(table)


def test_a_later_version_is_named_beside_ours() -> None:
    table = arrow.to_sidecar_table(make_index(5))
    table = table.replace_schema_metadata({**table.schema.metadata, b"lazyvid:format_version": b"7"})
    with pytest.raises(CorruptIndexError, match=r"version 1.*version 7"):
        arrow.from_sidecar_table(table)


def test_changed_rows_of_a_block_are_noticed() -> None:
    index = make_index(40)
    rows, directory = arrow.to_blocks([index], ["x"])
    other = arrow.to_blocks([dataclasses.replace(index, timestamp=index.timestamp + 1)], ["x"])[0]
    assert rows.num_rows == other.num_rows
    with pytest.raises(CorruptIndexError):
        arrow.from_blocks(other, directory, 0)
