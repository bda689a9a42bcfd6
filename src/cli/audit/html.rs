//! The report as one page.

use super::{
    Failure,
    plots::{self, ACTIONS},
    report::{BY_ACTION, by_action, share, shift},
};
use crate::cli::page::{html::Page, plots::Colour};
use intentgate::{
    audit::report::{Actions, LanguageFigures, Report},
    eval::tables::percent,
};
use std::collections::BTreeMap;

/// Languages in the plot; the table has all of them.
const PLOTTED_LANGUAGES: usize = 24;

/// The page.
pub fn page(report: &Report) -> Result<String, Failure> {
    let mut page = Page::new("Audit report of the message guard");
    summary(&mut page, report);
    if report.actions.messages > 0 {
        volume(&mut page, report)?;
        subjects(&mut page, report);
        languages(&mut page, report)?;
        scores(&mut page, report)?;
        drift(&mut page, report)?;
        review(&mut page, report);
        repeated(&mut page, report);
    }
    integrity(&mut page, report);
    definitions(&mut page, report);
    Ok(page.finish())
}

fn summary(page: &mut Page, report: &Report) {
    let period = match (report.first, report.last) {
        (Some(first), Some(last)) => format!("{first} to {last} (UTC)"),
        _ => "no records".to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION");
    page.about([&*period, &format!("Made by intentgate {version}")]);
    let all = &report.actions;
    let rate = |count| format!("{} %", share(count, all.messages));
    let integrity = &report.integrity;
    let gone = integrity.missing + integrity.lost + integrity.unreadable;
    let tiles = [
        (all.messages.to_string(), "messages"),
        (rate(all.route), "answered by a flow"),
        (rate(all.ask_back), "asked back"),
        (rate(all.refuse), "refused"),
        (rate(all.hand_off), "handed to a person"),
        (report.near_threshold.to_string(), "near the threshold"),
        (gone.to_string(), "records missing, lost or unreadable"),
    ];
    page.tiles(tiles.map(|(value, name)| (value, name, String::new())));
    let models =
        report.models.iter().map(|(name, count)| [name.clone(), count.to_string(), share(*count, all.messages)]);
    page.table(["model version", "#messages", "#share %"], models);
    if report.overruled > 0 {
        let count = report.overruled;
        page.paragraph(&format!(
            "For {count} of the messages, a business profile overruled the thresholds of the model."
        ));
    }
}

fn action_legend() -> Vec<(&'static Colour, &'static str)> {
    ACTIONS.iter().zip(["answered by a flow", "asked back", "refused", "handed to a person", "not answered"]).collect()
}

/// A table of messages by action.
fn by_action_table<'a>(page: &mut Page, name: &str, all: u64, rows: impl Iterator<Item = (&'a String, &'a Actions)>) {
    let [messages, share, route, ask_back, refuse, hand_off, ignore] = BY_ACTION.map(|name| format!("#{name}"));
    let header = [name, &messages, &share, &route, &ask_back, &refuse, &hand_off, &ignore];
    page.table(header, rows.map(|(name, actions)| by_action(name, actions, all)));
}

fn volume(page: &mut Page, report: &Report) -> Result<(), Failure> {
    page.heading("Messages per day");
    page.figure(&plots::days(&report.days)?, &action_legend(), "Messages per UTC day, by what the bot did with them");
    by_action_table(page, "day", report.actions.messages, report.days.iter());
    Ok(())
}

fn counts(page: &mut Page, name: &str, counts: &BTreeMap<String, u64>, all: u64) {
    let row = |(name, count): (&String, &u64)| [name.clone(), count.to_string(), share(*count, all)];
    page.table([name, "#messages", "#share %"], counts.iter().map(row));
}

fn subjects(page: &mut Page, report: &Report) {
    page.heading("What the messages were about, and why the bot did what it did");
    counts(page, "intent", &report.intents, report.actions.messages);
    counts(page, "cause of the decision", &report.causes, report.actions.messages);
}

