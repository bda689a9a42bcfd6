//! How a guard does on long messages, built from labelled rows: does a request escape in the middle of other text?

use super::{EvalError, lang, random::SplitMix64};
use crate::{
    data::{self, FNV_OFFSET, Row, fnv1a},
    guard::Guard,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The most characters a messaging platform lets through, nearly all of them used.
const LONG: usize = 4000;
/// A long story as people really type it: more than one pass of the encoder, a few windows.
const STORY: usize = 800;
/// Where a request is hidden: places spread evenly from the start to the end.
const PLACES: usize = 20;
/// Texts of each other set and language.
const TEXTS: usize = 4;
/// A language is left out below this many rows of either side; else its long texts would be the same rows over and over.
const FEWEST_ROWS: usize = 20;

/// What long messages of one kind look like, and what they must get.
///
/// Written texts are whole messages of 1,000 to 4,000 characters about one thing, as people write them. Joined ones are
/// rows as they come, about as many things as there are rows: harder, for one row in ten that is misread alone is enough
/// to turn [`LongKind::Business`] or [`LongKind::General`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LongKind {
    /// An out-of-scope row hidden in a written in-scope text, between two sentences: to be refused.
    WrittenHidden,
    /// A written in-scope text as it is: in scope.
    WrittenBusiness,
    /// A written out-of-scope text, then an in-scope row: in scope.
    WrittenStory,
    /// A written out-of-scope text as it is: to be refused.
    WrittenGeneral,
    /// An out-of-scope row hidden in 4,000 characters of in-scope rows: to be refused.
    HiddenRequest,
    /// 4,000 characters of in-scope rows with nothing hidden in them: in scope.
    Business,
    /// 4,000 characters of out-of-scope rows, then an in-scope row: in scope.
    LongStory,
    /// 4,000 characters of out-of-scope rows with nothing after them: to be refused.
    General,
    /// 800 characters of out-of-scope rows, then an in-scope row: in scope.
    Story,
    /// 800 characters of in-scope rows of one label: in scope.
    OneLabel,
}

impl LongKind {
    fn in_scope(self) -> bool {
        use LongKind::{General, HiddenRequest, WrittenGeneral, WrittenHidden};
        !matches!(self, WrittenHidden | WrittenGeneral | HiddenRequest | General)
    }
}

impl fmt::Display for LongKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LongKind::WrittenHidden => "written, hidden request",
            LongKind::WrittenBusiness => "written, business",
            LongKind::WrittenStory => "written, story",
            LongKind::WrittenGeneral => "written, general",
            LongKind::HiddenRequest => "joined, hidden request",
            LongKind::Business => "joined, business",
            LongKind::LongStory => "joined, long story",
            LongKind::General => "joined, general",
            LongKind::Story => "joined, story",
            LongKind::OneLabel => "joined, one label",
        })
    }
}

/// What [`evaluate_long`] measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LongEvaluation {
    /// Seed of the texts.
    pub seed: u64,
    /// Languages with enough rows, together.
    pub overall: BTreeMap<LongKind, LongRecall>,
    /// By BCP 47 code.
    pub languages: BTreeMap<String, BTreeMap<LongKind, LongRecall>>,
}

/// How many long messages of one kind got what they must get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LongRecall {
    /// Messages.
    pub texts: usize,
    /// Those that are refused or let through as they must be.
    pub right: usize,
    /// Those that got the very label of the rows that matter; the same as `right` where there is none.
    pub right_label: usize,
    /// Those whose row that matters is refused or let through as it must be when it is sent alone: what a perfect
    /// strategy reaches with this model. `None` where no single row matters.
    pub alone: Option<usize>,
}

impl LongRecall {
    /// Share of messages that are refused or let through as they must be, 0 to 1.
    pub fn recall(self) -> f64 {
        self.right as f64 / self.texts.max(1) as f64
    }

