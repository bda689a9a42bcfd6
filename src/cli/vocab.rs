//! `intentgate vocab`.

use super::Failure;
use clap::Args;
use intentgate::{data, train};
use std::{fs, path::PathBuf, process::ExitCode};

/// Cut a small vocabulary from a large Unigram tokenizer, by what texts use of it.
#[derive(Args)]
pub struct Arguments {
    /// The tokenizer.json to cut from, such as that of multilingual-e5-small
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Text files (.txt, .gz) or datasets (.jsonl, .csv, .tsv), or directories of datasets
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Pieces to keep, special tokens included
    #[arg(long, default_value_t = 32_768)]
    size: usize,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let tokenizer = fs::read(&arguments.tokenizer)
        .map_err(|error| format!("cannot read {}: {error}", arguments.tokenizer.display()))?;
    let files = data::files(&arguments.text)?;
    let bar = super::progress_bar(files.len(), "reading");
    let corpora = files
        .iter()
        .map(|file| {
            bar.inc(1);
            Ok(train::texts(file)?.into_iter().map(|(_, text)| text).collect())
        })
        .collect::<Result<Vec<Vec<String>>, data::DataError>>()?;
    bar.finish_and_clear();
    let (json, report) = train::prune(&tokenizer, &corpora, arguments.size)?;
    super::write(&arguments.out, &json)?;
    eprintln!(
        "{}: {} pieces, {} of them single characters; {:.2} tokens a text before, {:.2} after; {:.3} % unknown",
        arguments.out.display(),
        report.pieces,
        report.characters,
        report.tokens_before,
        report.tokens_after,
        100.0 * report.unknown
    );
    Ok(ExitCode::SUCCESS)
}
