//! A process that writes an audit log is killed, over and over; nothing it acknowledged may be missing.
//!
//! This test program starts itself again as the process to kill.
#![cfg(all(unix, feature = "policy"))]

use intentgate::{
    Flow, Reason,
    audit::{
        self, Entry, Flush, Key, Log, LogOptions, Reader, Record, RecordedDecision, RecordedVerdict, Timestamp,
        TornLine,
    },
    policy::{Action, Cause},
};
use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

const ROUNDS: u64 = 100;
/// Rounds that go on in one directory, so that a log is reopened after more than one kill and stays small.
const ROUNDS_PER_LOG: u64 = 5;
const DIRECTORY: &str = "INTENTGATE_AUDIT_KILL_DIRECTORY";

/// Small files, so that kills fall into rotations as well.
const OPTIONS: LogOptions = LogOptions { max_file_bytes: 50_000, flush: Flush::Every(64) };

/// A text of a length that follows from the number.
fn text(seq: u64) -> String {
    let length = if seq.is_multiple_of(50) { 20_000 } else { seq % 97 };
    "x".repeat(length as usize)
}

fn record(seq: u64) -> Record {
    Record {
        // Some hundred records a day: files change by day, too.
        time: Timestamp::from_unix_ms(seq * 600_000),
        conversation: Key::new(&[1; 16]).unwrap().conversation("someone"),
        flow: Some(Flow::Order),
        text: Some(text(seq)),
        redacted: false,
        verdict: Some(RecordedVerdict {
            intent: Some("order".into()),
            scores: [("order".to_owned(), 0.75), ("out_of_scope".to_owned(), 0.25)].into(),
            oos_score: 0.25,
            threshold: Some(0.5),
            margin: 0.5,
            reason: Reason::Confident,
            language: "en".into(),
        }),
        decision: RecordedDecision { action: Action::Route { flow: Flow::Order }, cause: Cause::Confident },
        thresholds: BTreeMap::new(),
        profile_thresholds: None,
        model_version: "test".into(),
        micros: None,
    }
}

/// Not a test but the process to be killed: appends for ever and prints each number once it is acknowledged.
#[test]
fn writes_until_it_is_killed() {
    let Some(dir) = env::var_os(DIRECTORY) else { return };
    let (mut log, _) = Log::open(dir, OPTIONS).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        let seq = log.append(&record(log.last_seq() + 1)).unwrap();
        out.write_all(format!("ack {seq}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn everything_acknowledged_survives_a_kill() {
    let parent = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut torn_lines, mut records) = (0, 0, 0);
    for round in 0..ROUNDS {
        let dir = parent.path().join((round / ROUNDS_PER_LOG).to_string());
        if round % ROUNDS_PER_LOG == 0 {
            acknowledged = 0;
        }
        acknowledged = acknowledged.max(write_and_kill(&dir, round));
        let torn = torn_tail(&dir, round.is_multiple_of(3));
        let (log, found) = Log::open(&dir, OPTIONS).unwrap();
        assert_eq!(found, torn, "round {round}: what is dropped is what had no end");
        torn_lines += u64::from(torn.is_some());
        let written = check(&dir);
        assert!(written >= acknowledged, "round {round}: {acknowledged} acknowledged, {written} written");
        assert_eq!(written, log.last_seq());
        records = written;
    }
    println!("{ROUNDS} kills, {torn_lines} torn lines, {records} records in the last log");
    assert!(torn_lines >= ROUNDS / 3 && records > 0, "the killed process never wrote anything");
}

/// Returns the highest number that the process had acknowledged when it was killed.
fn write_and_kill(dir: &Path, round: u64) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "writes_until_it_is_killed", "--nocapture", "--test-threads", "1"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let first = loop {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the process ended by itself");
        if let Some(seq) = line.trim_end().strip_prefix("ack ") {
            break seq.parse().unwrap();
        }
    };
    // Anywhere within some records, by the clock: the kill is to fall where nobody planned it.
    let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let killer = thread::spawn(move || {
        thread::sleep(Duration::from_nanos(u64::from(nanos) * 7919 % ((1 + round % 8) * 2_000_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    killer.join().unwrap();
    let rest = String::from_utf8(rest).unwrap();
    // A number that the kill cut short has no line end.
    let whole = rest.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.strip_prefix("ack ")?.parse().ok()).fold(first, u64::max)
}

/// What stands behind the last line end of the newest file, found without the library.
///
/// Kills seldom fall into the one system call that writes a line. Where this one did not and `tear` asks for it, a part
/// of a line is put there, as such a kill leaves it.
fn torn_tail(dir: &Path, tear: bool) -> Option<TornLine> {
    let file = audit::files(&[dir]).unwrap().pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    if tear && bytes.last().is_none_or(|&last| last == b'\n') {
        bytes.extend(br#"{"v":1,"seq":99999,"time":"1970"#);
        fs::write(&file, &bytes).unwrap();
    }
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
    (whole < bytes.len()).then(|| TornLine { file, bytes: (bytes.len() - whole) as u64 })
}

/// Every line is the record of its number, and no number is missing. Returns the last.
fn check(dir: &Path) -> u64 {
    let mut last = 0;
    for path in audit::files(&[dir]).unwrap() {
        for line in Reader::new(BufReader::new(File::open(PathBuf::from(&path)).unwrap())) {
            let line = line.unwrap().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(line.seq, last + 1);
            last = line.seq;
            assert!(matches!(&line.entry, Entry::Record(found) if **found == record(line.seq)), "record {}", line.seq);
        }
    }
    last
}
