//! Figures over a log of any length, in bounded memory.

use super::{ConversationKey, Entry, Line, LineError, Record, Timestamp, frequent::Frequent, top::Top};
use crate::{
    eval::Evaluation,
    policy::{Action, Cause},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
};

/// Names told apart of labels, languages and models, and days. What comes on top, as it can where a log was tampered
/// with, is counted as [`OTHER`].
const MOST_NAMES: usize = 256;
const MOST_DAYS: usize = 4096;
const OTHER: &str = "(other)";
/// Conversations counted at a time in search of those that are refused most.
const MOST_CONVERSATIONS: usize = 20_000;
/// Refused messages from which on a conversation is listed.
const REPEATED: u64 = 3;
/// Bins of OOS scores.
pub const OOS_BINS: usize = 20;
/// Bins of confidence, those of [`Evaluation::calibration`].
pub const CONFIDENCE_BINS: usize = 15;
/// Verdicts that a log, or each part of it, must have to be compared: with fewer, chance alone looks like a shift.
const ENOUGH: u64 = 100;

/// What goes into a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReportOptions {
    /// A message is near the threshold when its OOS score is this close to it, 0 to 1.
    pub near: f32,
    /// Most items to list of each kind.
    pub list: usize,
}

/// Messages by what was done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Actions {
    /// All of them.
    pub messages: u64,
    /// Answered by a flow.
    pub route: u64,
    /// The customer was asked which of two flows was meant.
    pub ask_back: u64,
    /// Refused.
    pub refuse: u64,
    /// Handed to a person.
    pub hand_off: u64,
    /// Not answered.
    pub ignore: u64,
}

impl Actions {
    /// Names of the actions, in the order of [`Actions::counts`].
    pub const NAMES: [&str; 5] = ["route", "ask_back", "refuse", "hand_off", "ignore"];

    fn add(&mut self, action: Action) {
        self.messages += 1;
        *match action {
            Action::Route { .. } => &mut self.route,
            Action::AskBack { .. } => &mut self.ask_back,
            Action::Refuse { .. } => &mut self.refuse,
            Action::HandOff => &mut self.hand_off,
            Action::Ignore => &mut self.ignore,
        } += 1;
    }

    /// How many messages each action got.
    pub fn counts(&self) -> [u64; 5] {
        [self.route, self.ask_back, self.refuse, self.hand_off, self.ignore]
    }
}

/// The messages of one language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LanguageFigures {
    /// By action.
    #[serde(flatten)]
    pub actions: Actions,
    /// By label.
    pub intents: BTreeMap<String, u64>,
}

/// Verdicts whose OOS score lies in one bin of equal width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OosBin {
    /// Up to their threshold: the guard let them through.
    pub accepted: u64,
    /// Above it.
    pub refused: u64,
}

/// The verdicts of some days.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// The first day.
    pub from: String,
    /// The last day.
    pub to: String,
    /// Verdicts.
    pub verdicts: u64,
    /// Their mean OOS score.
    pub mean_oos_score: f64,
}

/// How the OOS scores moved from the first half of the log to the last, in whole days.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stability {
    /// Until half of the verdicts were made.
    pub first: Part,
    /// From then on.
    pub last: Part,
    /// Population stability index of the OOS scores in ten bins.
    pub oos_score_psi: f64,
}

/// A share on the model card and in the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Of what.
    pub name: String,
    /// Among the test rows of the evaluation.
    pub expected: f64,
    /// In the log.
    pub found: f64,
}

/// How the log differs from the evaluation of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The model that was evaluated.
    pub model_version: String,
    /// Messages in the log that other models decided. They are compared all the same.
    pub other_models: u64,
    /// Final labels.
    pub labels: Vec<Share>,
    /// Population stability index of the labels.
    pub label_psi: f64,
    /// Highest probability before thresholds, in bins of equal width.
    pub confidence: Vec<Share>,
    /// Population stability index of the confidence.
    pub confidence_psi: f64,
    /// Share of test rows whose most probable label is right.
    pub accuracy: f64,
    /// The same for the log, if verdicts of one confidence are right as often as they were on the test rows.
    pub estimated_accuracy: f64,
}

