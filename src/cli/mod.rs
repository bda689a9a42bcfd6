//! Arguments, progress bars and printing; all the work is in the library.

mod audit;
mod backend;
mod bench;
mod card;
mod classify;
mod data;
mod device;
#[cfg(feature = "train")]
mod distill;
#[cfg(feature = "train")]
mod doubt;
mod eval;
mod export;
mod measured;
#[cfg(feature = "train")]
mod oos;
mod pack;
mod page;
#[cfg(feature = "train")]
mod probe;
mod report;
#[cfg(feature = "train")]
mod train;
mod tune;
#[cfg(feature = "train")]
mod vocab;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use intentgate::{Bundle, Guard, LoadError, guard::FILES};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Tells whether a customer's message is the business's business: order, appointment, faq, shopping_guide or
/// out_of_scope. Runs on this machine; calls nothing.
///
/// Results go to stdout, everything else to stderr. Exit codes: 0 all went well, 1 something in the input or the model is
/// wrong, 2 the arguments are.
#[derive(Parser)]
#[command(version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Classify(classify::Arguments),
    #[cfg(feature = "train")]
    Train(train::Arguments),
    #[cfg(feature = "train")]
    Distill(distill::Arguments),
    Eval(eval::Arguments),
    Tune(tune::Arguments),
    Bench(bench::Arguments),
    /// Look into datasets.
    #[command(subcommand)]
    Data(data::Command),
    #[cfg(feature = "train")]
    Oos(oos::Arguments),
    #[cfg(feature = "train")]
    Vocab(vocab::Arguments),
    Pack(pack::Arguments),
    Export(export::Arguments),
    #[cfg(feature = "train")]
    Doubt(doubt::Arguments),
    #[cfg(feature = "train")]
    Probe(probe::Arguments),
    Card(card::Arguments),
    Report(report::Arguments),
    /// Read audit logs.
    #[command(subcommand)]
    Audit(audit::Command),
}

/// Any error, with what it was about. The command prints it and returns 1.
type Failure = Box<dyn std::error::Error>;

pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Classify(arguments) => classify::run(&arguments),
        #[cfg(feature = "train")]
        Command::Train(arguments) => train::run(&arguments),
        #[cfg(feature = "train")]
        Command::Distill(arguments) => distill::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Data(command) => data::run(&command),
        #[cfg(feature = "train")]
        Command::Oos(arguments) => oos::run(&arguments),
        #[cfg(feature = "train")]
        Command::Vocab(arguments) => vocab::run(&arguments),
        Command::Pack(arguments) => pack::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        #[cfg(feature = "train")]
        Command::Doubt(arguments) => doubt::run(&arguments),
        #[cfg(feature = "train")]
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Card(arguments) => card::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Audit(command) => audit::run(&command),
    };
    match result {
        Ok(code) => code,
        // Whoever reads our output has heard enough, as in `intentgate classify | head`.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Bytes of a packed model, or of the files of a model directory.
fn model_size(path: &Path) -> u64 {
    let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if path.is_file() { size(path.to_owned()) } else { FILES.iter().map(|name| size(path.join(name))).sum() }
}

/// Which model to use.
#[derive(Args)]
struct ModelArguments {
    /// Model directory, or a file made by `intentgate pack` [default: the model inside this program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

impl ModelArguments {
    fn bundle(&self) -> Result<Bundle<'static>, LoadError> {
        match &self.model {
            Some(path) if path.is_file() => Err(LoadError::Backend(format!(
                "{} is packed for the native engine: this command needs the model directory",
                path.display()
            ))),
            Some(path) => Bundle::from_dir(path),
            #[cfg(feature = "embedded")]
            None => Ok(Bundle::embedded()),
            #[cfg(not(feature = "embedded"))]
            None => Err(LoadError::Backend("this program was built without a model: name one with --model".into())),
        }
    }

    /// Bytes of the model's files; `None` for the one inside this program.
    fn size(&self) -> Option<u64> {
        self.model.as_deref().map(model_size)
    }

    fn guard(&self) -> Result<Guard, LoadError> {
        match &self.model {
            Some(path) if path.is_file() => {
                Guard::from_bytes(std::fs::read(path).map_err(|source| LoadError::Io { path: path.clone(), source })?)
            }
            _ => Guard::from_bundle(&self.bundle()?),
        }
    }
}

/// Starts this program anew with candle held to one thread, unless the user has set how many it may use.
///
/// candle spreads even small products over all cores, which costs more than it gains; training splits its batches over
/// threads itself, and a latency is measured on one core. candle reads the number from the environment. So does glibc
/// how it is to handle large blocks: by default it gives every tensor back to the system and asks for fresh pages, which
/// takes a third of a training step.
#[cfg(feature = "train")]
fn hold_candle_to_one_thread() -> Result<(), Failure> {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_some() {
        return Ok(());
    }
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1");
    command.env("MALLOC_MMAP_THRESHOLD_", "1073741824").env("MALLOC_TRIM_THRESHOLD_", "1073741824");
    #[cfg(unix)]
    return Err(std::os::unix::process::CommandExt::exec(&mut command).into());
    #[cfg(not(unix))]
    std::process::exit(command.status()?.code().unwrap_or(1));
}

/// A bar on stderr with rate and time left; hidden where stderr is no terminal.
fn progress_bar(len: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len} {per_sec} {eta} left {msg}");
    ProgressBar::new(len as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        .with_prefix(what.to_owned())
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    Ok(std::fs::write(path, content).map_err(|error| format!("cannot write {}: {error}", path.display()))?)
}

/// Writes `json` and a line end to stdout.
fn print_json(json: &impl serde::Serialize, pretty: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if pretty { serde_json::to_writer_pretty(&mut out, json) } else { serde_json::to_writer(&mut out, json) }
        .map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// A message on one line of a terminal: line ends and other controls become spaces, everything else stays readable.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