fn languages(page: &mut Page, report: &Report) -> Result<(), Failure> {
    page.heading("Languages");
    let all = report.actions.messages;
    let mut by_volume: Vec<(&String, &LanguageFigures)> = report.languages.iter().collect();
    by_volume.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.actions.messages));
    let plotted: Vec<(String, Actions)> = by_volume
        .iter()
        .take(PLOTTED_LANGUAGES)
        .map(|(code, figures)| (format!("{code} ({} %)", share(figures.actions.messages, all)), figures.actions))
        .collect();
    let caption = "Share of each language, and what the bot did with its messages";
    page.figure(&plots::languages(&plotted)?, &action_legend(), caption);
    by_action_table(page, "language", all, by_volume.iter().map(|(code, figures)| (*code, &figures.actions)));

    page.paragraph("What the messages of each language were about:");
    let intents: Vec<&String> = report.intents.keys().collect();
    let header =
        [&["language".to_owned()][..], &intents.iter().map(|name| format!("#{name} %")).collect::<Vec<_>>()].concat();
    let rows = by_volume.iter().map(|(code, figures)| {
        let of = |intent: &&String| share(figures.intents.get(*intent).copied().unwrap_or(0), figures.actions.messages);
        std::iter::once((*code).clone()).chain(intents.iter().map(of)).collect::<Vec<_>>()
    });
    page.table(header, rows);
    Ok(())
}

fn scores(page: &mut Page, report: &Report) -> Result<(), Failure> {
    page.heading("Out-of-scope scores");
    let legend = [(&ACTIONS[0], "up to the threshold"), (&ACTIONS[2], "above the threshold")];
    page.figure(&plots::oos_scores(&report.oos_scores)?, &legend, "Messages by out-of-scope score, from 0 to 1");
    page.paragraph(&format!("The mean is {:.3}, over {} verdicts.", report.mean_oos_score, report.verdicts));
    if let Some(stability) = &report.stability {
        let psi = stability.oos_score_psi;
        page.paragraph(&format!(
            "From the first part of the period to the last there is {} (population stability index {psi:.3}).",
            shift(psi)
        ));
        let parts = [&stability.first, &stability.last].map(|part| {
            let mean = format!("{:.3}", part.mean_oos_score);
            [part.from.clone(), part.to.clone(), part.verdicts.to_string(), mean]
        });
        page.table(["from", "to", "#verdicts", "#mean score"], parts);
    }
    Ok(())
}

fn drift(page: &mut Page, report: &Report) -> Result<(), Failure> {
    let Some(drift) = &report.drift else { return Ok(()) };
    page.heading("Against the model card");
    let other = match drift.other_models {
        0 => String::new(),
        count => format!(" {count} messages were decided by other models; they are compared all the same."),
    };
    page.paragraph(&format!(
        "Compared with the test rows on which model {} was measured.{other} Confidence: {} (population stability index \
         {:.3}). Labels: {} ({:.3}). The most probable label was right for {} % of the test rows; for these messages, {} % \
         is to be expected.",
        drift.model_version,
        shift(drift.confidence_psi),
        drift.confidence_psi,
        shift(drift.label_psi),
        drift.label_psi,
        percent(drift.accuracy),
        percent(drift.estimated_accuracy)
    ));
    let legend = [(&ACTIONS[4], "test rows"), (&ACTIONS[0], "this log")];
    page.figure(&plots::confidence(drift)?, &legend, "Share of messages by confidence, from 0 to 1");
    let rows = drift.labels.iter().map(|share| [share.name.clone(), percent(share.expected), percent(share.found)]);
    page.table(["label", "#test rows %", "#this log %"], rows);
    Ok(())
}

fn review(page: &mut Page, report: &Report) {
    page.heading("Messages to review");
    let (near, list) = (report.near_threshold, report.review.len());
    page.paragraph(&format!(
        "{near} messages ({} %) have an out-of-scope score within {} of the threshold. The nearest {list} of them:",
        share(near, report.verdicts),
        report.near
    ));
    let rows = report.review.iter().map(|near| {
        [
            near.seq.to_string(),
            near.time.to_string(),
            near.language.clone(),
            near.intent.clone().unwrap_or_else(|| "-".to_owned()),
            near.action.to_owned(),
            format!("{:.3}", near.oos_score),
            format!("{:.3}", near.threshold),
            near.text.clone().unwrap_or_else(|| "(not kept)".to_owned()),
        ]
    });
    page.table(["#record", "time", "language", "intent", "action", "#score", "#threshold", "\"text"], rows);
}

