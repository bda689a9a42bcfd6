#!/usr/bin/env python3
"""Checks that a model says the same in Python's transformers and in ONNX Runtime as in intentgate. See README.md."""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

ROOT = Path(__file__).resolve().parents[2]
# Largest differences: of probabilities and logits between intentgate and transformers, of logits between transformers and
# ONNX Runtime.
TOLERANCE = {"probabilities": 1e-3, "logits": 1e-3, "onnx logits": 1e-4, "directory as trained, logits": 1e-4}
BATCH = 64
# Labels of nobody's, from rows of ours.
CUSTOM = {"order": "parcel", "faq": "question", "out_of_scope": "other"}


def main():
    arguments = parse_arguments()
    intentgate = Intentgate(arguments.binary.resolve())
    rows = read(arguments.data)
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": run("git", "-C", ROOT, "describe", "--always", "--dirty").strip(),
        "versions": {
            "intentgate": intentgate("--version").split()[-1],
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (transformers, torch, onnxruntime)},
        },
        "rows": len(rows),
        "tolerance": TOLERANCE,
        "models": {},
    }
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        models = {model.name: model for model in arguments.model} or {
            "guard": ROOT / "models" / "guard",
            "labels of one's own": train(intentgate, work),
        }
        for name, model in models.items():
            record["models"][name] = check(intentgate, model, rows, work / name)
            print(name, json.dumps(record["models"][name], indent=1, ensure_ascii=False))
    arguments.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beyond = [
        f"{name}: {what} {model[what]}"
        for name, model in record["models"].items()
        for what, most in TOLERANCE.items()
        if not model.get(what, 0.0) <= most
    ]
    print("\n".join(beyond) or "all within tolerance", file=sys.stderr)
    return 1 if beyond else 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path, help="the intentgate program, a release build")
    parser.add_argument("--model", type=Path, action="append", default=[], help="model directories [default: the shipped one, and one trained here]")
    parser.add_argument("--data", type=Path, default=ROOT / "datasets" / "valid", help="a directory of .jsonl files")
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "record" / "interchange.json", help="the record")
    return parser.parse_args()


