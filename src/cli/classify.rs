//! `intentgate classify`.

use super::{Failure, ModelArguments, backend::BackendArguments};
use clap::Args;
use intentgate::{Flow, Guard, Verdict};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Label messages.
///
/// Each TEXT is one message. Without TEXT, every line of stdin is one, an empty line too. Bytes that are not UTF-8 are
/// read as U+FFFD.
#[derive(Args)]
#[command(after_help = "Examples:
  intentgate classify \"where is my parcel?\" \"write me a poem\"
  intentgate classify --context appointment \"tomorrow at 3\"
  cat messages.txt | intentgate classify --json
  intentgate classify --jsonl log.jsonl --json     # rows like {\"text\":\"...\",\"context\":\"order\"}")]
pub struct Arguments {
    /// Messages
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    backend: BackendArguments,
    /// The flow the bot is in: order, appointment, faq or shopping_guide
    #[arg(long, value_name = "FLOW")]
    context: Option<Flow>,
    /// One JSON object per message, in order
    #[arg(long)]
    json: bool,
    /// Read JSON Lines with `text` and an optional `context`, from FILE or stdin. A row that cannot be read is answered
    /// by an object with `error`, and the exit code is 1 at the end
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", conflicts_with_all = ["texts", "context"])]
    jsonl: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    context: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    text: &'a str,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

#[derive(Serialize)]
struct Refusal {
    line: usize,
    error: String,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let guard = arguments.backend.guard(&arguments.model)?;
    let out = io::BufWriter::new(io::stdout().lock());
    let mut output = Output { guard: &guard, waiting: Vec::new(), out, json: arguments.json };
    if let Some(path) = &arguments.jsonl {
        return rows(path, &mut output);
    }
    if !arguments.texts.is_empty() {
        for text in &arguments.texts {
            output.message(arguments.context, text.clone())?;
        }
        output.answer()?;
        return Ok(ExitCode::SUCCESS);
    }
    if io::stdin().is_terminal() {
        eprintln!("One message per line; end with Ctrl-D.");
    }
    each_line(io::stdin().lock(), |_, line| {
        output.message(arguments.context, String::from_utf8_lossy(line).into_owned())
    })?;
    output.answer()?;
    Ok(ExitCode::SUCCESS)
}

fn rows(path: &Path, output: &mut Output<'_, impl Write>) -> Result<ExitCode, Failure> {
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?))
    };
    let mut code = ExitCode::SUCCESS;
    each_line(input, |line, bytes| {
        let parsed = serde_json::from_slice::<Row>(bytes).map_err(|error| error.to_string()).and_then(|row| {
            let context = row.context.as_deref().filter(|context| !context.is_empty());
            Ok((context.map(|name| name.parse::<Flow>().map_err(|error| error.to_string())).transpose()?, row.text))
        });
        match parsed {
            Ok((context, text)) => output.message(context, text),
            Err(error) => {
                code = ExitCode::FAILURE;
                output.answer()?;
                output.refusal(path, line, error)
            }
        }
    })?;
    output.answer()?;
    Ok(code)
}

/// Calls `each` with the number and the bytes of every line, without its end.
fn each_line(mut input: impl BufRead, mut each: impl FnMut(usize, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        each(number, text.strip_suffix(b"\r").unwrap_or(text))?;
    }
    Ok(())
}

struct Output<'a, W> {
    guard: &'a Guard,
    /// Messages that the guard gets together.
    waiting: Vec<(Option<Flow>, String)>,
    out: W,
    json: bool,
}

impl<W: Write> Output<'_, W> {
    fn message(&mut self, context: Option<Flow>, text: String) -> io::Result<()> {
        self.waiting.push((context, text));
        // A bot at the other end of a pipe waits for its answer: where messages need no company, each gets its own at once.
        if self.waiting.len() < self.guard.batch() { Ok(()) } else { self.answer() }
    }

    /// Answers the messages that are waiting.
    fn answer(&mut self) -> io::Result<()> {
        let messages = std::mem::take(&mut self.waiting);
        let verdicts = self.guard.check_batch(messages.iter().map(|(context, text)| (*context, text.as_str())));
        for ((_, text), verdict) in messages.iter().zip(&verdicts) {
            self.verdict(text, verdict)?;
        }
        self.out.flush()
    }

    fn verdict(&mut self, text: &str, verdict: &Verdict) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, &Answer { text, verdict })?;
            writeln!(self.out)
        } else {
            let (label, confidence) = (verdict.label().unwrap_or("-"), verdict.confidence());
            let text = super::one_line(text);
            writeln!(self.out, "{label:<15} {confidence:.2}  oos {:.2}  {text}", verdict.oos_score())
        }
    }

    fn refusal(&mut self, path: &Path, line: usize, error: String) -> io::Result<()> {
        eprintln!("{}:{line}: {error}", path.display());
        if self.json {
            serde_json::to_writer(&mut self.out, &Refusal { line, error })?;
            writeln!(self.out)?;
        } else {
            writeln!(self.out, "{:<15} {error}", "error")?;
        }
        self.out.flush()
    }
}
