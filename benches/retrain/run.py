#!/usr/bin/env python3
"""Retrain on a public intent benchmark with the shipped defaults and record what comes of it.

    cargo build --release
    benches/retrain/run.py clinc150 DIR     # DIR/{train,valid,test}.jsonl with `text` and `label`, out of scope is `oos`
    benches/retrain/run.py banking77 DIR    # DIR/{train,test}.jsonl

Trains from models/base on all rows, and on 10 and on 5 rows of each label, and writes benches/record/NAME.md. The test rows
are looked at once for each line of the table. Needs Python 3.9 and nothing else.
"""

import argparse
import collections
import datetime
import json
import pathlib
import platform
import random
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 1
SHOTS = [None, 10, 5]
OOS = {"clinc150": "oos", "banking77": None}


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def sample(rows, shots):
    """So many rows of each label, the out-of-scope one too, chosen by the seed."""
    if shots is None:
        return rows
    by_label = collections.defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    rng = random.Random(SEED)
    return [row for label in sorted(by_label) for row in rng.sample(by_label[label], min(shots, len(by_label[label])))]


def run(command):
    began = time.monotonic()
    done = subprocess.run([str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return time.monotonic() - began, done.stderr


def percent(value):
    return "–" if value is None else f"{100 * value:.1f}"


def cpu():
    try:
        return re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()).group(1)
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(OOS))
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/intentgate")
    arguments = parser.parse_args()
    data, oos = arguments.data.resolve(), OOS[arguments.name]
    train, valid = read(data / "train.jsonl"), data / "valid.jsonl"
    flags = ["--oos-label", oos] if oos else []
    lines = []
    for shots in SHOTS:
        rows = sample(train, shots)
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            few = scratch / "train.jsonl"
            few.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            command = [arguments.binary, "train", "--data", few, *flags, "--seed", SEED, "--dtype", "int8", "--out", scratch / "model"]
            # With few rows there are few validation rows too: the official ones would be more than those to learn from.
            if shots is None and valid.exists():
                command += ["--valid", valid]
            seconds, log = run(command)
            run([arguments.binary, "eval", "--model", scratch / "model", "--data", data / "test.jsonl", "--errors", 0, "--json", scratch / "evaluation.json"])
            evaluation = json.loads((scratch / "evaluation.json").read_text())
        overall, curves = evaluation["overall"], evaluation["curves"]
        lines.append([
            "all" if shots is None else f"{shots} per label",
            len(rows),
            percent(curves["in_scope_accuracy_unrefused"]),
            percent(overall["in_scope_accuracy"]),
            percent(overall["oos_recall"]),
            "–" if overall["oos_auroc"] is None else f"{overall['oos_auroc']:.4f}",
            percent(curves["oos_recall_at_955_accuracy"]),
            f"{overall['expected_calibration_error']:.3f}",
            f"{seconds:.0f}",
        ])
        print(lines[-1], file=sys.stderr)

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    header = ["training rows", "rows", "in-scope accuracy %", "with refusals %", "OOS recall %", "OOS AUROC", "OOS recall % at 95.5 %", "ECE", "training, s"]
    table = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    options = [*flags, *(["--valid", "valid.jsonl"] if valid.exists() else []), "--dtype", "int8", "--seed", SEED]
    shown = " ".join(["intentgate train --data train.jsonl", *map(str, options), "--out model"])
    held_out = "The runs on few rows hold out validation rows of their own." if valid.exists() else "Validation rows are held out of the training rows."
    record = f"""# Retraining on {arguments.name}

{datetime.date.today()}, commit {commit}, seed {SEED}, {cpu()}, backend {evaluation["backend"]}.
Made by `benches/retrain/run.py {arguments.name} DIR`, which runs

```sh
{shown}
intentgate eval --model model --data test.jsonl
```

from `models/base` with the shipped defaults. {held_out}

""" + "\n".join("| " + " | ".join(map(str, line)) + " |" for line in table) + "\n"
    (ROOT / "benches/record" / f"{arguments.name}.md").write_text(record, encoding="utf-8")


if __name__ == "__main__":
    main()
