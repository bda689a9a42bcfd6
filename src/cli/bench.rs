//! `intentgate bench`: latency of a guard, message by message.

use super::{Failure, ModelArguments};
use clap::{Args, ValueEnum};
use intentgate::{Flow, Guard, data};
use serde::{Deserialize, Serialize};
use std::{fmt::Write as _, fs, hint::black_box, path::PathBuf, process::ExitCode, time::Instant};

/// Messages for a run without --data: of all lengths, in the shipped languages.
const MESSAGES: &str = include_str!("bench_messages.txt");
/// Messages before the clock starts: caches fill, the processor wakes up.
const WARM_UP: usize = 500;

/// Measure latency from message to verdict: normalise, tokenise, forward pass, decide.
///
/// One thread, one message at a time, distinct messages in rotation, nothing cached. The candle backend is
/// candle-transformers' BertModel in f32 on the same weights.
#[derive(Args)]
pub struct Arguments {
    /// Messages: files or directories of .jsonl files [default: messages inside this program]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// What computes
    #[arg(long, default_value = "native")]
    backend: BackendKind,
    /// Measure about this long, but every message once at least
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// The record as JSON
    #[arg(long)]
    json: bool,
}

/// What computes the logits.
#[derive(Clone, Copy, ValueEnum)]
pub enum BackendKind {
    /// The engine of this crate
    Native,
    /// candle-transformers' BertModel, f32
    Candle,
}

impl BackendKind {
    pub fn guard(self, model: &ModelArguments) -> Result<Guard, Failure> {
        match self {
            BackendKind::Native => Ok(model.guard()?),
            #[cfg(feature = "train")]
            BackendKind::Candle => {
                super::hold_candle_to_one_thread()?;
                Ok(Guard::with_backend(&model.bundle()?, |config, weights| {
                    Ok(Box::new(intentgate::model::Reference::load(config, weights, &candle_core::Device::Cpu)?))
                })?)
            }
            #[cfg(not(feature = "train"))]
            BackendKind::Candle => {
                Err("this program was built without candle: build it with the feature `train`".into())
            }
        }
    }
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
}

#[derive(Serialize, Deserialize)]
struct ByTokens {
    from: usize,
    to: usize,
    calls: usize,
    p50_us: f64,
    // Records made before these were measured are still read.
    #[serde(default)]
    p90_us: f64,
    #[serde(default)]
    p99_us: f64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let guard = arguments.backend.guard(&arguments.model)?;
    let messages: Vec<(Option<Flow>, String)> = if arguments.data.is_empty() {
        MESSAGES.lines().map(|line| (None, line.to_owned())).collect()
    } else {
        data::load(&arguments.data)?.into_iter().map(|row| (row.context, row.text)).collect()
    };
    let record = measure(&guard, &messages, arguments.seconds);
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
            let start = Instant::now();
            black_box(guard.check_message(*flow, black_box(text)));
            times.push((tokens, start.elapsed().as_secs_f64() * 1e6));
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
    }
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
    }
    out
}
