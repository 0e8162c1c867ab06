"""A run on audio, as a user meets it: python3 audio_test.py PATH_OF_LACE"""

import array
import json
import math
import os
import tempfile
import wave

import cli

RECIPE = """
name = "tiny"
[model]
seq_len = 64
layers = 1
d_model = 32
heads = 2
patterns = "local(8) | strided(8)"
[data]
kind = "audio"
paths = ["music"]
validation_fraction = 0.1
test_fraction = 0.1
[optimizer]
learning_rate = 1e-2
warmup_steps = 1
[train]
batch = 4
steps = 20
"""


def write_wav(path, seconds, hertz, rate=24000):
    samples = array.array("h")
    for i in range(int(seconds * rate)):
        value = int(16000 * math.sin(2 * math.pi * hertz * i / rate))
        samples.extend((value, -value // 2))
    with wave.open(path, "wb") as file:
        file.setparams((2, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def main(folder):
    os.chdir(folder)
    os.mkdir("music")
    for i, seconds in enumerate((0.5, 0.4, 0.6, 0.1, 0.1)):
        write_wav(f"music/{i}.wav", seconds, 300 + 100 * i)
    with open("music/cover.jpg", "wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
    with open("tiny.toml", "w") as file:
        file.write(RECIPE)
    trained = cli.lace("train", "tiny.toml", "--run", "runs/a", code=0)
    assert b"data left out: no audio: 1 (music/cover.jpg)" in trained.stderr, trained.stderr
    with open("runs/a/run.json") as file:
        run = json.load(file)
    # Whole tracks: 1.7 s at 12 kHz; one of the short ones fits into a tenth, both do not.
    assert run["files"] == 5, run
    assert sorted(run["bytes"].values()) == [1200, 1200, 18000], run
    assert len(os.listdir("runs/.lace-cache")) == 5
    with open("runs/a/metrics.jsonl") as file:
        losses = [json.loads(line)["loss"] for line in file]
    assert losses[-1] < losses[0] - 0.5, losses
    # Decoded once: going on makes no file anew.
    times = {name: os.stat("runs/.lace-cache/" + name).st_mtime_ns
             for name in os.listdir("runs/.lace-cache")}  # fmt: skip
    resumed = cli.lace("train", "tiny.toml", "--run", "runs/a", "--resume", "--set",
                       "train.steps=22", code=0)  # fmt: skip
    assert times == {name: os.stat("runs/.lace-cache/" + name).st_mtime_ns for name in times}, resumed
    scored = cli.parse_json(cli.lace("eval", "runs/a", "--json", code=0).stdout)
    assert scored["bytes"] == 1200 and 0 < scored["bits_per_byte"] < 8, scored
    (track,) = scored["tracks"]
    assert track["name"] in ("3.wav", "4.wav"), track
    table = cli.lace("eval", "runs/a", code=0).stdout.decode()
    assert f"lowest {track['bits_per_byte']:.3f} ({track['name']})" in table, table
    shown = cli.parse_json(cli.lace("data", "show", "tiny.toml", "--out", ".", "--json", code=0).stdout)
    assert shown["kind"] == "audio" and shown["splits"]["train"]["pieces"] == 3, shown
    with open(shown["picture"], "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    # A tone of 0.12 is 79 of 127 steps from silence.
    assert "▅▅▅▅" in cli.lace("data", "show", "tiny.toml", code=0).stdout.decode()
    # One track alone is cut by time, and that is said.
    cli.lace("sample", "runs/a", "--length", "30", "--count", "2", "--out", "x.wav", code=0)
    for name in ("x-1.wav", "x-2.wav"):
        with wave.open(name) as sound:
            assert sound.getnframes() == 30 and sound.getnchannels() == 1, name
            assert sound.getframerate() == 12000, sound.getframerate()
    # A prompt is heard as the data are: 0.1 s of 24 kHz are 1,200 codes, another file's bytes are
    # codes already.
    for prompt, codes in (("music/3.wav", 1200), ("tiny.toml", len(RECIPE))):
        drawn = cli.parse_json(cli.lace("sample", "runs/a", "--prompt-file", prompt, "--length", "9",
                                        "--out", "y.wav", "--json", code=0).stdout)
        assert len(drawn["bytes"]) == 9, drawn
        with wave.open("y.wav") as sound:
            assert sound.getnframes() == codes + 9, (prompt, sound.getnframes())
            heard = array.array("h", sound.readframes(codes))
        # The mean of the channels, 8000 and −4000 high.
        assert prompt != "music/3.wav" or 3500 < max(heard) < 4500, max(heard)
    one = cli.lace("train", "tiny.toml", "--run", "runs/b", "--set", "data.paths=music/2.wav", code=0)
    assert b"data: 1 track is too few for 3 splits and cut by time" in one.stderr, one.stderr
    # What is wrong with a file names it.
    os.truncate("music/1.wav", 5000)
    wrong = cli.lace("train", "tiny.toml", "--run", "runs/c", code=1)
    assert b"[audio] music/1.wav is cut off: by its own account" in wrong.stderr, wrong.stderr
    cover = cli.lace("train", "tiny.toml", "--run", "runs/c", "--set", "data.paths=music/cover.jpg",
                     code=1)  # fmt: skip
    assert b"music/cover.jpg is no WAV, FLAC, Ogg or MP3 file" in cover.stderr, cover.stderr
    assert not os.path.exists("runs/c"), os.listdir("runs/c")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
        os.chdir("/")
