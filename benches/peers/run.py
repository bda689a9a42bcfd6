#!/usr/bin/env python3
"""Times intentgate beside what one might use in its place, on the same messages and one thread. See README.md."""

import argparse
import datetime
import gc
import json
import logging
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

# Before numpy is there: it starts its threads when it is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer

ROOT = Path(__file__).resolve().parents[2]
BUCKETS = [(1, 8), (9, 16), (17, 32), (33, 64), (65, sys.maxsize)]
SHARES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99}
WARM_UP = 500
TOLERANCE = 1e-3
# Of the bag of n-grams: the table is far larger than a cache, as a trained one is.
NGRAM_ROWS, NGRAM_WIDTH, NGRAMS = 1 << 18, 64, (3, 4, 5)


def main():
    arguments = parse_arguments()
    pin(arguments.cpu)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        binary = Intentgate(arguments.binary.resolve(), arguments.model, work)
        messages, passes = binary.choose(arguments.messages)
        files = export(binary, work)
        sessions = {name: session(file) for name, file in files.items()}
        feeds = [{"input_ids": np.array([each["ids"]], dtype=np.int64)} for each in passes]
        checks = check(binary, work, messages, feeds, sessions)
        say(f"largest difference of logits: {json.dumps(checks, indent=1)}")

        runners = {name: (feeds, runner(one)) for name, one in sessions.items()}
        trial = time_all(runners, feeds, arguments.rounds, arguments.seconds / 4)
        trial = {name: summary(rounds)["all"]["p50_us"] for name, rounds in trial.items()}
        best = {
            kind: min((name for name in trial if name.startswith(kind)), key=lambda name: trial[name]["minimum"])
            for kind in ("f32", "int8")
        }
        say(f"variants of the ONNX file, p50 in us: {json.dumps(trial, indent=1)}")

        systems = {
            "ONNX Runtime f32": runners[best["f32"]],
            "ONNX Runtime int8": runners[best["int8"]],
            "empty ONNX Runtime session": (feeds, runner(session(empty(work / "empty.onnx")))),
            **baselines(files["f32"], messages, passes, outputs=len(passes[0]["logits"])),
            "empty Python call": (feeds, lambda feed: None),
        }
        rounds = time_all(systems, feeds, arguments.rounds, arguments.seconds, binary)
        record = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(load),
            "versions": {
                "intentgate": binary.version(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": ort.__version__,
            },
            "model": {key: binary.bench[key] for key in ("model_version", "backend", "instruction_set")},
            "messages": {
                "file": arguments.messages.name,
                "count": len(messages),
                "mean_tokens": statistics.mean(len(each["ids"]) for each in passes),
                "by_tokens": [
                    {"from": low, "messages": sum(low <= len(each["ids"]) <= high for each in passes)}
                    for low, high in BUCKETS
                ],
            },
            "flags": {
                "threads": 1,
                "rounds": arguments.rounds,
                "seconds": arguments.seconds,
                "graph_optimization_level": "ORT_ENABLE_ALL",
                "f32": best["f32"],
                "int8": best["int8"],
            },
            "logits": checks,
            "variants_p50_us": trial,
            "systems": {
                name: {"timed": timed(name), "summary": summary(of_system), "rounds": of_system}
                for name, of_system in rounds.items()
            },
        }
    out = arguments.out or ROOT / "benches" / "record" / f"peers-{record['date'][:10]}.json"
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"wrote {out}")
    print(markdown(record))
    return 0 if checks["same weights in f32, ONNX Runtime and intentgate"] <= TOLERANCE else 1


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path, help="the intentgate program, a release build")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "guard", help="model directory")
    parser.add_argument(
        "--messages",
        type=Path,
        default=ROOT / "src" / "cli" / "bench_messages.txt",
        help="a file with one message a line, or a dataset [default: those of intentgate bench]",
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds, in each of which everything is timed once")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is timed in a round")
    parser.add_argument("--cpu", type=int, help="the core to run on [default: the last that is allowed]")
    parser.add_argument("--out", type=Path, help="the record [default: benches/record/peers-DATE.json]")
    return parser.parse_args()