    /// Share of messages that got the very label of the rows that matter, 0 to 1.
    pub fn label_recall(self) -> f64 {
        self.right_label as f64 / self.texts.max(1) as f64
    }

    /// Share of messages whose row that matters is refused or let through as it must be when sent alone, 0 to 1.
    pub fn alone_recall(self) -> Option<f64> {
        self.alone.map(|alone| alone as f64 / self.texts.max(1) as f64)
    }

    fn add(&mut self, other: LongRecall) {
        self.texts += other.texts;
        self.right += other.right;
        self.right_label += other.right_label;
        self.alone = other.alone.map(|alone| alone + self.alone.unwrap_or(0)).or(self.alone);
    }
}

/// One long message.
#[derive(Debug)]
struct LongText<'a> {
    kind: LongKind,
    text: String,
    /// The label of the rows that matter; `None` for a mixture of in-scope rows.
    label: Option<&'a str>,
    /// The row that matters, if it is a single one.
    planted: Option<&'a str>,
}

/// Builds long messages from `rows` and the written texts `long` by language, always the same for a seed, and runs `guard`
/// over them. Only rows without a flow are used. `progress` is called after each message with the number done and the number of all.
///
/// # Errors
/// [`EvalError::TooFewRows`] when no language has 20 in-scope and 20 out-of-scope rows without a flow.
pub fn evaluate_long(
    guard: &Guard,
    rows: &[Row],
    long: &[Row],
    seed: u64,
    mut progress: impl FnMut(usize, usize),
) -> Result<LongEvaluation, EvalError> {
    let oos = guard.config().oos_label.as_deref().unwrap_or("out_of_scope");
    let mut by_language: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.context.is_none()) {
        by_language.entry(lang(row)).or_default().push(row);
    }
    let texts: Vec<(&str, Vec<LongText<'_>>)> = by_language
        .into_iter()
        .map(|(code, rows)| {
            let long: Vec<&Row> = long.iter().filter(|row| lang(row) == code).collect();
            (code, texts(code, &rows, &long, oos, seed))
        })
        .collect();
    let all: usize = texts.iter().map(|(_, texts)| texts.len()).sum();
    if all == 0 {
        return Err(EvalError::TooFewRows(FEWEST_ROWS));
    }
    let mut evaluation = LongEvaluation { seed, overall: BTreeMap::new(), languages: BTreeMap::new() };
    let mut done = 0;
    for (code, texts) in texts.iter().filter(|(_, texts)| !texts.is_empty()) {
        let by_kind = evaluation.languages.entry((*code).to_owned()).or_default();
        for text in texts {
            let wanted = text.kind.in_scope();
            let verdict = guard.check(&text.text);
            let right = verdict.in_scope() == wanted;
            let recall = LongRecall {
                texts: 1,
                right: right.into(),
                right_label: text.label.map_or(right, |label| verdict.label() == Some(label)).into(),
                alone: text.planted.map(|row| (guard.check(row).in_scope() == wanted).into()),
            };
            by_kind.entry(text.kind).or_default().add(recall);
            evaluation.overall.entry(text.kind).or_default().add(recall);
            done += 1;
            progress(done, all);
        }
    }
    Ok(evaluation)
}

