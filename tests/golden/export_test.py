#!/usr/bin/env python3
"""What `lace export` writes, run by the independent PyTorch model:

  export_test.py LACE GOLDEN_DRIVER [--quick]

--quick: one model, and no wrong files.

Trained weights, exported, give in golden_model's float64 model the logits that lace has: to rounding
of float64 and of float32. The shape of that model comes from the file's own metadata. `lace import`
makes of the file, and of one that PyTorch has written, a run with the same logits, bit for bit.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
import torch

import golden_model

LACE, DRIVER = (os.path.abspath(argument) for argument in sys.argv[1:3])
QUICK = "--quick" in sys.argv
PATTERNS = {"fixed(16, 4, 4)": golden_model.fixed(16, 4, 4), "strided(18)": golden_model.strided(18),
            "local(18)": golden_model.local(18)}
# Logits of a few: rounding gives 1e-14 and 1e-5.
TOLERANCE = {"fp64": 1e-11, "fp32": 1e-4}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RECIPES = {
    "text": 'seq_len = 96\nlayers = 3\nd_model = 32\nheads = 4\npatterns = "fixed(16, 4, 4)"\n'
            'position_stride = 16\n',
    "image": 'seq_len = 72\nlayers = 4\nd_model = 64\nheads = 2\nqk_dim = 32\nff_multiple = 2\n'
             'patterns = ["strided(18)", "local(18)"]\npositions = "image"\nimage_height = 4\n'
             'image_width = 6\nimage_channels = 3\n',
    "tied, grouped": 'seq_len = 50\nlayers = 2\nd_model = 32\nheads = 4\nkv_heads = 2\ntied = true\n'
                     'patterns = "fixed(16, 4, 4)"\n',
}


def lace(*arguments, code=0, **environment):
    done = subprocess.run([LACE, *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=os.environ | environment)
    assert done.returncode == code, (done.returncode, done.stderr)
    return done.stderr


def read_safetensors(file):
    """The tensors and the metadata of a file, read by the format's words alone."""
    data = pathlib.Path(file).read_bytes()
    length, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=DTYPES[entry["dtype"]])
        tensors[name] = values.view(entry["shape"])
    return tensors, metadata


def write_safetensors(file, tensors):
    """A file without metadata, as other programs write it."""
    header, data = {}, b""
    names = {dtype: name for name, dtype in DTYPES.items()}
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    pathlib.Path(file).write_bytes(struct.pack("<Q", len(text)) + text + data)


def model_of(tensors, metadata):
    config = json.loads(metadata["config"])
    case = config | {"patterns": {text: PATTERNS[text] for text in config["patterns"]},
                     "zero_output": True}
    model = golden_model.Model(case, torch.float64, seed=1)
    assert set(model.parameters) == set(tensors), set(model.parameters) ^ set(tensors)
    for name, tensor in tensors.items():
        assert model.parameters[name].shape == tensor.shape, name
        model.parameters[name] = tensor.to(torch.float64)
    return model


def logits_of(run, tokens, folder):
    (folder / "tokens.bin").write_bytes(tokens.to(torch.uint8).numpy().tobytes())
    # In float64 only the reference kernel computes attention.
    precision_is_64 = 'precision = "fp64"' in (run / "recipe.toml").read_text()
    environment = os.environ | ({"LACE_KERNEL": "reference"} if precision_is_64 else {})
    subprocess.run([DRIVER, "--logits", run, folder / "tokens.bin", folder / "logits.bin"], check=True,
                   env=environment, capture_output=True)
    values = numpy.fromfile(folder / "logits.bin", dtype=numpy.float64)
    return torch.from_numpy(values).view(*tokens.shape, 256)


def check(title, text, precision, folder):
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[model]\n{text}precision = "{precision}"\n[data]\npaths = ["{folder}/text"]\n'
                      "[optimizer]\nlearning_rate = 1e-2\nwarmup_steps = 2\n"
                      "[train]\nbatch = 2\nsteps = 8\nvalidate_every = 0\n")
    run, file = folder / "run", folder / "run.safetensors"
    environment = {"LACE_KERNEL": "reference"} if precision == "fp64" else {}
    lace("train", recipe, "--run", run, **environment)
    lace("export", run, file, "--checkpoint", "last")
    tensors, metadata = read_safetensors(file)
    assert str(folder) not in json.dumps(metadata), "the file tells where the data are"
    model = model_of(tensors, metadata)
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, 256, (3, json.loads(metadata["config"])["seq_len"]), generator=generator)
    with torch.no_grad():
        wanted = model.logits(tokens)
    got = logits_of(run, tokens, folder)
    error = (wanted - got).abs().max().item()
    size = wanted.abs().max().item()
    assert size > 0.1, size
    assert error <= TOLERANCE[precision], error

    lace("import", file, folder / "again")
    assert torch.equal(logits_of(folder / "again", tokens, folder), got)
    write_safetensors(folder / "foreign.safetensors", tensors)
    assert "--recipe" in lace("import", folder / "foreign.safetensors", folder / "other", code=1)
    lace("import", folder / "foreign.safetensors", folder / "other", "--recipe", recipe)
    assert torch.equal(logits_of(folder / "other", tokens, folder), got)
    print(f"ok {precision} {title}: logits up to {size:.1f} differ by {error:.1e}", flush=True)
    return recipe, tensors


def other_dtypes_and_faults(recipe, tensors, folder):
    for dtype, name in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp64", torch.float64)):
        lace("export", folder / "run", folder / "half.safetensors", "--dtype", dtype)
        written, _ = read_safetensors(folder / "half.safetensors")
        assert all(torch.equal(written[key], tensor.to(name)) for key, tensor in tensors.items())
        lace("import", folder / "half.safetensors", folder / dtype)
    # An imported run trains on.
    lace("train", recipe, "--run", folder / "other", "--resume")
    assert len((folder / "other" / "metrics.jsonl").read_text().splitlines()) == 8
    assert "already holds a run" in lace("import", folder / "run.safetensors", folder / "run", code=1)
    missing = dict(tensors)
    missing.pop("ln_f.bias")
    for wrong, words in ((missing, "has no tensor ln_f.bias"),
                         (tensors | {"more": tensors["sos"]}, "has a tensor more"),
                         (tensors | {"sos": tensors["ln_f.bias"][:3]}, "sos of"),
                         (tensors | {"sos": tensors["sos"].to(torch.float64)[:, None]}, "sos of")):
        write_safetensors(folder / "wrong.safetensors", wrong)
        error = lace("import", folder / "wrong.safetensors", folder / "nothing", "--recipe", recipe,
                     code=1)
        assert words in error, error
        assert not (folder / "nothing").exists()


def main():
    torch.set_num_threads(2)
    for precision in TOLERANCE:
        for title, text in RECIPES.items():
            if QUICK and (precision, title) != ("fp32", "image"):
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name)
                (folder / "text").write_text("".join(f"line {i % 7} of the text\n" for i in range(400)))
                recipe, tensors = check(title, text, precision, folder)
                if (precision, title) == ("fp32", "text"):
                    other_dtypes_and_faults(recipe, tensors, folder)


if __name__ == "__main__":
    main()