def run(*command, text=None):
    command = [str(part) for part in command]
    return subprocess.run(command, input=text, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


class Intentgate:
    def __init__(self, binary):
        self.binary = binary

    def __call__(self, *arguments, text=None):
        return run(self.binary, *arguments, text=text)

    def lines(self, *arguments, text):
        return [json.loads(line) for line in self(*arguments, text=text).splitlines()]


def read(directory):
    """Rows of one line: `export --ids` reads lines."""
    lines = [line for file in sorted(directory.glob("*.jsonl")) for line in file.read_text("utf-8").split("\n") if line]
    return [row for row in map(json.loads, lines) if not {"\n", "\r"} & set(row["text"])]


def train(intentgate, work):
    rows, left = [], dict.fromkeys(CUSTOM, 60)
    for line in (ROOT / "datasets" / "train" / "en.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if not row.get("context") and left.get(row["label"], 0) > 0:
            left[row["label"]] -= 1
            rows.append(json.dumps({"text": row["text"], "label": CUSTOM[row["label"]]}))
    (work / "rows.jsonl").write_text("\n".join(rows))
    intentgate(
        *("train", "--data", work / "rows.jsonl", "--base", ROOT / "models" / "base", "--out", work / "trained"),
        *("--epochs", 4, "--oos-label", "other"),
    )
    return work / "trained"


def check(intentgate, model, rows, work):
    plain, onnx = work / "plain", work / "model.onnx"
    plain.mkdir(parents=True)
    intentgate("export", "--model", model, "--transformers", plain, "--onnx", onnx)
    guard = json.loads((plain / "guard.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(plain)
    network, loading = AutoModelForSequenceClassification.from_pretrained(plain, output_loading_info=True)
    labels = [network.config.id2label[n] for n in range(network.config.num_labels)]

    texts = "".join(row["text"] + "\n" for row in rows)
    passes = intentgate.lines("export", "--model", plain, "--ids", text=texts)
    questions = "".join(json.dumps(row) + "\n" for row in rows)
    verdicts = intentgate.lines("classify", "--model", plain, "--backend", "candle", "--jsonl", "--json", text=questions)
    assert len(passes) == len(verdicts) == len(rows)

    result = {
        "labels": labels,
        "tensors that transformers misses": sorted(loading["missing_keys"]),
        "tensors that transformers does not use": sorted(loading["unexpected_keys"]),
    }
    bare = [tokenizer(row["text"])["input_ids"] for row in rows]
    differ = [n for n, each in enumerate(passes) if bare[n] != each["ids"]]
    # In a flow its token stands behind the first.
    ids = [tokenizer(f"<flow:{row['context']}>{row['text']}")["input_ids"] if row.get("context") else bare[n] for n, row in enumerate(rows)]
    flow_differs = [
        n
        for n, row in enumerate(rows)
        if row.get("context") and ids[n] != [bare[n][0], tokenizer.convert_tokens_to_ids(f"<flow:{row['context']}>"), *bare[n][1:]]
    ]
    assert not flow_differs, rows[flow_differs[0]]
    result["rows with other token ids in Python"] = len(differ)
    result["some of them"] = [rows[n]["text"] for n in differ[:: max(1, len(differ) // 8)]]

    theirs = logits(network, tokenizer, [each[: guard["max_tokens"]] for each in ids])
    shares = torch.softmax(torch.tensor(theirs / guard["temperature"]), dim=-1).numpy()
    ours = np.array([[verdict["scores"].get(label, np.nan) for label in labels] for verdict in verdicts])
    same = [
        n for n in range(len(rows)) if n not in set(differ) and 2 < len(bare[n]) and len(ids[n]) <= guard["max_tokens"]
    ]
    no_flow = [n for n in same if not rows[n].get("context")]
    result["rows compared"] = len(same)
    result["probabilities"] = largest(shares[same], ours[same])
    result["logits"] = largest(theirs[no_flow], np.array([passes[n]["logits"] for n in no_flow]))
    result["rows with another most probable label in Python, of all"] = int((shares.argmax(1) != ours.argmax(1)).sum())

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    result["onnx inputs"] = {each.name: [each.type, *each.shape] for each in session.get_inputs()}
    result["onnx outputs"] = {each.name: [each.type, *each.shape] for each in session.get_outputs()}
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == labels
    difference = 0.0
    # There is no mask: a batch has messages of one length.
    for _, group in groupby(sorted(same, key=lambda n: len(ids[n])), key=lambda n: len(ids[n])):
        group = list(group)
        (of_onnx,) = session.run(["logits"], {"input_ids": np.array([ids[n] for n in group], dtype=np.int64)})
        difference = max(difference, largest(theirs[group], of_onnx))
    result["onnx logits"] = difference

    if (model / "tokenizer_config.json").exists():
        # Not quantised: it loads as it is. Weights are f16, of which transformers would compute in f16.
        direct = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
        some = same[:: max(1, len(same) // 200)]
        of_direct = logits(direct, AutoTokenizer.from_pretrained(model), [ids[n] for n in some])
        result["directory as trained, logits"] = largest(theirs[some], of_direct)

    classify = pipeline("text-classification", model=str(plain), truncation=True)
    for n in same[:: max(1, len(same) // 20)]:
        if not rows[n].get("context"):
            assert classify(rows[n]["text"])[0]["label"] == labels[theirs[n].argmax()], rows[n]
    return result


@torch.no_grad()
def logits(network, tokenizer, ids):
    """In batches with padding, as pipelines make them."""
    network.eval()
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    rows = np.zeros((len(ids), network.config.num_labels), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        rows[batch] = network(**tokenizer.pad({"input_ids": [ids[n] for n in batch]}, return_tensors="pt")).logits.numpy()
    return rows


def largest(a, b):
    return float(np.abs(a - b).max())


if __name__ == "__main__":
    sys.exit(main())
