"""The other side of tests/model/files/gguf_python_test.ts: llama.cpp's own Python package on the files of a folder.

Dequantizes TYPE.blocks to TYPE.f32 and quantizes values.f32 to TYPE.quantized, reads ours.gguf and prints what it
found as JSON, and writes theirs.gguf with the metadata and tensors that the test expects.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize, quantize

folder = Path(sys.argv[1])

for path in folder.glob("*.blocks"):
    kind = GGMLQuantizationType[path.stem]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = np.fromfile(path, dtype=np.uint8).reshape(-1, size)
    dequantize(blocks, kind).astype("<f4").tofile(path.with_suffix(".f32"))

values = np.fromfile(folder / "values.f32", dtype="<f4").reshape(-1, 32)
for name in ["F16", "BF16", "Q8_0"]:
    quantize(values, GGMLQuantizationType[name]).tofile(folder / f"{name}.quantized")

reader = GGUFReader(folder / "ours.gguf")
fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
print(
    json.dumps(
        {
            "types": {name: [t.name for t in field.types] for name, field in fields.items()},
            "values": {name: field.contents() for name, field in fields.items()},
            "tensors": [
                [
                    t.name,
                    t.tensor_type.name,
                    t.shape.tolist()[::-1],
                    hashlib.sha256(dequantize(t.data, t.tensor_type).astype("<f4").tobytes()).hexdigest(),
                ]
                for t in reader.tensors
            ],
        }
    )
)

writer = GGUFWriter(folder / "theirs.gguf", "llama")
writer.add_custom_alignment(64)
writer.add_uint8("u8", 200)
writer.add_int8("i8", -100)
writer.add_uint16("u16", 60000)
writer.add_int16("i16", -30000)
writer.add_uint32("u32", 4000000000)
writer.add_int32("i32", -2000000000)
writer.add_uint64("u64", 2**63)
writer.add_int64("i64", -(2**62))
writer.add_float32("f32", 0.5)
writer.add_float64("f64", 0.1)
writer.add_bool("bool", True)
writer.add_string("string", "naïve \U0001f642")
writer.add_array("strings", ["Ġa", "", "b c"])
writer.add_array("integers", [1, -2, 3])
writer.add_key_value("bytes", [1, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)
for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
    kind = GGMLQuantizationType[name]
    data = quantize(values[:6].reshape(3, 64), kind)
    writer.add_tensor(name, data, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
