"""Hostile inputs for `fuzz.py`: each starts from a valid file, is changed where it hurts, and is mended (lengths, CRC,
SHA-256) most of the time, so that it gets past the header. An input is a function of its random generator alone."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
SIZES = (0, 1, 2, 3, 7, 20, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 10**12, 10**30)
STRINGS = (
    "", " ", "x", "../../x", "/etc/passwd", "..", "a/b", "<script>alert(1)</script>", "\x1b[31m", "\x00", "\u202e",
    "{{7*7}}",
    "\ud800", "é" * 50, "y" * 3000, "nan", "none", "__class__", "1e999", "train", "label", "\n\n", "'", '"', "]]",
    "%s%n",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 0.0, -0.0, 1e308, -1e308, 1e-320, float("nan"),
    float("inf"),
    [], {}, [[]], [None], [1, 2], [0], [-1], [10**12, 10**12], {"": {}}, {"adapters": 5}, {"a": [1, {"b": None}]},
)  # fmt: skip
Rng = random.Random


def damaged(rng: Rng, data: bytes, most: int = 4) -> bytes:
    """Some bytes flipped, set, cut out, doubled or put in; or the end cut off."""
    content = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(7):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(content):
                content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del content[at : at + rng.choice((1, 2, 8, 64))]
            case 3:
                content[at:at] = content[at : at + rng.choice((1, 8, 64))]
            case 4:
                content[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
            case 5:
                size = rng.choice((2, 4, 8))
                content[at : at + size] = (rng.choice(SIZES) % 256**size).to_bytes(size, rng.choice(("little", "big")))
            case _:
                if rng.random() < 0.3:
                    del content[at:]
    return bytes(content)


def idx(rng: Rng) -> bytes:
    """IDX, gzipped or not."""
    code, width = rng.choice(((8, 1), (9, 1), (0x0B, 2), (0x0C, 4), (0x0D, 4), (0x0E, 8)))
    axes = rng.choice((1, 2, 3, 3, 4)) if rng.random() < 0.9 else rng.randrange(256)
    shape = [rng.choice((1, 2, 3, 4, 12)) if i else rng.choice((10, 20, 30)) for i in range(axes)]
    while _product(shape) > 3000:
        shape[rng.randrange(axes)] = 1
    payload = _payload(rng, _product(shape) * width)
    if axes and rng.random() < 0.2:
        shape[rng.randrange(axes)] = rng.choice(SIZES) % 2**32
    content = bytes((0, 0, code, axes)) + b"".join(struct.pack(">I", n) for n in shape) + payload
    if rng.random() < 0.3:
        content = damaged(rng, content)
    if rng.random() < 0.35:
        content = gzip.compress(content, 1, mtime=0)
        if rng.random() < 0.3:
            content = damaged(rng, content)
    elif rng.random() < 0.0005:
        content = _bomb(content)
    return content


def npy(rng: Rng, rows: int = 20) -> bytes:
    """An npy: a header whose promise is kept most of the time, numbers of any sort."""
    kind = rng.choice(("<f8", "<f4", ">f8", "|u1", "<i8", "|b1", "<f2", "<u8", "|i1", "<c16", "<U3", "|S2", "<f16"))
    if rng.random() < 0.6:
        kind = rng.choice(("<f8", "<f4", "|u1"))
    width = {"b1": 1, "U3": 12}.get(kind[1:], 0) or int(kind[2:])
    shape = [rows, *(rng.choice((1, 2, 3)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3))))]
    payload = _payload(rng, _product(shape) * width)
    if rng.random() < 0.15:
        shape[rng.randrange(len(shape))] = rng.choice(SIZES)
    said = (
        str(tuple(shape))
        if rng.random() < 0.95
        else rng.choice(("(2, -3)", "(2,,)", "5", "(1e3,)", "(2L, 3L)", "((2,),)"))
    )
    descr = repr(kind)
    if rng.random() < 0.08:
        descr = rng.choice(
            ("'|O'", "[('a', '<f8')]", "'<f99999999999'", "'<U0'", "'|V8'", "'<M8[s]'", "__import__('os')", "''")
        )
    order = rng.choice(("False", "False", "True", "None"))
    entries = [f"'descr': {descr}", f"'fortran_order': {order}", f"'shape': {said}"]
    if rng.random() < 0.1:
        rng.shuffle(entries)
    header = "{" + ", ".join(entries) + ", }"
    if rng.random() < 0.03:
        header = rng.choice(("(" * 3000, "{" * 100 + header, header[:-4], "-" * 5000 + "1", header * 3))
    version = rng.choice((1, 1, 1, 2, 3, 9)) if rng.random() < 0.2 else 1
    text = header.encode("latin-1", "replace")
    text += b" " * ((-len(text) - 11 - 2 * (version > 1)) % 64) + b"\n"
    length = len(text) if rng.random() < 0.97 else rng.choice(SIZES)
    size = 2 if version == 1 else 4
    content = b"\x93NUMPY" + bytes((version, 0)) + (length % 256**size).to_bytes(size, "little") + text + payload
    return damaged(rng, content) if rng.random() < 0.12 else content


def npz(rng: Rng) -> bytes:
    """A zip of npy files, written field by field: names, sizes, checksums and methods that may lie."""
    names = rng.choice((("x",), ("x", "y"), ("train", "test"), ("train", "valid", "test"), ("x", "z"), ("images",)))
    members = [(f"{name}.npy", npy(rng) if name != "y" else _labels(rng)) for name in names]
    if rng.random() < 0.1:
        odd = rng.choice(("../x.npy", "/x.npy", "x.npy", "x", "\x1b[2J.npy", "a" * 500 + ".npy", "..\\x.npy", ".npy"))
        members.append((odd, members[0][1]))
    body, directory = bytearray(), bytearray()
    for name, data in members:
        method = rng.choice((0, 8))
        packed = zlib.compress(data, 1)[2:-4] if method else data
        crc, size, packed_size, flags, offset = zlib.crc32(data), len(data), len(packed), 0, len(body)
        if rng.random() < 0.08:
            packed = damaged(rng, packed) if rng.random() < 0.5 else packed
            size = rng.choice((size, size + 1, *SIZES)) % 2**32
            packed_size = rng.choice((packed_size, packed_size + 9, *SIZES)) % 2**32
            crc ^= rng.choice((0, 1))
            flags, method = rng.choice(((0, method), (1, method), (8, method), (0, 12), (0, 14), (0, 99), (0x800, 8)))
            offset = rng.choice((offset, 0, 5, 2**32 - 1))
        raw = name.encode()
        fields = struct.pack("<HHHHIIIHH", flags, method, 0, 33, crc, packed_size, size, len(raw), 0)
        body += b"PK\x03\x04\x14\x00" + fields + raw + packed
        mode = rng.choice((0, 0, 0xA1FF << 16))  # a link, where something were unpacked
        directory += b"PK\x01\x02\x14\x03\x14\x00" + fields + struct.pack("<HHHII", 0, 0, 0, mode, offset) + raw
    count = len(members) if rng.random() < 0.97 else rng.choice((0, 1, 65535))
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory), len(body), 0)
    content = bytes(body + directory) + end
    return damaged(rng, content) if rng.random() < 0.1 else content


def csv(rng: Rng) -> bytes:
    """Text of numbers, and what is none."""
    columns, rows = rng.choice((1, 2, 2, 3, 8)), rng.choice((0, 1, 12, 20))
    form = rng.choice(
        (lambda: str(rng.randrange(256)), lambda: repr(rng.gauss(0, 1)), lambda: f"{rng.gauss(0, 99):.2e}")
    )
    lines = [",".join(form() for _ in range(columns)) for _ in range(rows)]
    if rng.random() < 0.3:
        lines.insert(0, ",".join(rng.choice(("a", "label", "x1", '"b"', "", "é")) for _ in range(columns)))
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        at = rng.randrange(len(lines) + 1)
        odd = rng.choice(
            (*STRINGS, "1,2", "inf,nan", "1e400,1", "0x10,1", "1_0,2", "#,1", ",,,", "\ufeff1,2", "1;2", "٣,٤")
        )
        lines[at : at + rng.choice((0, 1))] = [odd]
    if rng.random() < 0.003:
        lines.append("1," * rng.choice((1000, 20000)))
    text = rng.choice(("\n", "\n", "\r\n", "\r", "\x0b")).join(lines).encode("utf-8", "surrogatepass")
    return damaged(rng, text) if rng.random() < 0.3 else text


def changed(rng: Rng, tree: Any, strings: tuple[str, ...] = STRINGS) -> Any:
    """A JSON tree with one to three of its nodes replaced, removed, moved or made deep."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        node, path = tree, []
        while isinstance(node, (dict, list)) and node and (not path or rng.random() < 0.6):
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            path.append((node, key))
            node = node[key]
        if not path:
            return copy.deepcopy(rng.choice(VALUES))
        parent, key = path[-1]
        match rng.randrange(6):
            case 0 | 1:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
            case 2:
                parent[key] = rng.choice(strings)
            case 3:
                del parent[key]
            case 4 if isinstance(parent, dict):
                parent[rng.choice(strings)] = copy.deepcopy(rng.choice((node, *VALUES)))
            case _:
                deep: Any = node
                for _ in range(rng.choice((1, 3, 70, 100)) if rng.random() < 0.2 else 1):
                    deep = rng.choice(([deep], {"a": deep}))
                parent[key] = deep
    return tree