/// A message that could as well have been decided the other way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearThreshold {
    /// `file:line`.
    pub place: String,
    /// Its number.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// Who, as a key.
    pub conversation: ConversationKey,
    /// What the guard said.
    pub intent: Option<String>,
    /// The language.
    pub language: String,
    /// The OOS score.
    pub oos_score: f32,
    /// The threshold.
    pub threshold: f32,
    /// What was done.
    pub action: &'static str,
    /// The text, where it was kept.
    pub text: Option<String>,
}

/// A conversation in which messages were refused again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// Which.
    pub conversation: ConversationKey,
    /// Refused messages, at least.
    pub at_least: u64,
    /// At most; more than `at_least` only where the log has more conversations than can be counted at a time.
    pub at_most: u64,
}

/// A place in a log where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `file:line`.
    pub place: String,
    /// What.
    pub what: String,
}

/// Whether the log is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Integrity {
    /// Files read.
    pub files: u64,
    /// Lines that could be read.
    pub lines: u64,
    /// Numbers that are missing between two lines of one directory.
    pub missing: u64,
    /// Lines whose number is not above that of the line before, as where a file was read twice.
    pub out_of_order: u64,
    /// Records that the bot could not write, by its own account.
    pub lost: u64,
    /// Lines that cannot be read.
    pub unreadable: u64,
    /// Where; not all of them where there are many.
    pub findings: Vec<Finding>,
}

/// What `intentgate audit report` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The earliest record.
    pub first: Option<Timestamp>,
    /// The latest.
    pub last: Option<Timestamp>,
    /// All messages.
    pub actions: Actions,
    /// By cause.
    pub causes: BTreeMap<String, u64>,
    /// By final label; `-` for messages without one.
    pub intents: BTreeMap<String, u64>,
    /// By UTC day.
    pub days: BTreeMap<String, Actions>,
    /// By BCP 47 code; `und` and `mul` as the guard says them, `-` where it was not asked.
    pub languages: BTreeMap<String, LanguageFigures>,
    /// By model version.
    pub models: BTreeMap<String, u64>,
    /// Messages for which a profile overruled the thresholds of the model.
    pub overruled: u64,
    /// Messages with a verdict on a text.
    pub verdicts: u64,
    /// Their mean OOS score.
    pub mean_oos_score: f64,
    /// Their OOS scores, in [`OOS_BINS`] bins.
    pub oos_scores: Vec<OosBin>,
    /// Within the log; `None` for a log that is too short.
    pub stability: Option<Stability>,
    /// Against the model card; `None` without an evaluation, or for a log that is too short.
    pub drift: Option<Drift>,
    /// How close is near.
    pub near: f32,
    /// Messages near the threshold.
    pub near_threshold: u64,
    /// The nearest of them first.
    pub review: Vec<NearThreshold>,
    /// The most refused first.
    pub repeated: Vec<Repeated>,
    /// Whether anything is missing.
    pub integrity: Integrity,
}

/// Verdicts of one day.
#[derive(Clone, Copy, Debug, Default)]
struct DayScores {
    bins: [u64; 10],
    total: f64,
}

/// Takes lines in, one after the other, and makes a [`Report`] of them.
#[derive(Debug)]
pub struct Reporter {
    options: ReportOptions,
    report: Report,
    oos_total: f64,
    days: BTreeMap<String, DayScores>,
    confidence: [u64; CONFIDENCE_BINS],
    near: Top<NearThreshold>,
    refused: Frequent<ConversationKey>,
    file: PathBuf,
    /// The number of the last line of each directory.
    last_seq: HashMap<PathBuf, u64>,
}

impl Reporter {
    /// Begins with nothing.
    pub fn new(options: ReportOptions) -> Self {
        Reporter {
            options,
            report: Report { near: options.near, oos_scores: vec![OosBin::default(); OOS_BINS], ..Report::default() },
            oos_total: 0.0,
            days: BTreeMap::new(),
            confidence: [0; CONFIDENCE_BINS],
            near: Top::new(options.list),
            refused: Frequent::new(MOST_CONVERSATIONS),
            file: PathBuf::new(),
            last_seq: HashMap::new(),
        }
    }

    /// The lines that follow are of this file. Numbers go on from the file before, if that is in the same directory.
    pub fn begin(&mut self, file: &Path) {
        self.report.integrity.files += 1;
        self.file = file.to_owned();
    }

