"""Writes the Parquet files of tests/data/corpus_parquet_test.ts: pip install pyarrow, then python tests/data/parquet/make.py"""
import pathlib
import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent

texts = [f"document {i}: é👋 {'x' * (i % 7)}" for i in range(50)]
texts[7] = None
table = pa.table({"id": list(range(50)), "text": texts, "url": ["u"] * 50})
for codec in ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]:
    pq.write_table(table, HERE / f"text_{codec}.parquet", compression=codec, row_group_size=20)

message = pa.struct([("role", pa.string()), ("content", pa.string())])
chats = [
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    [{"role": "user", "content": "alone"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
]
pq.write_table(pa.table({"messages": pa.array(chats, pa.list_(message)), "source": ["s"] * 3}), HERE / "messages.parquet")
