//! What can be said of a dataset without understanding it: labels, languages, duplicates, leaks between splits, sameness.

use super::{
    language::{Fit, Language, language},
    neighbours::similar_pairs,
    row::{Origin, Row, RowError},
};
use crate::text;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::Path,
};

/// Texts of different splits that share this much of their character trigrams are near-duplicates.
pub const NEAR_DUPLICATE: f64 = 0.7;
/// Largest share of a label's rows in one language that may look alike with digits and names masked.
pub const MAX_SKELETON: f64 = 0.02;
/// Largest share of a label's rows in one language that may begin with the same three words (six characters in languages
/// without spaces).
pub const MAX_OPENING: f64 = 0.03;
/// Shares are not judged in fewer rows than this.
const ENOUGH_ROWS: usize = 50;
/// Fewest rows in the language's own script, for a language that is not written in Latin.
const MIN_OWN_SCRIPT: f64 = 0.75;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The dataset must not be used like this.
    Error,
    /// Worth a look.
    Warning,
}

/// Something wrong with a row or a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// `file:line`, or the file or language that it is about.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

/// Counts of one language.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LanguageCounts {
    /// Rows by label.
    pub labels: BTreeMap<String, usize>,
    /// Rows by split.
    pub splits: BTreeMap<String, usize>,
    /// Rows that carry a flow.
    pub with_flow: usize,
    /// Distinct groups.
    pub groups: usize,
}

impl LanguageCounts {
    /// All rows.
    pub fn rows(&self) -> usize {
        self.labels.values().sum()
    }
}

/// How much the rows of one label in one language resemble each other, over all splits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sameness {
    /// BCP 47 code.
    pub lang: String,
    /// The label.
    pub label: String,
    /// Rows of that label.
    pub rows: usize,
    /// Share of rows that have the skeleton of another row: the same text once digits and names are masked.
    pub skeleton: f64,
    /// Share of rows that have the most frequent opening.
    pub opening: f64,
    /// That opening.
    pub most_frequent_opening: String,
}

/// Everything that [`check`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Rows read.
    pub rows: usize,
    /// Counts by language.
    pub languages: BTreeMap<String, LanguageCounts>,
    /// Sameness by language and label.
    pub sameness: Vec<Sameness>,
    /// Errors first, then warnings, each in order of place.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are errors.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }
}

/// The split a file belongs to: the name of its directory if that is `train`, `valid` or `test`, else its own name.
fn split(file: &Path) -> String {
    let directory = file.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    match directory {
        Some(name @ ("train" | "valid" | "test")) => name.to_owned(),
        _ => file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
    }
}

/// What makes two texts the same: letters and digits of the normalised text, or all of it where it has neither.
fn duplicate_key(text: &str) -> String {
    let text = text::normalize(text);
    let key: String = text.chars().filter(|c| c.is_alphanumeric()).collect();
    if key.is_empty() { text } else { key }
}

/// Checks rows against the allowed `labels`; with none given, any label will do.
pub fn check(rows: &[Row], unreadable: &[RowError], labels: &[String]) -> Report {
    let mut findings = Vec::new();
    let mut find = |severity, place: String, message: String| findings.push(Finding { severity, place, message });
    for error in unreadable {
        find(Severity::Error, error.origin.to_string(), error.kind.to_string());
    }
    let splits: Vec<String> = rows.iter().map(|row| split(&row.origin.file)).collect();
    for row in rows {
        let place = || row.origin.to_string();
        if !labels.is_empty() && !labels.contains(&row.label) {
            find(Severity::Error, place(), format!("label {:?} is none of {}", row.label, labels.join(", ")));
        }
        let Some(code) = &row.lang else {
            find(Severity::Warning, place(), "no language".into());
            continue;
        };
        if row
            .origin
            .file
            .file_stem()
            .is_some_and(|stem| language(&stem.to_string_lossy()).is_some_and(|l| l.code != code))
        {
            find(Severity::Error, place(), format!("language {code:?} in the file of another"));
        }
        match language(code).map(|language| language.fit(&row.text)) {
            None => find(Severity::Warning, place(), format!("no script is known for language {code:?}")),
            // A request to translate, or a spam message, may well be in another script.
            Some(Fit::Foreign) if row.label == "out_of_scope" => {
                find(Severity::Warning, place(), format!("the script is not that of {code:?}: {}", excerpt(&row.text)));
            }
            Some(Fit::Foreign) => {
                find(Severity::Error, place(), format!("the script is not that of {code:?}: {}", excerpt(&row.text)));
            }
            Some(_) => {}
        }
    }
    duplicates(rows, &splits, &mut find);
    groups(rows, &splits, &mut find);
    let languages = count(rows, &splits);
    scripts(rows, &mut find);
    let sameness = sameness(rows);
    for s in sameness.iter().filter(|s| s.rows >= ENOUGH_ROWS) {
        let place = format!("{} {}", s.lang, s.label);
        if s.skeleton > MAX_SKELETON {
            find(Severity::Warning, place.clone(), format!("{:.1} % of rows share a skeleton", 100.0 * s.skeleton));
        }
        if s.opening > MAX_OPENING {
            let message = format!("{:.1} % of rows begin with {:?}", 100.0 * s.opening, s.most_frequent_opening);
            find(Severity::Warning, place, message);
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    Report { rows: rows.len(), languages, sameness, findings }
}

fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{short}\"")
}

