//! `intentgate bench`: latency of a guard, message by message.

use super::{Failure, ModelArguments, backend::BackendArguments};
use clap::Args;
use intentgate::{Flow, Guard, data};
use serde::{Deserialize, Serialize};
use std::{fmt::Write as _, fs, hint::black_box, path::PathBuf, process::ExitCode, time::Instant};

/// Messages for a run without --data: of all lengths, in the shipped languages.
const MESSAGES: &str = include_str!("bench_messages.txt");
/// Messages before the clock starts: caches fill, the processor wakes up.
const WARM_UP: usize = 500;
/// Lengths of the long messages that are measured apart, in characters.
const LONG: [usize; 2] = [512, 4096];
/// Distinct messages of each of these lengths.
const LONG_MESSAGES: usize = 100;

/// Measure latency from message to verdict: normalise, tokenise, forward pass, decide.
///
/// One thread, one message at a time, distinct messages in rotation, nothing cached. Then long messages, joined from the
/// others, and with --threads how many messages several threads check on one guard. The candle backend is
/// candle-transformers' BertModel in f32 on the same weights.
#[derive(Args)]
pub struct Arguments {
    /// Messages: .jsonl, .csv or .tsv files, or directories of them [default: messages inside this program]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    backend: BackendArguments,
    /// Measure about this long, but every message once at least
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Measure also how many messages so many threads check together
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// The record as JSON
    #[arg(long)]
    json: bool,
}

/// A benchmark record; times are of whole messages, in microseconds.
#[derive(Serialize, Deserialize)]
pub struct Record {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    messages_per_second: f64,
    /// Calls timed.
    calls: usize,
    /// Distinct messages.
    messages: usize,
    mean_tokens: f64,
    median_tokens: usize,
    /// Latency of messages by number of tokens.
    by_tokens: Vec<ByTokens>,
    backend: String,
    instruction_set: String,
    model_version: String,
    cpu: String,
    threads: usize,
    version: String,
    // Records made before these were measured are still read.
    /// From the model's files in memory to a guard that is ready.
    #[serde(default)]
    load_ms: f64,
    #[serde(default)]
    long: Vec<Long>,
    /// On all of several threads together.
    #[serde(default)]
    shared: Option<Shared>,
}

#[derive(Serialize, Deserialize)]
struct Long {
    characters: usize,
    calls: usize,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

#[derive(Serialize, Deserialize)]
struct Shared {
    threads: usize,
    messages_per_second: f64,
}

#[derive(Serialize, Deserialize)]
struct ByTokens {
    from: usize,
    to: usize,
    calls: usize,
    p50_us: f64,
    #[serde(default)]
    p90_us: f64,
    #[serde(default)]
    p99_us: f64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    // Twice: the first time reads the files.
    arguments.backend.guard(&arguments.model)?;
    let start = Instant::now();
    let guard = arguments.backend.guard(&arguments.model)?;
    let load_ms = (start.elapsed().as_secs_f64() * 1e5).round() / 100.0;
    let messages: Vec<(Option<Flow>, String)> = if arguments.data.is_empty() {
        MESSAGES.lines().map(|line| (None, line.to_owned())).collect()
    } else {
        data::load(&arguments.data)?.into_iter().map(|row| (row.context, row.text)).collect()
    };
    let mut record = measure(&guard, &messages, arguments.seconds);
    record.load_ms = load_ms;
    record.long = LONG.iter().map(|&length| measure_long(&guard, &messages, length, arguments.seconds / 5.0)).collect();
    if arguments.threads > 1 {
        record.shared = Some(measure_shared(&guard, &messages, arguments.threads, arguments.seconds));
    }
    if arguments.json {
        super::print_json(&record, true)?
    } else {
        print(&record)
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(guard: &Guard, messages: &[(Option<Flow>, String)], seconds: f64) -> Record {
    let tokens: Vec<usize> = messages.iter().map(|(flow, text)| guard.token_ids(*flow, text).len()).collect();
    for (flow, text) in messages.iter().cycle().take(WARM_UP.min(4 * messages.len())) {
        black_box(guard.check_message(*flow, black_box(text)));
    }
    let mut times: Vec<(usize, f64)> = Vec::new();
    let began = Instant::now();
    while times.is_empty() || began.elapsed().as_secs_f64() < seconds {
        for ((flow, text), &tokens) in messages.iter().zip(&tokens) {
            times.push((tokens, time(guard, *flow, text)));
        }
    }
    let total: f64 = times.iter().map(|(_, time)| time).sum();
    let mut sorted: Vec<f64> = times.iter().map(|&(_, time)| time).collect();
    sorted.sort_by(f64::total_cmp);
    let by_tokens = [(1, 8), (9, 16), (17, 32), (33, 64), (65, usize::MAX)]
        .into_iter()
        .filter_map(|(from, to)| {
            let mut own: Vec<f64> =
                times.iter().filter(|(tokens, _)| (from..=to).contains(tokens)).map(|&(_, time)| time).collect();
            own.sort_by(f64::total_cmp);
            let to = to.min(tokens.iter().copied().max().unwrap_or(to));
            (!own.is_empty()).then(|| {
                let [p50_us, p90_us, p99_us] = [0.5, 0.9, 0.99].map(|share| quantile(&own, share));
                ByTokens { from, to, calls: own.len(), p50_us, p90_us, p99_us }
            })
        })
        .collect();
    let mut ordered = tokens.clone();
    ordered.sort_unstable();
    let backend = guard.backend();
    Record {
        p50_us: quantile(&sorted, 0.5),
        p90_us: quantile(&sorted, 0.9),
        p99_us: quantile(&sorted, 0.99),
        p999_us: quantile(&sorted, 0.999),
        max_us: quantile(&sorted, 1.0),
        messages_per_second: times.len() as f64 / total * 1e6,
        calls: times.len(),
        messages: messages.len(),
        mean_tokens: tokens.iter().sum::<usize>() as f64 / tokens.len() as f64,
        median_tokens: ordered[ordered.len() / 2],
        by_tokens,
        instruction_set: intentgate::engine::Isa::detect().to_string(),
        backend,
        model_version: guard.config().model_version.clone(),
        cpu: cpu(),
        threads: 1,
        version: env!("CARGO_PKG_VERSION").into(),
        load_ms: 0.0,
        long: Vec::new(),
        shared: None,
    }
}

/// Microseconds from a message to its verdict.
fn time(guard: &Guard, flow: Option<Flow>, text: &str) -> f64 {
    let start = Instant::now();
    black_box(guard.check_message(flow, black_box(text)));
    start.elapsed().as_secs_f64() * 1e6
}

fn measure_long(guard: &Guard, messages: &[(Option<Flow>, String)], characters: usize, seconds: f64) -> Long {
    let mut all = messages.iter().cycle().flat_map(|(_, text)| text.chars().chain([' ']));
    let long: Vec<String> = (0..LONG_MESSAGES).map(|_| all.by_ref().take(characters).collect()).collect();
    time(guard, None, &long[0]);
    let mut times = Vec::new();
    let began = Instant::now();
    while times.is_empty() || began.elapsed().as_secs_f64() < seconds {
        times.extend(long.iter().map(|text| time(guard, None, text)));
    }
    times.sort_by(f64::total_cmp);
    let [p50_us, p99_us, p999_us] = [0.5, 0.99, 0.999].map(|share| quantile(&times, share));
    Long { characters, calls: times.len(), p50_us, p99_us, p999_us }
}

fn measure_shared(guard: &Guard, messages: &[(Option<Flow>, String)], threads: usize, seconds: f64) -> Shared {
    let began = Instant::now();
    let checked: usize = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let mut checked = 0;
            // Each begins elsewhere, so that they are not at the same message.
            for (flow, text) in messages.iter().cycle().skip(thread * messages.len() / threads) {
                black_box(guard.check_message(*flow, black_box(text)));
                checked += 1;
                if began.elapsed().as_secs_f64() >= seconds {
                    break;
                }
            }
            checked
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    });
    let messages_per_second = (checked as f64 / began.elapsed().as_secs_f64()).round();
    Shared { threads, messages_per_second }
}

/// The value that a share of `sorted` is not above.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (share * sorted.len() as f64).ceil() as usize;
    (sorted[at.clamp(1, sorted.len()) - 1] * 100.0).round() / 100.0
}