/// The long messages of one language; none when it has too few rows.
fn texts<'a>(code: &str, rows: &[&'a Row], long: &[&'a Row], oos: &'a str, seed: u64) -> Vec<LongText<'a>> {
    // Of each language's own, so that another language's rows change nothing.
    let mut random = SplitMix64(fnv1a(FNV_OFFSET ^ seed, code.as_bytes()));
    let (general, business): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.label == oos);
    let unspaced = data::language(code).is_some_and(|language| language.is_unspaced());
    // A shorter row ("and 17 × 3?") may mean anything beside other text.
    let requests: Vec<&Row> = general
        .iter()
        .filter(|row| if unspaced { row.text.chars().count() >= 12 } else { row.text.split_whitespace().count() >= 4 })
        .copied()
        .collect();
    let mut labels: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &business {
        labels.entry(&row.label).or_default().push(row);
    }
    let mut texts = Vec::new();
    if requests.len().min(business.len()) < FEWEST_ROWS {
        return texts;
    }
    let mut requests = Deck::new(requests);
    let mut endings = Deck::new(business.clone());
    let (mut general, mut business) = (Deck::new(general), Deck::new(business));
    for place in 0..PLACES {
        let row = requests.draw(&mut random);
        let mut text = business.draw_text(LONG, &mut random);
        let at = place * text.len() / (PLACES - 1);
        text.insert(at, &row.text);
        texts.push(LongText {
            kind: LongKind::HiddenRequest,
            text: text.join(" "),
            label: Some(&row.label),
            planted: Some(&row.text),
        });
    }
    for _ in 0..TEXTS {
        let text = business.draw_text(LONG, &mut random).join(" ");
        texts.push(LongText { kind: LongKind::Business, text, label: None, planted: None });
        let text = general.draw_text(LONG, &mut random).join(" ");
        texts.push(LongText { kind: LongKind::General, text, label: Some(oos), planted: None });
    }
    for (kind, characters) in [(LongKind::LongStory, LONG), (LongKind::Story, STORY)] {
        for _ in 0..TEXTS {
            let row = endings.draw(&mut random);
            let mut text = general.draw_text(characters, &mut random);
            text.push(&row.text);
            texts.push(LongText { kind, text: text.join(" "), label: Some(&row.label), planted: Some(&row.text) });
        }
    }
    let mut labels: Vec<(&str, Deck<'_>)> = labels.into_iter().map(|(label, rows)| (label, Deck::new(rows))).collect();
    for n in 0..TEXTS {
        let n = n % labels.len();
        let (label, rows) = &mut labels[n];
        let text = rows.draw_text(STORY, &mut random).join(" ");
        texts.push(LongText { kind: LongKind::OneLabel, text, label: Some(*label), planted: None });
    }
    for row in long {
        let (alone, with_row, rows, places) = if row.label == oos {
            (LongKind::WrittenGeneral, LongKind::WrittenStory, &mut endings, TEXTS)
        } else {
            (LongKind::WrittenBusiness, LongKind::WrittenHidden, &mut requests, PLACES)
        };
        texts.push(LongText { kind: alone, text: row.text.clone(), label: Some(&row.label), planted: None });
        for place in 0..places {
            let planted = rows.draw(&mut random);
            let at = if row.label == oos { row.text.len() } else { gap(&row.text, place as f64 / (PLACES - 1) as f64) };
            let text = format!("{} {} {}", &row.text[..at], planted.text, &row.text[at..]);
            texts.push(LongText {
                kind: with_row,
                text: text.trim().to_owned(),
                label: Some(&planted.label),
                planted: Some(&planted.text),
            });
        }
    }
    texts
}

/// The gap between two sentences, or words, or characters, whichever there are, that is nearest to a share of the text.
fn gap(text: &str, share: f64) -> usize {
    let wanted = share * text.len() as f64;
    let after = |is_end: fn(char) -> bool| {
        let ends = text.char_indices().filter(move |&(_, c)| is_end(c)).map(|(at, c)| at + c.len_utf8());
        [0, text.len()].into_iter().chain(ends)
    };
    let sentences: Vec<usize> =
        after(|c| matches!(c, '.' | '!' | '?' | '\n' | '…' | '。' | '！' | '？' | '؟' | '।')).collect();
    // Somebody who uses no full stops.
    let gaps = if sentences.len() < PLACES { after(char::is_whitespace).collect() } else { sentences };
    gaps.into_iter().min_by(|&a, &b| (a as f64 - wanted).abs().total_cmp(&(b as f64 - wanted).abs())).unwrap_or(0)
}