    /// Takes in a line as a [`Reader`](super::Reader) has it.
    pub fn add(&mut self, line: usize, read: Result<Line, LineError>) {
        match read {
            Ok(Line { seq, entry }) => {
                self.check_seq(line, seq);
                match entry {
                    Entry::Record(record) => self.record(line, seq, &record),
                    Entry::Lost(lost) => {
                        self.report.integrity.lost += lost.lost;
                        self.find(line, &format_args!("{} records were lost before {}", lost.lost, lost.time));
                    }
                }
            }
            Err(error) => {
                self.report.integrity.unreadable += 1;
                self.find(line, &error);
            }
        }
    }

    fn find(&mut self, line: usize, what: &dyn fmt::Display) {
        if self.report.integrity.findings.len() < self.options.list {
            let finding = Finding { place: place(&self.file, line), what: clean(&what.to_string(), 200) };
            self.report.integrity.findings.push(finding);
        }
    }

    fn check_seq(&mut self, line: usize, seq: u64) {
        self.report.integrity.lines += 1;
        let dir = self.file.parent().unwrap_or(Path::new(""));
        let Some(last) = self.last_seq.get_mut(dir).map(|last| std::mem::replace(last, seq)) else {
            // Files before the first may have been removed: its number says nothing.
            self.last_seq.insert(dir.to_owned(), seq);
            return;
        };
        if seq > last {
            let missing = seq - last - 1;
            self.report.integrity.missing += missing;
            if missing > 0 {
                self.find(line, &format_args!("{missing} records are missing between {last} and {seq}"));
            }
        } else {
            self.report.integrity.out_of_order += 1;
            self.find(line, &format_args!("record {seq} comes after record {last}"));
        }
    }

    fn record(&mut self, line: usize, seq: u64, record: &Record) {
        let report = &mut self.report;
        let (action, time) = (record.decision.action, record.time);
        report.first = Some(report.first.map_or(time, |first| first.min(time)));
        report.last = Some(report.last.map_or(time, |last| last.max(time)));
        report.actions.add(action);
        let day = time.date();
        named(&mut report.days, &day, MOST_DAYS).add(action);
        *named(&mut report.causes, cause_name(&record.decision.cause), MOST_NAMES) += 1;
        *named(&mut report.models, &record.model_version, MOST_NAMES) += 1;
        report.overruled += u64::from(record.profile_thresholds.is_some());
        let verdict = record.verdict.as_ref();
        let intent = verdict.and_then(|verdict| verdict.intent.as_deref()).unwrap_or("-");
        *named(&mut report.intents, intent, MOST_NAMES) += 1;
        let language = verdict.map_or("-", |verdict| &verdict.language);
        let figures = named(&mut report.languages, language, MOST_NAMES);
        figures.actions.add(action);
        *named(&mut figures.intents, intent, MOST_NAMES) += 1;
        let refused = matches!(action, Action::Refuse { .. })
            || matches!(record.decision.cause, Cause::OutOfScope | Cause::Strikes { .. });
        if refused {
            self.refused.add(record.conversation);
        }

        let (Some(verdict), Some(distance)) = (verdict, record.distance()) else { return };
        let (score, threshold) = (verdict.oos_score, verdict.oos_score - distance);
        report.verdicts += 1;
        self.oos_total += f64::from(score);
        let bin = &mut report.oos_scores[bin(score, OOS_BINS)];
        *if distance > 0.0 { &mut bin.refused } else { &mut bin.accepted } += 1;
        let scores = named(&mut self.days, &day, MOST_DAYS);
        scores.bins[self::bin(score, scores.bins.len())] += 1;
        scores.total += f64::from(score);
        let confidence = verdict.scores.values().fold(0.0f32, |highest, &score| highest.max(score));
        self.confidence[self::bin(confidence, CONFIDENCE_BINS)] += 1;
        if distance.abs() <= self.options.near {
            self.near.add(distance.abs(), || NearThreshold {
                place: place(&self.file, line),
                seq,
                time,
                conversation: record.conversation,
                intent: verdict.intent.as_deref().map(|intent| clean(intent, 64)),
                language: clean(&verdict.language, 64),
                oos_score: score,
                threshold,
                action: action_name(action),
                text: record.text.as_deref().map(|text| clean(text, 1000)),
            });
        }
    }