/// Equal texts anywhere, and similar ones in different splits.
fn duplicates(rows: &[Row], splits: &[String], find: &mut impl FnMut(Severity, String, String)) {
    let mut seen: HashMap<(String, Option<crate::Flow>), &Row> = HashMap::new();
    for row in rows {
        match seen.entry((duplicate_key(&row.text), row.context)) {
            std::collections::hash_map::Entry::Occupied(first) => {
                let first = first.get();
                let what = if first.label == row.label {
                    "same text and context as"
                } else {
                    "same text and context, other label, as"
                };
                find(
                    Severity::Error,
                    row.origin.to_string(),
                    format!("{what} {}: {}", first.origin, excerpt(&row.text)),
                );
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(row);
            }
        }
    }
    let mut by_language: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        by_language.entry(row.lang.as_deref().unwrap_or_default()).or_default().push(i);
    }
    for members in by_language.values() {
        let texts: Vec<String> = members.iter().map(|&i| text::normalize(&rows[i].text)).collect();
        let across = |a: usize, b: usize| {
            let (a, b) = (members[a], members[b]);
            splits[a] != splits[b] && rows[a].context == rows[b].context
        };
        for (a, b, similarity) in similar_pairs(&texts, NEAR_DUPLICATE, across) {
            let (first, second) = (&rows[members[a]], &rows[members[b]]);
            if duplicate_key(&first.text) != duplicate_key(&second.text) {
                let message = format!(
                    "near-duplicate ({similarity:.2}) of {} in another split: {} / {}",
                    first.origin,
                    excerpt(&second.text),
                    excerpt(&first.text)
                );
                find(Severity::Error, second.origin.to_string(), message);
            }
        }
    }
}

/// Groups that stand in two splits.
fn groups(rows: &[Row], splits: &[String], find: &mut impl FnMut(Severity, String, String)) {
    let mut home: HashMap<&str, (&str, &Origin)> = HashMap::new();
    for (row, split) in rows.iter().zip(splits) {
        let Some(group) = &row.group else { continue };
        let &mut (first, origin) = home.entry(group).or_insert((split, &row.origin));
        if first != split {
            find(
                Severity::Error,
                row.origin.to_string(),
                format!("group {group:?} is also in another split, at {origin}"),
            );
        }
    }
}

/// Languages with a script of their own in which too few rows are written.
fn scripts(rows: &[Row], find: &mut impl FnMut(Severity, String, String)) {
    let mut shares: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in rows {
        if let Some(language) = row.lang.as_deref().and_then(language) {
            let (own, all) = shares.entry(language.code).or_default();
            *own += usize::from(language.fit(&row.text) == Fit::Own);
            *all += 1;
        }
    }
    for (code, (own, all)) in shares {
        if (own as f64) < MIN_OWN_SCRIPT * all as f64 && all >= ENOUGH_ROWS {
            find(Severity::Error, code.into(), format!("only {own} of {all} rows are in the script of the language"));
        }
    }
}

fn count(rows: &[Row], splits: &[String]) -> BTreeMap<String, LanguageCounts> {
    let mut languages: BTreeMap<String, LanguageCounts> = BTreeMap::new();
    let mut groups: BTreeMap<&str, std::collections::BTreeSet<&str>> = BTreeMap::new();
    for (row, split) in rows.iter().zip(splits) {
        let lang = row.lang.as_deref().unwrap_or("und");
        let counts = languages.entry(lang.to_owned()).or_default();
        *counts.labels.entry(row.label.clone()).or_default() += 1;
        *counts.splits.entry(split.clone()).or_default() += 1;
        counts.with_flow += usize::from(row.context.is_some());
        groups.entry(lang).or_default().extend(row.group.as_deref());
    }
    for (lang, groups) in groups {
        if let Some(counts) = languages.get_mut(lang) {
            counts.groups = groups.len();
        }
    }
    languages
}