/// The name of the processor, where the system tells.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.split_once(':')).map(|(_, value)| value.trim())
    };
    match (field("model name"), field("cpu MHz")) {
        (Some(name), Some(mhz)) => format!("{name}, {mhz} MHz"),
        (Some(name), None) => name.to_owned(),
        _ => std::env::consts::ARCH.to_owned(),
    }
}

fn print(record: &Record) {
    println!("{} on {}, 1 thread, model {}", record.backend, record.cpu, record.model_version);
    println!(
        "{} calls over {} messages of {:.1} tokens on average: {:.0} messages per second",
        record.calls, record.messages, record.mean_tokens, record.messages_per_second
    );
    let Record { p50_us, p90_us, p99_us, p999_us, max_us, .. } = record;
    println!("per message in µs: p50 {p50_us}  p90 {p90_us}  p99 {p99_us}  p99.9 {p999_us}  max {max_us}");
    for ByTokens { from, to, calls, p50_us, .. } in &record.by_tokens {
        println!("  {from} to {to} tokens: p50 {p50_us} ({calls} calls)");
    }
    for Long { characters, calls, p50_us, p99_us, p999_us } in &record.long {
        println!("  {characters} characters: p50 {p50_us}  p99 {p99_us}  p99.9 {p999_us} ({calls} calls)");
    }
    if let Some(Shared { threads, messages_per_second }) = record.shared {
        println!("on {threads} threads: {messages_per_second:.0} messages per second");
    }
    println!("loaded in {} ms", record.load_ms);
}

/// Records side by side as a Markdown table.
pub fn markdown(records: &[Record]) -> String {
    let mut out =
        String::from("| backend | p50 µs | p90 | p99 | p99.9 | messages/s | CPU |\n|---|---:|---:|---:|---:|---:|---|");
    for r in records {
        let (p50, p90, p99, p999) = (r.p50_us, r.p90_us, r.p99_us, r.p999_us);
        let _ = write!(
            out,
            "\n| {} | {p50:.0} | {p90:.0} | {p99:.0} | {p999:.0} | {:.0} | {} |",
            r.backend, r.messages_per_second, r.cpu
        );
    }
    if let Some(r) = records.first() {
        let _ = write!(
            out,
            "\n\nModel {}, {} distinct messages, {:.1} tokens on average (median {}), one thread.",
            r.model_version, r.messages, r.mean_tokens, r.median_tokens
        );
        for Long { characters, p50_us, p999_us, .. } in &r.long {
            let _ = write!(out, " A message of {characters} characters: p50 {p50_us:.0} µs, p99.9 {p999_us:.0}.");
        }
        if let Some(Shared { threads, messages_per_second }) = r.shared {
            let _ = write!(out, " On {threads} threads: {messages_per_second:.0} messages/s.");
        }
        if r.load_ms > 0.0 {
            let _ = write!(out, " Loaded in {:.0} ms.", r.load_ms);
        }
    }
    out
}
