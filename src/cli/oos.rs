//! `intentgate oos`.

use super::{Failure, ModelArguments};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{data, eval::tables, train};
use std::{path::PathBuf, process::ExitCode};

/// Compare out-of-scope scores of a model: class probability, energy, Mahalanobis distance, nearest neighbours.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows to fit distances to: those that the model was trained on
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    fit: Vec<PathBuf>,
    /// Rows to measure on: validation rows, other trades or languages than those of --fit
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// One JSON array on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    super::hold_candle_to_one_thread()?;
    let scores =
        train::oos_scores(&arguments.model.bundle()?, &data::load(&arguments.fit)?, &data::load(&arguments.data)?)?;
    if arguments.json {
        super::print_json(&scores, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["score", "AUROC", "false refusals % at 95 % OOS recall"]);
    for score in scores {
        table.add_row([score.name.to_owned(), format!("{:.4}", score.auroc), tables::percent(score.fpr_at_95)]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