RECORDS = [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/cells/*/record.json"))]


def record(rng: Rng) -> bytes:
    """A record.json."""
    text = json.dumps(changed(rng, rng.choice(RECORDS)), ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        at = text.find(":", rng.randrange(max(1, len(text) // 2))) + 1
        odd = rng.choice(
            ("1e999,", "NaN,", "9" * 5000 + ",", '"\\ud800",', "[" * 200, '1,"nll":', "-", "{}}", '"\\u0000",')
        )
        text = text[:at] + odd + text[at:]
    data = text.encode("utf-8", "surrogatepass")
    return damaged(rng, data) if rng.random() < 0.15 else data


TENSORS = {"F32": 4, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1, "BF16": 2, "F16": 2, "I32": 4, "C64": 8, "F8_E4M3": 1}
DTYPES = {
    "F32": "float32", "F64": "float64", "I64": "int64", "U8": "uint8", "BOOL": "bool", "BF16": "bfloat16",
    "F16": "float16",
    "I32": "int32", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip
TREE = {
    "learner": {"w": {"$tensor": "0"}, "state": {"$int_keys": {"0": {"$tensor": "1"}}}},
    "curve": [{"$tuple": [1, 2.5, None]}], "best": [1e9, {"$tensor": "2"}], "step": 3, "rng": [{"$tensor": "0"}],
}  # fmt: skip


def safetensors(rng: Rng) -> bytes:
    """A state file whose lengths, places and checksum are mended; or the weights of a model."""
    tensors, digest_parts, at, body = {}, [], 0, b""
    for number in range(rng.choice((1, 3, 3, 4))):
        dtype = rng.choice(list(TENSORS))
        shape = [rng.choice((0, 1, 2, 3)) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        data = _payload(rng, _product(shape) * TENSORS[dtype])
        tensors[str(number)] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        form = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
        digest_parts.append(f"{number} torch.{DTYPES[dtype]} {form};".encode() + data)
        at, body = at + len(data), body + data
    header: dict[str, Any] = dict(tensors)
    if rng.random() < 0.8:
        tree = json.dumps(
            changed(rng, TREE, (*STRINGS, "$tensor", "$tuple", "$int_keys")) if rng.random() < 0.7 else TREE
        )
        digest = hashlib.sha256(tree.encode("utf-8", "surrogatepass") + b"".join(digest_parts)).hexdigest()
        header["__metadata__"] = {"genzoo": "1" if rng.random() < 0.97 else "2", "tree": tree, "sha256": digest}
    if rng.random() < 0.35:
        header = changed(rng, header, (*STRINGS, *TENSORS, "F4", "F8_E8M0", "__metadata__", "0"))
    text = json.dumps(header)
    if rng.random() < 0.03:
        text = rng.choice(("[" * 3000, text[:-1] + ', "0": {}}', text.replace("0", "\\ud800", 1), text + " " * 99))
    raw = text.encode()
    length = len(raw) if rng.random() < 0.97 else rng.choice(SIZES) % 2**64
    content = struct.pack("<Q", length) + raw + body
    return damaged(rng, content) if rng.random() < 0.08 else content


PLAN = {
    "models": ["flow[layers=2]", "gaussian"], "datasets": ["moons[points=1000]", "mine.npz"], "seeds": [0, 1],
    "budget": "20steps",
    "threads": 1, "device": "auto", "test": True, "training": {"learning_rate": 0.01, "clip": "none", "betas": [0.9,
    0.99]},
    "evaluation": {"points": 64, "samples": 16, "until_se": 0.1, "max_seconds": 1.0},
}  # fmt: skip


def plan(rng: Rng) -> bytes:
    """A plan.toml."""
    text = _toml(
        changed(rng, PLAN, (*STRINGS, "vae[k=1,", "a[b=c]]", "3epochs", "0s", "cuda:99", "x[" * 9, " " * 900 + "]"))
    )
    if rng.random() < 0.1:
        at = rng.randrange(max(1, len(text)))
        odd = (
            "[[a]]\n",
            "a.b.c = 1\n",
            "a" + ".a" * 200 + " = 1\n",
            "[" * 300,
            '"""',
            "x = 0x" + "f" * 900 + "\n",
            "'''",
            "#",
            "\r",
            "seeds = 99999999999\n",
        )
        text = text[:at] + rng.choice(odd) + text[at:]
    data = text.encode("utf-8", "surrogatepass")
    return damaged(rng, data) if rng.random() < 0.15 else data


def inline(rng: Rng) -> bytes:
    """`name[key=value,...]`, or several with commas between them."""
    words = ("layers", "hidden", "learning_rate", "batch_size", "seed", "clip", "betas", "x", "ema", "é", "schedule")
    scalars = (
        "1",
        "2.5",
        "true",
        "none",
        "word",
        "'a b'",
        '"q\\n"',
        "[1,2]",
        "{a=1}",
        "1e5",
        "0x1F",
        "2020-01-01",
        "nan",
        "[0.9,0.99]",
        "cosine",
    )
    parts = [f"{rng.choice(words)}={rng.choice(scalars)}" for _ in range(rng.randrange(4))]
    for _ in range(rng.choice((0, 0, 1, 2))):
        odd = (
            *STRINGS,
            "[" * 300,
            "a=" + "[" * 40 + "]" * 40,
            " " * 2000,
            "a" + ".a" * 500 + "=1",
            "a={" + "b." * 300 + "c=1}",
            "9" * 6000,
            "a='''",
            "=",
            "a==b",
            "a=1\nb=2",
        )
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(odd))
    text = rng.choice(("flow", "vae", " flow ", "", "mine.npz", "a b", "../x")) + (
        f"[{','.join(parts)}]" if parts else ""
    )
    if rng.random() < 0.25:
        text = damaged(rng, text.encode("utf-8", "surrogatepass"), 3).decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "surrogatepass")


ARRAYS = (
    ("index", (20,)), ("lower", (20,)), ("variance", (20,)), ("log_p", (20,)), ("samples", (9, 2)), ("reference", (9,
    2)),
    ("grid_x", (5,)), ("grid_y", (4,)), ("grid_truth", (4, 5)), ("grid_model", (4, 5)), ("valid_step", (3,)),
    ("valid_seconds", (3,)), ("valid_nll", (3,)), ("curve_step", (4,)), ("curve_loss", (4,)), ("curve_seconds", (4,)),
    ("anatomy_log_det_per_layer", (2,)), ("trace_layers", (2, 3, 2)), ("nearest", (9, 1, 4, 4)), ("each_kl", (20, 3)),
    ("trace_forward", (3, 5, 1, 4, 4)), ("trace_forward_at", (5,)), ("trace_layers_at", (3,)), ("extremes_lower", (6,)),
    ("trace_reconstructions", (3, 2, 1, 4, 4)), ("trace_x", (60, 3, 2)), ("extremes", (6, 1, 4, 4)),
)  # fmt: skip


def arrays(rng: Rng) -> bytes:
    """An arrays.npz of the right names, whose shapes, types and numbers are not what they should be."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, shape in ARRAYS:
            if rng.random() < 0.1:
                continue
            if rng.random() < 0.25:
                shape = rng.choice(
                    ((), (0,), (1,), (2,), (20, 1), (3, 3), (0, 2), (2, 0), (9, 3, 4, 4), (1,) * 6, (20,), (300,))
                )
            kind = rng.choice(("<f8", "<f8", "<f8", "<f4", "<i8", "|b1", "|u1", "<u8", "<f2"))
            size = _product(list(shape))
            if kind == "<f8" and rng.random() < 0.7:
                scale = rng.choice((1, 1, 1, 1e-300, 1e300, 1e30))
                data = struct.pack(f"<{size}d", *(rng.choice((scale, rng.gauss(0, scale))) for _ in range(size)))
            else:
                data = _payload(rng, size * int(kind[2:]))
            text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return stream.getvalue()


SPLIT = b"\nmodel.safetensors\n"
FLOWS = [(path.parent / "record.json", path) for path in sorted(GOLDEN.glob("*/cells/*/model.safetensors"))]


def cell(rng: Rng) -> bytes:
    """A record and the weights beside it, one of them changed: `SPLIT` stands between."""
    paths = rng.choice(FLOWS)
    said, weights = json.loads(paths[0].read_text()), paths[1].read_bytes()
    key = rng.choice(("config", "config", "event_shape", "levels", "classes", "model", "threads", "evaluation"))
    if rng.random() < 0.4:
        said[key] = (
            changed(rng, said[key], (*STRINGS, "gaussian", "vae", "flow", "uniform"))
            if said[key]
            else rng.choice(VALUES)
        )
        if key == "config" and rng.random() < 0.5:
            said[key][rng.choice(("layers", "hidden", "bins"))] = rng.choice((1, 64, 1024, 10**6, 10**9))
    if rng.random() < 0.4:
        length = struct.unpack("<Q", weights[:8])[0]
        header = changed(rng, json.loads(weights[8 : 8 + length]), (*STRINGS, *TENSORS))
        raw = json.dumps(header).encode()
        weights = struct.pack("<Q", len(raw)) + raw + weights[8 + length :]
    return json.dumps(said).encode() + SPLIT + weights


MAKERS: dict[str, Callable[[Rng], bytes]] = {
    "idx": idx, "npy": npy, "npz": npz, "csv": csv, "safetensors": safetensors, "record": record, "plan": plan,
    "inline": inline,
    "arrays": arrays, "cell": cell,
}  # fmt: skip


def _product(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _payload(rng: Rng, size: int) -> bytes:
    return (
        rng.randbytes(size)
        if rng.random() < 0.4
        else bytes(size)
        if rng.random() < 0.3
        else (b"\x01\x00\x02\x00\x00\x00\xf0\x3f" * (size // 8 + 1))[:size]
    )


def _labels(rng: Rng) -> bytes:
    label = rng.choice((b"\x01\0\0\0\0\0\0\0", b"\0" * 8, b"\xff" * 8, b"\0\0\0\0\0\0\0\x7f"))
    text = (
        f"{{'descr': '{rng.choice(('<i8', '<u8', '<f8'))}', 'fortran_order': False, 'shape': (20,), }}".ljust(
            117
        ).encode()
        + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + label * 20


def _toml(value: Any, top: bool = True) -> str:
    """TOML of a tree, without asking whether it can be written: NaN, None and keys as they come."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(key))} = {_toml(item, False)}" for key, item in value.items()]
        return "\n".join(pairs) + "\n" if top else "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item, False) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("NaN", "nan").replace("Infinity", "inf")


def _bomb(content: bytes) -> bytes:
    """The content and 80 MB of zeros after it, in 80 KB."""
    return gzip.compress(content, 1, mtime=0) + _ZEROS


_ZEROS = gzip.compress(bytes(80_000_000), 6, mtime=0)