fn sameness(rows: &[Row]) -> Vec<Sameness> {
    let mut cells: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        cells.entry((row.lang.as_deref().unwrap_or("und"), &row.label)).or_default().push(row);
    }
    cells
        .into_iter()
        .map(|((lang, label), rows)| {
            let (mut skeletons, mut openings): (HashMap<String, usize>, HashMap<String, usize>) = Default::default();
            for row in &rows {
                *skeletons.entry(skeleton(&row.text)).or_default() += 1;
                if let Some(opening) = opening(&row.text, language(lang)) {
                    *openings.entry(opening).or_default() += 1;
                }
            }
            let alike: usize = skeletons.values().filter(|&&n| n > 1).sum();
            let (most_frequent_opening, top) =
                openings.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0))).unwrap_or_default();
            let share = |n: usize| n as f64 / rows.len() as f64;
            Sameness {
                lang: lang.into(),
                label: label.into(),
                rows: rows.len(),
                skeleton: share(alike),
                opening: share(top),
                most_frequent_opening,
            }
        })
        .collect()
}

/// The text with every number written `0` and every capitalised word but the first written `N`.
fn skeleton(text: &str) -> String {
    let mut out = String::new();
    for (i, word) in text.split_whitespace().enumerate() {
        let name = i > 0 && word.chars().next().is_some_and(char::is_uppercase);
        if name {
            out.push('N');
        } else {
            let mut digits = false;
            for c in text::normalize(word).chars() {
                if c.is_numeric() {
                    if !digits {
                        out.push('0');
                    }
                } else {
                    out.push(c);
                }
                digits = c.is_numeric();
            }
        }
        out.push(' ');
    }
    out
}

/// The first three words, or six characters in a language without spaces; `None` for a shorter text.
fn opening(text: &str, language: Option<&Language>) -> Option<String> {
    let text = text::normalize(text);
    if language.is_some_and(Language::is_unspaced) {
        let head: String = text.chars().take(6).collect();
        (head.chars().count() == 6).then_some(head)
    } else {
        let words: Vec<&str> = text.split(' ').take(3).collect();
        (words.len() == 3).then(|| words.join(" "))
    }
}

/// The counts as a Markdown table: languages down, labels across.
pub fn counts_table(report: &Report) -> String {
    let collect = |of: fn(&LanguageCounts) -> &BTreeMap<String, usize>| -> Vec<&String> {
        let mut names: Vec<&String> = report.languages.values().flat_map(|counts| of(counts).keys()).collect();
        names.sort();
        names.dedup();
        names
    };
    let labels = collect(|counts| &counts.labels);
    let mut splits = collect(|counts| &counts.splits);
    splits.sort_by_key(|split| ["train", "valid", "test"].iter().position(|name| name == split).unwrap_or(9));
    let mut out = String::from("| language |");
    for name in labels.iter().chain(&splits) {
        let _ = write!(out, " {name} |");
    }
    out.push_str(" with flow | groups | rows |\n|---|");
    out.push_str(&"---:|".repeat(labels.len() + splits.len() + 3));
    let line = |name: &str, of: &[&LanguageCounts]| {
        let sum = |value: &dyn Fn(&LanguageCounts) -> usize| of.iter().map(|counts| value(counts)).sum::<usize>();
        let mut line = format!("\n| {name} |");
        for label in &labels {
            let _ = write!(line, " {} |", sum(&|counts| counts.labels.get(*label).copied().unwrap_or(0)));
        }
        for split in &splits {
            let _ = write!(line, " {} |", sum(&|counts| counts.splits.get(*split).copied().unwrap_or(0)));
        }
        let (flow, groups, rows) = (sum(&|c| c.with_flow), sum(&|c| c.groups), sum(&LanguageCounts::rows));
        let _ = write!(line, " {flow} | {groups} | {rows} |");
        line
    };
    for (code, counts) in &report.languages {
        let name = language(code).map_or(code.clone(), |language| format!("{} ({code})", language.name));
        out.push_str(&line(&name, &[counts]));
    }
    out.push_str(&line("**all**", &report.languages.values().collect::<Vec<_>>()));
    out.push('\n');
    out
}