fn repeated(page: &mut Page, report: &Report) {
    page.heading("Conversations refused again and again");
    if report.repeated.is_empty() {
        return page.paragraph("No conversation had three refused messages or more.");
    }
    page.paragraph("Those with three refused messages or more, the most refused first.");
    let rows = report.repeated.iter().map(|repeated| {
        let (least, most) = (repeated.at_least, repeated.at_most);
        let count = if most > least { format!("{least} to {most}") } else { least.to_string() };
        [repeated.conversation.to_string(), count]
    });
    page.table(["conversation key", "#refused messages"], rows);
}

fn integrity(page: &mut Page, report: &Report) {
    page.heading("Is the log complete?");
    let integrity = &report.integrity;
    let rows = [
        ("files", integrity.files),
        ("lines", integrity.lines),
        ("records missing between two others", integrity.missing),
        ("records lost by the bot's own account", integrity.lost),
        ("lines out of order", integrity.out_of_order),
        ("lines that cannot be read", integrity.unreadable),
    ];
    page.table(["", "#count"], rows.map(|(name, count)| [name.to_owned(), count.to_string()]));
    if !integrity.findings.is_empty() {
        let rows = integrity.findings.iter().map(|finding| [finding.place.clone(), finding.what.clone()]);
        page.table(["place", "finding"], rows);
    }
}

fn definitions(page: &mut Page, report: &Report) {
    page.heading("Definitions");
    let near = format!(
        "The out-of-scope score is at most {} away from the threshold: a little change of words could have changed the \
         decision. The threshold is that of the message's most probable in-scope label.",
        report.near
    );
    page.definitions([
        (
            "Message",
            "One decision of the bot, with one record in the log. All shares are shares of messages, if not stated otherwise.",
        ),
        (
            "Answered by a flow, asked back, refused, handed to a person, not answered",
            "What the bot did: it let one of its business flows answer, asked which of two flows was meant, sent its uniform \
          refusal, gave the conversation to a person, or sent nothing.",
        ),
        (
            "Intent",
            "The label the guard gave: order, appointment, faq and shopping_guide are the business's matters, \
          out_of_scope is everything else. A dash stands for messages that the guard was not asked about, or that are empty.",
        ),
        (
            "Cause",
            "Why the bot decided as it did; out_of_scope and strikes are refusals for want of business matter, low_margin \
          is two labels close to each other, disabled a matter that this business does not serve.",
        ),
        (
            "Language",
            "As the guard tells it from the message alone: mul is a mixture, und is not clear, as for a bare number; a \
          dash stands for messages that the guard was not asked about.",
        ),
        (
            "Out-of-scope score",
            "From 0 (clearly the business's matter) to 1 (clearly not). A message is refused when its score \
          is above the threshold.",
        ),
        ("Near the threshold", &near),
        ("Confidence", "The highest of the label probabilities, before thresholds, from 0 to 1."),
        (
            "Population stability index",
            "How far two distributions differ: the sum over bins of (q − p) ln(q / p). Below 0.1 is \
          usually taken as no shift, above 0.25 as a clear one. A shift says that customers write about other things or in \
          another way than before, not that the guard is wrong.",
        ),
        (
            "Expected share of right labels",
            "What the share would be if messages of one confidence were right as often as the \
          test rows of that confidence. Nobody has checked the messages themselves.",
        ),
        (
            "Conversation key",
            "A keyed hash of the customer's number or id. The same customer has the same key; without the \
          secret, nobody can tell who it is.",
        ),
        (
            "Missing, lost, unreadable",
            "Records are numbered. Missing: a number between two others is not there. Lost: the bot \
          noted itself that it could not write records, since its queue or the disk was full. Unreadable: a line is damaged. \
          Out of order: a number is not above the one before, as when a file is given twice.",
        ),
    ]);
}