def pin(cpu):
    """Holds this process and its children to one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if cpu is None else cpu})


class Intentgate:
    """The program under test, as a user runs it."""

    def __init__(self, binary, model, work):
        self.binary, self.model = binary, model
        self.bench = None
        # `bench` reads rows.
        self.rows = work / "messages.jsonl"

    def choose(self, file):
        """The messages of a file that are read in one pass, with their passes: a long one is several for intentgate."""
        most = json.loads((self.model / "guard.json").read_text())["max_tokens"]
        lines = [line for line in read(file) if line.strip() and not {"\n", "\r"} & set(line)]
        chosen = [(line, each) for line, each in zip(lines, self.passes(lines)) if 2 < len(each["ids"]) <= most]
        if len(chosen) < len(lines):
            say(f"left out {len(lines) - len(chosen)} messages without text or of more than {most} tokens")
        self.rows.write_text("".join(json.dumps({"text": line, "label": "any"}) + "\n" for line, _ in chosen))
        return [line for line, _ in chosen], [each for _, each in chosen]

    def run(self, *arguments, text=None):
        command = [str(self.binary), *map(str, arguments)]
        return subprocess.run(command, input=text, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout

    def version(self):
        return self.run("--version").split()[-1]

    def passes(self, messages, model=None):
        """Token ids and logits of each message."""
        lines = self.run("export", "--ids", "--model", model or self.model, text="\n".join(messages) + "\n")
        return [json.loads(line) for line in lines.splitlines()]

    def round(self, seconds):
        bench = self.run("bench", "--json", "--model", self.model, "--seconds", seconds, "--data", self.rows)
        self.bench = json.loads(bench)
        by_bucket = {"all": {"calls": self.bench["calls"], **{share: self.bench[share] for share in SHARES}}}
        for each in self.bench["by_tokens"]:
            by_bucket[str(each["from"])] = {key: each[key] for key in ("calls", *SHARES)}
        return by_bucket


def read(path):
    """Messages of a text file, one a line, or of a dataset."""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [json.loads(line)["text"] for line in lines] if files[0].suffix == ".jsonl" else lines


def export(binary, work):
    """All variants of the ONNX file that somebody might use: by graph, f32 and int8, scales per tensor and channel."""
    files = {"f32": work / "f32.onnx", "f32 first token": work / "first.onnx"}
    binary.run("export", "--model", binary.model, "--onnx", files["f32"])
    binary.run("export", "--model", binary.model, "--onnx", files["f32 first token"], "--first-token")
    # Both tools warn that the file is not from PyTorch or has not been through a step of theirs; neither matters here.
    logging.disable(logging.WARNING)
    config = json.loads((binary.model / "config.json").read_text())
    for name, file in list(files.items()):
        onnx.checker.check_model(onnx.load(file), full_check=True)
        fused = optimizer.optimize_model(
            str(file),
            model_type="bert",
            num_heads=config["num_attention_heads"],
            hidden_size=config["hidden_size"],
            opt_level=0,
        )
        counts = {operator: count for operator, count in fused.get_fused_operator_statistics().items() if count}
        say(f"{name}, fused: {counts}")
        files[f"{name} fused"] = work / f"{file.stem}-fused.onnx"
        fused.save_model_to_file(str(files[f"{name} fused"]))
    for name, file in list(files.items()):
        for per_channel in (False, True):
            quantised = work / f"{file.stem}-int8-{per_channel}.onnx"
            quantize_dynamic(
                file,
                quantised,
                per_channel=per_channel,
                weight_type=QuantType.QInt8,
                # Of the outputs of fused operators, which shape inference does not know.
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
            files[f"{name.replace('f32', 'int8')} per {'channel' if per_channel else 'tensor'}"] = quantised
    return files


def session(file):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def runner(one):
    # All outputs, as the guard computes all.
    return lambda feed: one.run(None, feed)


def empty(file):
    """A graph that does nothing with the same input: what a call costs from Python."""
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input_ids"], ["same"])],
        "empty",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("same", TensorProto.INT64, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def check(binary, work, messages, feeds, sessions):
    """The largest differences of any logit, labels and languages."""
    widened = widen(binary.model, work)
    of_binary = {model: binary.passes(messages, model) for model in (binary.model, widened)}
    f32 = logits(sessions["f32"], feeds)
    names = {
        "same weights in f32, ONNX Runtime and intentgate": [row(each) for each in of_binary[widened]],
        "intentgate as shipped (int8) and f32": [row(each) for each in of_binary[binary.model]],
        **{f"{name} and f32": logits(sessions[name], feeds) for name in sessions if name != "f32"},
    }
    checks = {name: max(float(np.abs(a - b).max()) for a, b in zip(f32, other)) for name, other in names.items()}
    pair = np.repeat(feeds[0]["input_ids"], 2, axis=0)
    in_batch = np.concatenate(sessions["f32"].run(None, {"input_ids": pair}), axis=1)
    checks["f32 in a batch of two and alone"] = float(np.abs(in_batch - f32[0]).max())
    return checks


def row(each):
    return np.array(each["logits"] + each["language_logits"], dtype=np.float32)


def logits(one, feeds):
    return [np.concatenate(one.run(None, feed), axis=1)[0] for feed in feeds]


def widen(model, work):
    """The model with the weights of the ONNX file, which are f32: on those the native engine computes in f32 too, so that
    rounding does not hide a fault of the export."""
    directory = work / "widened"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "guard.json"):
        shutil.copy(model / name, directory / name)
    header, data = {}, b""
    for name, values in initialisers(work / "f32.onnx").items():
        if not name.startswith(("bert.", "classifier.", "language.")):
            continue
        if values.ndim == 2 and "embeddings" not in name:
            values = values.T
        data_offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": data_offsets}
        data += np.ascontiguousarray(values).tobytes()
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return directory


def initialisers(file):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


def baselines(file, messages, passes, outputs):
    """Two small models that one might use in place of an encoder. Their weights are not trained: only time counts here."""
    random = np.random.default_rng(1)
    words = initialisers(file)["bert.embeddings.word_embeddings.weight"]
    ids = [np.array(each["ids"]) for each in passes]
    head = random.standard_normal((words.shape[1], outputs), dtype=np.float32)
    grams = random.standard_normal((NGRAM_ROWS, NGRAM_WIDTH), dtype=np.float32)
    gram_head = random.standard_normal((NGRAM_WIDTH, outputs), dtype=np.float32)
    hashed = [ngrams(message) for message in messages]
    return {
        "static embeddings": (ids, lambda ids: words[ids].mean(axis=0) @ head),
        "n-gram bag": (hashed, lambda ids: grams[ids].mean(axis=0) @ gram_head),
        "n-gram bag with hashing": (messages, lambda message: grams[ngrams(message)].mean(axis=0) @ gram_head),
    }


def ngrams(message):
    """Rows of the words of a message and of their character n-grams, as fastText makes them; by another hash."""
    words = [f"<{word}>" for word in message.lower().split()]
    parts = words + [word[i : i + n] for word in words for n in NGRAMS for i in range(len(word) - n + 1)]
    return np.array([zlib.crc32(part.encode()) % NGRAM_ROWS for part in parts])


def time_all(systems, feeds, rounds, seconds, binary=None):
    """Rounds in which every system is timed once, each round beginning with another, so that all see the same noise."""
    tokens = [feed["input_ids"].shape[1] for feed in feeds]
    names = [*(["intentgate"] if binary else []), *systems]
    times = {name: [] for name in names}
    for n in range(rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            if name == "intentgate":
                times[name].append(binary.round(seconds))
            else:
                inputs, call = systems[name]
                times[name].append(time_one(inputs, call, tokens, seconds))
        say(f"round {n + 1} of {rounds}")
    return times


def time_one(inputs, call, tokens, seconds):
    """What `intentgate bench` does: messages in rotation, each timed alone."""
    clock = time.perf_counter_ns
    for n in range(min(WARM_UP, 4 * len(inputs))):
        call(inputs[n % len(inputs)])
    times = [[] for _ in inputs]
    gc.collect()
    gc.disable()
    began = clock()
    while clock() - began < seconds * 1e9:
        for own, one in zip(times, inputs):
            start = clock()
            call(one)
            own.append(clock() - start)
    gc.enable()
    by_bucket = {"all": quantiles(time for own in times for time in own)}
    for low, high in BUCKETS:
        own = [time for own, count in zip(times, tokens) if low <= count <= high for time in own]
        if own:
            by_bucket[str(low)] = quantiles(own)
    return by_bucket


def quantiles(times):
    ordered = sorted(times)
    at = {share: -int(-value * len(ordered) // 1) - 1 for share, value in SHARES.items()}
    return {"calls": len(ordered), **{share: round(ordered[n] / 1e3, 2) for share, n in at.items()}}


def summary(rounds):
    """Median and minimum over the rounds of every quantile. The minimum is what a quiet machine would show."""
    return {
        bucket: {
            share: {
                "median": round(statistics.median(each[bucket][share] for each in rounds), 2),
                "minimum": min(each[bucket][share] for each in rounds),
            }
            for share in SHARES
        }
        for bucket in rounds[0]
    }


def timed(name):
    return {
        "intentgate": "message to verdict: normalise, tokenise, forward pass, decide",
        "ONNX Runtime f32": "session.run on token ids: forward pass and the call from Python",
        "ONNX Runtime int8": "session.run on token ids: forward pass and the call from Python",
        "empty ONNX Runtime session": "session.run of a graph that does nothing: part of the two above",
        "static embeddings": "mean of word embeddings and a linear layer on token ids, in numpy; weights not trained",
        "n-gram bag": "mean of n-gram vectors and a linear layer on hashes, in numpy; weights not trained",
        "n-gram bag with hashing": "the same from text, with words cut and hashed in Python",
        "empty Python call": "a function that does nothing: part of all but the first",
    }[name]


def machine(load):
    info = {}
    if Path("/proc/cpuinfo").exists():
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        info = {key.strip(): value.strip() for key, _, value in lines}
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name", platform.machine()),
        "mhz": info.get("cpu MHz"),
        "instruction_sets": [
            flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags
        ],
        "cores": os.cpu_count(),
        "pinned_to": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_before": load,
        "load_after": os.getloadavg(),
        "system": platform.platform(),
    }


def markdown(record):
    first = record["systems"]["intentgate"]["summary"]
    buckets = [bucket for bucket in first if bucket != "all"]
    labels = [f"{low} to {high}" if high < sys.maxsize else f"from {low}" for low, high in BUCKETS if str(low) in buckets]
    out = [
        "| | p50 us | p90 | p99 | least p50 | " + " | ".join(f"p50, {label} tokens" for label in labels) + " | timed |",
        "|---|" + "---:|" * (4 + len(labels)) + "---|",
    ]
    for name, system in record["systems"].items():
        of_all = system["summary"]["all"]
        figures = [of_all[share]["median"] for share in SHARES] + [of_all["p50_us"]["minimum"]]
        figures += [system["summary"][bucket]["p50_us"]["median"] for bucket in buckets]
        shown = " | ".join(f"{figure:.0f}" if figure >= 10 else f"{figure:.1f}" for figure in figures)
        out.append(f"| {name} | {shown} | {system['timed']} |")
    machine, flags, versions = record["machine"], record["flags"], record["versions"]
    out.append(
        f"\nMedians over {flags['rounds']} rounds of {flags['seconds']} s each, one thread; *least p50* is that of the best "
        f"round. {machine['cpu']}, {' '.join(machine['instruction_sets'])}; load {machine['load_before'][0]:.1f} before. "
        f"intentgate {versions['intentgate']} ({record['model']['backend']}, model {record['model']['model_version']}), "
        f"ONNX Runtime {versions['onnxruntime']} ({flags['f32']}; {flags['int8']}), numpy {versions['numpy']}, "
        f"{record['messages']['count']} messages of {record['messages']['mean_tokens']:.1f} tokens on average."
    )
    return "\n".join(out)


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
