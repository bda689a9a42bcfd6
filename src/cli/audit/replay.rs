//! `intentgate audit replay`.

use super::{
    super::{ModelArguments, one_line, print_json},
    Failure,
};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{
    audit::{
        Entry, Line,
        replay::{Moves, Replay, ReplayReport},
    },
    eval::tables::percent,
    policy::{Policy, Profile},
};
use std::{path::PathBuf, process::ExitCode};

/// Show what another model would have said of the messages in audit logs, or another profile done with them.
///
/// Only records that kept their text can be replayed. A redacted text may get another label even from the same model. With a
/// profile, logs are read from the oldest record to the newest.
#[derive(Args)]
#[command(after_help = "Example:
  intentgate audit replay /var/log/bot-audit --model my-next-model
  intentgate audit replay /var/log/bot-audit --profile my-next-shop.toml")]
pub struct Arguments {
    /// Directories of audit logs, or files of them
    #[arg(value_name = "LOG", required = true)]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Decide by this profile, and compare what the bot does rather than what the model says
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Most messages to list of those that change, the furthest moved score first
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
    /// Everything as one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let files = super::files(&arguments.logs)?;
    let guard = arguments.model.guard()?;
    let policy = arguments.profile.as_ref().map(Profile::from_file).transpose()?.map(Policy::new).transpose()?;
    let mut replay = Replay::new(&guard, policy.as_ref(), arguments.list);
    let mut code = ExitCode::SUCCESS;
    for path in &files {
        super::each_line(path, |line, read| {
            match read {
                Ok(Line { entry: Entry::Record(record), .. }) => {
                    replay.add(&record, || format!("{}:{line}", path.display()));
                }
                Ok(_) => {}
                Err(error) => {
                    eprintln!("{}:{line}: {error}", path.display());
                    code = ExitCode::FAILURE;
                }
            }
            Ok(())
        })?;
    }
    let report = replay.finish();
    if arguments.json {
        print_json(&report, true)?;
    } else {
        print(&report);
    }
    Ok(code)
}

fn print(report: &ReplayReport) {
    let share = |part: u64| percent((report.replayed > 0).then(|| part as f64 / report.replayed as f64));
    println!(
        "model {} on {} of {} records ({} have no text, {} no verdict), {} of them redacted\n",
        report.model_version,
        report.replayed,
        report.records,
        report.without_text,
        report.without_verdict,
        report.redacted
    );
    println!("{} would get the same label ({} %)", report.same, share(report.same));
    println!(
        "out of scope: {} before ({} %), {} now ({} %)",
        report.out_of_scope_from,
        share(report.out_of_scope_from),
        report.out_of_scope_to,
        share(report.out_of_scope_to)
    );
    print_moves(&report.changes, &share);
    if let Some(same) = report.same_action {
        println!("{same} would get the same action ({} %)", share(same));
        print_moves(&report.actions, &share);
    }
    for change in &report.listed {
        println!(
            "{} -> {}, oos {:.2} -> {:.2}: {} ({})",
            one_line(&change.from),
            one_line(&change.to),
            change.oos_score_from,
            change.oos_score_to,
            one_line(&change.text),
            change.place
        );
    }
}

fn print_moves(moves: &Moves, share: &dyn Fn(u64) -> String) {
    if moves.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["from", "to", "messages", "share %"]);
    for (from, to) in moves {
        for (to, &count) in to {
            table.add_row([one_line(from), one_line(to), count.to_string(), share(count)]);
        }
    }
    println!("{table}");
}