    /// The figures; those that compare with the model card where there is an evaluation of the model.
    pub fn finish(self, evaluation: Option<&Evaluation>) -> Report {
        let mut report = self.report;
        report.mean_oos_score = self.oos_total / report.verdicts.max(1) as f64;
        report.near_threshold = self.near.seen();
        report.review = self.near.into_sorted();
        let repeated = self.refused.top(self.options.list).into_iter();
        report.repeated = repeated
            .filter(|&(_, at_least, _)| at_least >= REPEATED)
            .map(|(conversation, at_least, at_most)| Repeated { conversation, at_least, at_most })
            .collect();
        report.stability = stability(&self.days, report.verdicts);
        report.drift = evaluation
            .filter(|_| report.verdicts >= ENOUGH)
            .map(|evaluation| drift(evaluation, &report.intents, &report.models, &self.confidence));
        report
    }
}

/// The value of a name; when there are too many names, that of all the others.
fn named<'a, V: Default>(map: &'a mut BTreeMap<String, V>, name: &str, most: usize) -> &'a mut V {
    let name = clean(name, 64);
    let known = map.contains_key(&name) || map.len() < most;
    map.entry(if known { name } else { OTHER.to_owned() }).or_default()
}

/// A text of bounded length without control characters, which could drive a terminal.
fn clean(text: &str, most: usize) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut out: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

fn place(file: &Path, line: usize) -> String {
    format!("{}:{line}", file.display())
}

fn bin(value: f32, bins: usize) -> usize {
    ((value * bins as f32) as usize).min(bins - 1)
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Route { .. } => "route",
        Action::AskBack { .. } => "ask_back",
        Action::Refuse { .. } => "refuse",
        Action::HandOff => "hand_off",
        Action::Ignore => "ignore",
    }
}

fn cause_name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Confident => "confident",
        Cause::LowMargin => "low_margin",
        Cause::OutOfScope => "out_of_scope",
        Cause::Disabled => "disabled",
        Cause::Strikes { .. } => "strikes",
        Cause::Keyword { .. } => "keyword",
        Cause::Restricted { .. } => "restricted",
        Cause::WithPerson => "with_person",
        Cause::OptedOut => "opted_out",
        Cause::Structured => "structured",
        Cause::Unsupported => "unsupported",
        Cause::Empty => "empty",
        Cause::GuardFailed => "guard_failed",
    }
}

/// Population stability index of two sets of counts. Half a count is added to each bin, so that an empty one does not
/// make it infinite.
fn psi(expected: &[f64], found: &[f64]) -> f64 {
    let shares = |counts: &[f64]| {
        let total: f64 = counts.iter().map(|count| count + 0.5).sum();
        counts.iter().map(|count| (count + 0.5) / total).collect::<Vec<_>>()
    };
    shares(expected)
        .iter()
        .zip(shares(found))
        .map(|(expected, found)| (found - expected) * (found / expected).ln())
        .sum()
}

fn stability(days: &BTreeMap<String, DayScores>, verdicts: u64) -> Option<Stability> {
    let mut first = true;
    let (mut parts, mut bins) = ([Part::default(), Part::default()], [[0.0; 10]; 2]);
    for (day, scores) in days {
        let n = usize::from(!first);
        let part = &mut parts[n];
        if part.verdicts == 0 {
            part.from.clone_from(day);
        }
        part.to.clone_from(day);
        part.verdicts += scores.bins.iter().sum::<u64>();
        part.mean_oos_score += scores.total;
        bins[n].iter_mut().zip(scores.bins).for_each(|(bin, count)| *bin += count as f64);
        first = first && 2 * part.verdicts < verdicts;
    }
    parts.iter().all(|part| part.verdicts >= ENOUGH).then(|| {
        let [first, last] =
            parts.map(|part| Part { mean_oos_score: part.mean_oos_score / part.verdicts as f64, ..part });
        Stability { first, last, oos_score_psi: psi(&bins[0], &bins[1]) }
    })
}

