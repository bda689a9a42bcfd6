//! `intentgate audit export`.

use super::Failure;
use clap::Args;
use intentgate::audit::{
    Entry, Line,
    rows::{LeftOut, Review, Rows, read_corrections},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Write messages from audit logs as dataset rows, for the annotator and for retraining.
///
/// Rows are the messages near the threshold, with what the guard said as their label, to be looked at; and those that a
/// reviewer corrected. Only records that kept their text can become rows. `review` in a row says which it is, `redacted`
/// that it has placeholders to be filled, and `group` keeps a conversation in one split.
#[derive(Args)]
#[command(after_help = "Examples:
  intentgate audit export /var/log/bot-audit --out to-annotate.jsonl
  intentgate audit export /var/log/bot-audit --corrections corrected.csv --near 0 --out corrected.jsonl")]
pub struct Arguments {
    /// Directories of audit logs, or files of them
    #[arg(value_name = "LOG", required = true)]
    logs: Vec<PathBuf>,
    /// Where the rows go
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What a reviewer corrected: lines like `4711,faq`, the number of a record (`seq`) and its right label. Numbers are
    /// those of one log, so LOG must be one
    #[arg(long, value_name = "FILE")]
    corrections: Option<PathBuf>,
    /// How close an out-of-scope score is to its threshold where it is near
    #[arg(long, value_name = "DISTANCE", default_value = "0.1", value_parser = super::near)]
    near: f32,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let files = super::files(&arguments.logs)?;
    let corrections = match &arguments.corrections {
        Some(path) => {
            if files.iter().map(|file| file.parent()).collect::<BTreeSet<_>>().len() > 1 {
                return Err("corrections are of one log: name one LOG with --corrections".into());
            }
            let file = File::open(path).map_err(|error| super::cannot_read(path, &error))?;
            read_corrections(BufReader::new(file)).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => HashMap::new(),
    };
    let mut found = BTreeSet::new();
    let wanted = corrections.len();
    let mut rows = Rows::new(arguments.near, corrections);
    let partial = arguments.out.with_extension("partial");
    let cannot_write = |error| format!("cannot write {}: {error}", arguments.out.display());
    let mut out = BufWriter::new(File::create(&partial).map_err(cannot_write)?);
    let mut written = [0u64; 2];
    let mut left_out: BTreeMap<LeftOut, u64> = BTreeMap::new();
    let mut unreadable = 0u64;
    for (pass, review) in [Review::Corrected, Review::NearThreshold].into_iter().enumerate() {
        for path in &files {
            super::each_line(path, |line, read| {
                let (seq, record) = match read {
                    Ok(Line { seq, entry: Entry::Record(record) }) => (seq, record),
                    Ok(_) => return Ok(()),
                    Err(error) => {
                        if pass == 0 {
                            eprintln!("{}:{line}: {error}", path.display());
                            unreadable += 1;
                        }
                        return Ok(());
                    }
                };
                if let Some(label) = rows.correction(seq) {
                    found.insert(seq);
                    let known = record.verdict.as_ref().map(|verdict| &verdict.scores);
                    if let Some(known) = known.filter(|known| !known.is_empty() && !known.contains_key(label)) {
                        let known: Vec<&str> = known.keys().map(String::as_str).collect();
                        let place = format!("{}:{line}", path.display());
                        let known = known.join(", ");
                        return Err(format!(
                            "{place}: record {seq} is corrected to {label:?}, but its labels are {known}"
                        )
                        .into());
                    }
                }
                match rows.choose(seq, &record, review) {
                    None => {}
                    Some(Ok(row)) => {
                        written[pass] += 1;
                        serde_json::to_writer(&mut out, &row)?;
                        out.write_all(b"\n").map_err(cannot_write)?;
                    }
                    Some(Err(why)) => *left_out.entry(why).or_default() += 1,
                }
                Ok(())
            })?;
        }
    }
    out.flush().and_then(|()| fs::rename(&partial, &arguments.out)).map_err(cannot_write)?;

    let [corrected, near] = written;
    eprintln!("wrote {}: {corrected} corrected rows, {near} near the threshold", arguments.out.display());
    for (why, count) in left_out {
        let why = match why {
            LeftOut::NoText => "their text was not kept",
            LeftOut::Empty => "no visible character, or no label",
            LeftOut::Duplicate => "the same text and flow as another row",
        };
        eprintln!("left out {count}: {why}");
    }
    if found.len() < wanted {
        eprintln!("left out {}: corrections of records that are not in the log", wanted - found.len());
    }
    if unreadable > 0 {
        eprintln!("left out {unreadable}: lines that cannot be read");
    }
    Ok(if unreadable > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
