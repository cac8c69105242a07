"""Labels as a column of a Parquet table."""

from __future__ import annotations

import pyarrow as pa


def label_type() -> pa.DataType:
    """The Arrow type of one label, as `Label.to_json` gives it; missing fields of a label are null."""
    return pa.struct([
        ("role", pa.string()), ("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()),
        ("confidence", pa.float32()),
    ])