fn drift(
    evaluation: &Evaluation,
    intents: &BTreeMap<String, u64>,
    models: &BTreeMap<String, u64>,
    confidence: &[u64; CONFIDENCE_BINS],
) -> Drift {
    let shares = |names: Vec<String>, expected: &[f64], found: &[f64]| {
        let total = |counts: &[f64]| counts.iter().sum::<f64>().max(1.0);
        let (all_expected, all_found) = (total(expected), total(found));
        let counts = expected.iter().zip(found);
        let share =
            |(name, (expected, found))| Share { name, expected: expected / all_expected, found: found / all_found };
        names.into_iter().zip(counts).map(share).collect::<Vec<_>>()
    };
    let said = |label: usize| evaluation.confusion.iter().filter_map(|row| row.get(label)).sum::<usize>() as f64;
    let expected_labels: Vec<f64> = (0..evaluation.labels.len()).map(said).collect();
    let found_labels: Vec<f64> =
        evaluation.labels.iter().map(|label| intents.get(label).copied().unwrap_or(0) as f64).collect();

    let (mut expected, mut accuracy) = ([0.0; CONFIDENCE_BINS], [None; CONFIDENCE_BINS]);
    for bin in &evaluation.calibration {
        let n = self::bin(bin.confidence as f32, CONFIDENCE_BINS);
        expected[n] = bin.rows as f64;
        accuracy[n] = Some(bin.accuracy);
    }
    let found = confidence.map(|count| count as f64);
    let edge = |n: usize| n as f64 / CONFIDENCE_BINS as f64;
    let names = (0..CONFIDENCE_BINS).map(|n| format!("{:.2} to {:.2}", edge(n), edge(n + 1))).collect();
    let right = |counts: &[f64]| {
        let bins = counts.iter().zip(accuracy).enumerate();
        let right = bins.map(|(n, (count, right))| count * right.unwrap_or(edge(n) + 0.5 * edge(1))).sum::<f64>();
        right / counts.iter().sum::<f64>().max(1.0)
    };
    Drift {
        model_version: evaluation.model_version.clone(),
        other_models: models
            .iter()
            .filter(|(name, _)| **name != evaluation.model_version)
            .map(|(_, count)| count)
            .sum(),
        label_psi: psi(&expected_labels, &found_labels),
        labels: shares(evaluation.labels.clone(), &expected_labels, &found_labels),
        confidence_psi: psi(&expected, &found),
        accuracy: right(&expected),
        estimated_accuracy: right(&found),
        confidence: shares(names, &expected, &found),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::record, *};
    use crate::label::Flow;

    fn reporter() -> Reporter {
        let mut reporter = Reporter::new(ReportOptions { near: 0.1, list: 5 });
        reporter.begin(Path::new("log/a.jsonl"));
        reporter
    }

    fn line(seq: u64, record: Record) -> Result<Line, LineError> {
        Ok(Line { seq, entry: Entry::Record(Box::new(record)) })
    }

    #[test]
    fn figures_are_those_of_the_records() {
        let mut reporter = reporter();
        for n in 0..10u64 {
            let mut record = record(n * 43_200_000, "x");
            record.conversation =
                super::super::Key::new(&[1; 16]).unwrap().conversation(if n == 0 { "a" } else { "b" });
            if n < 4 {
                record.decision.action = Action::Refuse { offer_person: false };
                record.decision.cause = Cause::OutOfScope;
                let verdict = record.verdict.as_mut().unwrap();
                (verdict.intent, verdict.oos_score) = (Some("out_of_scope".into()), 0.45 + 0.1 * n as f32);
                verdict.language = "de".into();
            }
            if n == 9 {
                record.verdict = None;
                record.decision.action = Action::AskBack { between: [Flow::Faq, Flow::Order] };
            }
            reporter.add(n as usize + 1, line(n + 1, record));
        }
        let report = reporter.finish(None);
        assert_eq!(report.actions.counts(), [5, 1, 4, 0, 0]);
        assert_eq!(report.days.len(), 5);
        assert_eq!(report.days["1970-01-02"], Actions { messages: 2, refuse: 2, ..Actions::default() });
        assert_eq!(report.intents, [("-", 1), ("order", 5), ("out_of_scope", 4)].map(|(k, v)| (k.into(), v)).into());
        assert_eq!(report.languages["de"].actions.refuse, 4);
        assert_eq!(report.languages["en"].intents["order"], 5);
        assert_eq!((report.verdicts, report.oos_scores[2].accepted), (9, 5));
        assert_eq!(report.oos_scores.iter().map(|bin| bin.refused).sum::<u64>(), 3);
        assert!((report.mean_oos_score - (4.0 * 0.6 + 0.5) / 9.0).abs() < 1e-6);
        assert_eq!((report.near_threshold, report.review[0].seq, report.review[1].seq), (2, 1, 2));
        assert_eq!((report.repeated.len(), report.repeated[0].at_least, report.repeated[0].at_most), (1, 3, 3));
        assert_eq!(report.stability, None, "too few to say");
        assert_eq!(report.integrity, Integrity { files: 1, lines: 10, ..Integrity::default() });
    }

    #[test]
    fn what_is_missing_is_found() {
        let mut reporter = reporter();
        reporter.add(1, line(41, record(1, "x")));
        reporter.add(2, line(44, record(1, "x")));
        reporter.add(3, Err(LineError::CutOff));
        reporter.begin(Path::new("other/a.jsonl"));
        reporter.add(1, line(7, record(1, "x")));
        reporter.begin(Path::new("log/b.jsonl"));
        reporter.add(
            1,
            Ok(Line { seq: 45, entry: Entry::Lost(super::super::Lost { time: Timestamp::default(), lost: 9 }) }),
        );
        reporter.add(2, line(45, record(1, "x")));
        let integrity = reporter.finish(None).integrity;
        let places: Vec<&str> = integrity.findings.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["log/a.jsonl:2", "log/a.jsonl:3", "log/b.jsonl:1", "log/b.jsonl:2"]);
        let Integrity { files, lines, missing, out_of_order, lost, unreadable, .. } = integrity;
        assert_eq!([files, lines, missing, out_of_order, lost, unreadable], [3, 5, 2, 1, 9, 1]);
    }

    #[test]
    fn names_are_bounded_and_drive_no_terminal() {
        let mut reporter = reporter();
        for n in 0..1000 {
            let mut record = record(1, "x");
            record.verdict.as_mut().unwrap().language = format!("\u{1b}[31m{n}");
            reporter.add(1, line(n + 1, record));
        }
        let report = reporter.finish(None);
        assert_eq!(report.languages.len(), MOST_NAMES + 1);
        assert_eq!(report.languages[OTHER].actions.messages, 1000 - MOST_NAMES as u64);
        assert!(report.languages.keys().all(|name| !name.contains('\u{1b}')));
    }

    #[test]
    fn a_shift_of_scores_shows() {
        let mut reporter = reporter();
        for n in 0..2000u64 {
            let mut record = record(n * 3_600_000, "x");
            let late = n >= 1000;
            record.verdict.as_mut().unwrap().oos_score = if late && n % 2 == 0 { 0.9 } else { 0.1 };
            reporter.add(1, line(n + 1, record));
        }
        let stability = reporter.finish(None).stability.unwrap();
        assert!(stability.oos_score_psi > 1.0 && stability.last.mean_oos_score > 0.4, "{stability:?}");
        assert!(stability.first.to < stability.last.from);
        assert!(psi(&[100.0, 200.0, 0.0], &[10.0, 20.0, 0.0]) < 0.05 && psi(&[1.0, 0.0], &[0.0, 0.0]).is_finite());
    }

    #[test]
    fn the_log_is_compared_with_the_model_card() {
        let evaluation: Evaluation =
            serde_json::from_slice(include_bytes!("../../models/guard/evaluation.json")).unwrap();
        let mut reporter = reporter();
        for n in 0..100 {
            reporter.add(1, line(n + 1, record(1, "x")));
        }
        let drift = reporter.finish(Some(&evaluation)).drift.unwrap();
        let sum = |shares: &[Share], of: fn(&Share) -> f64| shares.iter().map(of).sum::<f64>();
        for shares in [&drift.labels, &drift.confidence] {
            assert!((sum(shares, |share| share.expected) - 1.0).abs() < 1e-9);
            assert!((sum(shares, |share| share.found) - 1.0).abs() < 1e-9);
        }
        assert_eq!(drift.labels[0].name, "order");
        let said: usize = evaluation.confusion.iter().map(|row| row[0]).sum();
        let rows: usize = evaluation.confusion.iter().flatten().sum();
        assert!((drift.labels[0].expected - said as f64 / rows as f64).abs() < 1e-9 && drift.labels[0].found == 1.0);
        assert_eq!(drift.confidence[13].found, 1.0, "0.9 is in the bin from 13/15 on");
        assert_eq!(drift.other_models, 100);
        assert!(drift.estimated_accuracy > drift.accuracy - 0.1 && drift.label_psi > 0.25);
    }
}