/// Rows in random order; once all are drawn, all over again in another order.
struct Deck<'a> {
    rows: Vec<&'a Row>,
    drawn: usize,
}

impl<'a> Deck<'a> {
    fn new(rows: Vec<&'a Row>) -> Self {
        Deck { drawn: 0, rows }
    }

    fn draw(&mut self, random: &mut SplitMix64) -> &'a Row {
        // One step of the Fisher-Yates shuffle.
        let other = self.drawn + random.below(self.rows.len() - self.drawn);
        self.rows.swap(self.drawn, other);
        let row = self.rows[self.drawn];
        self.drawn = (self.drawn + 1) % self.rows.len();
        row
    }

    /// Texts of rows that have at least this many characters together.
    fn draw_text(&mut self, characters: usize, random: &mut SplitMix64) -> Vec<&'a str> {
        let (mut texts, mut length) = (Vec::new(), 0);
        while length < characters {
            let row = self.draw(random);
            length += row.text.chars().count() + 1;
            texts.push(row.text.as_str());
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Origin;
    use std::path::Path;

    fn rows() -> Vec<Row> {
        (0..120)
            .map(|n| Row {
                text: format!("message number {n} of many"),
                label: ["order", "faq", "out_of_scope"][n % 3].into(),
                lang: Some("en".into()),
                context: None,
                group: None,
                origin: Origin { file: Path::new("rows.jsonl").into(), line: n },
            })
            .collect()
    }

    #[test]
    fn texts_are_built_as_promised_and_always_the_same() {
        let rows = rows();
        let rows: Vec<&Row> = rows.iter().collect();
        let written: Vec<Row> = ["faq", "out_of_scope"]
            .map(|label| Row { text: "This goes on. ".repeat(90), label: label.into(), ..rows[0].clone() })
            .into();
        let written: Vec<&Row> = written.iter().collect();
        let made = texts("en", &rows, &written, "out_of_scope", 7);
        let again = texts("en", &rows, &written, "out_of_scope", 7);
        assert!(made.iter().zip(&again).all(|(a, b)| a.text == b.text));
        assert!(made.iter().zip(texts("en", &rows, &written, "out_of_scope", 8)).any(|(a, b)| a.text != b.text));

        let hidden: Vec<_> = made.iter().filter(|text| text.kind == LongKind::HiddenRequest).collect();
        let places: Vec<usize> = hidden.iter().map(|text| text.text.find(text.planted.unwrap()).unwrap()).collect();
        assert!(places.is_sorted() && places[0] == 0 && places[PLACES - 1] >= LONG - 1, "{places:?}");
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] < 2 * LONG / PLACES), "{places:?}");
        for text in made.iter().filter(|text| matches!(text.kind, LongKind::LongStory | LongKind::Story)) {
            assert!(text.text.ends_with(text.planted.unwrap()) && text.label != Some("out_of_scope"));
        }
        let written = |kind| made.iter().filter(move |text| text.kind == kind);
        let counts =
            [LongKind::WrittenHidden, LongKind::WrittenBusiness, LongKind::WrittenStory, LongKind::WrittenGeneral]
                .map(|kind| written(kind).count());
        assert_eq!(counts, [PLACES, 1, TEXTS, 1]);
        for text in written(LongKind::WrittenHidden) {
            let (before, after) = text.text.split_once(text.planted.unwrap()).unwrap();
            assert!(before.is_empty() || before.trim_end().ends_with('.'), "{before}");
            assert!(after.is_empty() || after.trim_start().starts_with("This"), "{after}");
        }
        assert!(written(LongKind::WrittenStory).all(|text| text.text.ends_with(text.planted.unwrap())));
        assert!(made.iter().all(|text| text.text.chars().count() >= STORY - 1));
        assert!(texts("en", &rows[..50], &[], "out_of_scope", 7).is_empty(), "too few out-of-scope rows");
    }
}