/// Sameness as a Markdown table: per language, the worst label and the mean over labels.
pub fn sameness_table(report: &Report) -> String {
    let mut out = String::from(
        "| language | rows sharing a skeleton, worst label | mean | most frequent opening, worst label | mean |\n|---|---:|---:|---:|---:|",
    );
    let mut by_language: BTreeMap<&str, Vec<&Sameness>> = BTreeMap::new();
    for s in &report.sameness {
        by_language.entry(&s.lang).or_default().push(s);
    }
    for (lang, cells) in by_language {
        let worst = |of: fn(&Sameness) -> f64| {
            cells
                .iter()
                .copied()
                .max_by(|a, b| of(a).total_cmp(&of(b)))
                .map_or(String::new(), |s| format!("{:.1} % ({})", 100.0 * of(s), s.label))
        };
        let mean = |of: fn(&Sameness) -> f64| 100.0 * cells.iter().map(|s| of(s)).sum::<f64>() / cells.len() as f64;
        let _ = write!(
            out,
            "\n| {lang} | {} | {:.1} % | {} | {:.1} % |",
            worst(|s| s.skeleton),
            mean(|s| s.skeleton),
            worst(|s| s.opening),
            mean(|s| s.opening)
        );
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flow;

    fn row(file: &str, line: usize, label: &str, lang: &str, text: &str) -> Row {
        Row {
            text: text.into(),
            label: label.into(),
            lang: Some(lang.into()),
            context: None,
            group: None,
            origin: Origin { file: Path::new(file).into(), line },
        }
    }

    fn errors(rows: &[Row]) -> Vec<String> {
        let labels = ["order", "faq", "out_of_scope"].map(String::from);
        let report = check(rows, &[], &labels);
        let errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| format!("{} {}", finding.place, finding.message)).collect()
    }

    #[test]
    fn clean_rows_pass() {
        let mut flow = row("d/train/en.jsonl", 2, "order", "en", "Hi there");
        flow.context = Some(Flow::Order);
        assert!(
            errors(&[row("d/train/en.jsonl", 1, "faq", "en", "hi there!"), flow]).is_empty(),
            "the flow tells them apart"
        );
    }

    #[test]
    fn each_error_is_found() {
        let one = |rows: &[Row], part: &str| {
            let found = errors(rows);
            assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
        };
        one(&[row("train/en.jsonl", 7, "ordr", "en", "x")], "en.jsonl:7 label \"ordr\"");
        one(&[row("train/es.jsonl", 1, "faq", "en", "x")], "language \"en\" in the file of another");
        one(&[row("train/es.jsonl", 1, "faq", "es", "你好 在吗")], "script");
        let (a, b) = (
            row("train/en.jsonl", 1, "faq", "en", "Open today?"),
            row("train/en.jsonl", 2, "faq", "en", "open  TODAY"),
        );
        one(&[a.clone(), b], "same text and context as train/en.jsonl:1");
        one(&[a, row("test/en.jsonl", 1, "order", "en", "open today")], "other label");
        let long = "can you tell me when the blue garden chairs are back";
        let (near, far) =
            (row("train/en.jsonl", 1, "faq", "en", long), row("test/en.jsonl", 3, "faq", "en", &format!("{long} pls")));
        one(&[near.clone(), far.clone()], "near-duplicate");
        assert!(
            errors(&[near.clone(), Row { origin: near.origin.clone(), ..far }]).is_empty(),
            "within a split it may be"
        );
        let group = |file| Row { group: Some("g".into()), ..row(file, 1, "faq", "en", file) };
        one(&[group("train/en.jsonl"), group("valid/en.jsonl")], "group \"g\"");
    }

    #[test]
    fn foreign_script_out_of_scope_is_only_a_warning() {
        let report = check(&[row("train/en.jsonl", 1, "out_of_scope", "en", "что значит 你好")], &[], &[]);
        assert_eq!((report.errors(), report.findings.len()), (0, 1));
    }

    #[test]
    fn sameness_masks_digits_and_names() {
        let rows: Vec<Row> = (0..60)
            .map(|n| row("train/en.jsonl", n, "order", "en", &format!("where is order {n} for Mr Smith")))
            .collect();
        let report = check(&rows, &[], &[]);
        assert_eq!(report.sameness[0].skeleton, 1.0);
        assert_eq!(
            (report.sameness[0].opening, report.sameness[0].most_frequent_opening.as_str()),
            (1.0, "where is order")
        );
        assert_eq!(report.findings.len(), 2);
        assert!(
            counts_table(&report).contains("| English (en) | 60 |")
                && sameness_table(&report).contains("100.0 % (order)")
        );
    }
}
