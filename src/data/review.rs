//! Second readings: rows that somebody else labelled without seeing the first label.

use super::DataError;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// One row that was read twice; the files in `datasets/review/` are JSON arrays of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The message.
    pub text: String,
    /// BCP 47 code.
    pub lang: String,
    /// The flow, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The split it was drawn from.
    pub split: String,
    /// The label of the writer.
    pub first: String,
    /// The label of the second reader.
    pub second: String,
    /// A label that the second reader thought possible too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// The label after both were compared; `None` where the row was taken out.
    pub settled: Option<String>,
}

/// Agreement in one language.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Rows read twice.
    pub rows: usize,
    /// Rows with the same label both times.
    pub same: usize,
    /// Cohen's kappa: agreement beyond what the label frequencies give by chance, at most 1.
    pub kappa: f64,
    /// Rows whose first label turned out wrong.
    pub wrong: usize,
    /// Rows taken out because they can be read two ways.
    pub removed: usize,
}

/// Reads every `.json` file of a directory, in alphabetical order.
///
/// # Errors
/// [`DataError::Io`], also when a file is no array of readings.
pub fn load_readings(dir: &Path) -> Result<Vec<Reading>, DataError> {
    let failed = |path: &Path, source| DataError::Io { path: path.into(), source };
    let entries = fs::read_dir(dir).map_err(|source| failed(dir, source))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut readings = Vec::new();
    for path in paths {
        let bytes = fs::read(&path).map_err(|source| failed(&path, source))?;
        let file: Vec<Reading> = serde_json::from_slice(&bytes).map_err(|error| failed(&path, error.into()))?;
        readings.extend(file);
    }
    Ok(readings)
}

/// Agreement by language.
pub fn agreement(readings: &[Reading]) -> BTreeMap<String, Agreement> {
    let mut by_language: BTreeMap<String, Vec<&Reading>> = BTreeMap::new();
    for reading in readings {
        by_language.entry(reading.lang.clone()).or_default().push(reading);
    }
    by_language.into_iter().map(|(lang, readings)| (lang, measure(&readings))).collect()
}

fn measure(readings: &[&Reading]) -> Agreement {
    let rows = readings.len();
    let count = |what: &dyn Fn(&Reading) -> bool| readings.iter().filter(|reading| what(reading)).count();
    let same = count(&|r| r.first == r.second);
    let labels: std::collections::BTreeSet<&str> = readings.iter().map(|r| r.first.as_str()).collect();
    let share = |n: usize| n as f64 / rows.max(1) as f64;
    let by_chance: f64 = labels
        .into_iter()
        .map(|label| share(count(&|r| r.first == label)) * share(count(&|r| r.second == label)))
        .sum();
    Agreement {
        rows,
        same,
        kappa: if by_chance < 1.0 { (share(same) - by_chance) / (1.0 - by_chance) } else { 1.0 },
        wrong: count(&|r| r.settled.as_ref().is_some_and(|settled| *settled != r.first)),
        removed: count(&|r| r.settled.is_none()),
    }
}

/// Agreement as a Markdown table.
pub fn agreement_table(readings: &[Reading]) -> String {
    let mut out = String::from(
        "| language | rows read twice | same label % | Cohen's kappa | first label wrong | error rate % | taken out as doubtful |\n\
         |---|---:|---:|---:|---:|---:|---:|",
    );
    let all: Vec<&Reading> = readings.iter().collect();
    let total = ("**all**".to_owned(), measure(&all));
    for (lang, a) in agreement(readings).into_iter().chain([total]) {
        let percent = |n: usize| 100.0 * n as f64 / a.rows.max(1) as f64;
        let _ = write!(
            out,
            "\n| {lang} | {} | {:.1} | {:.3} | {} | {:.2} | {} |",
            a.rows,
            percent(a.same),
            a.kappa,
            a.wrong,
            percent(a.wrong),
            a.removed
        );
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(first: &str, second: &str, settled: Option<&str>) -> Reading {
        Reading {
            text: "x".into(),
            lang: "en".into(),
            context: None,
            split: "test".into(),
            first: first.into(),
            second: second.into(),
            doubt: None,
            settled: settled.map(Into::into),
        }
    }

    #[test]
    fn kappa_by_hand() {
        // 4 of 6 the same; by chance (3/6)(3/6) + (3/6)(3/6) = 1/2, so kappa is (2/3 - 1/2) / (1/2) = 1/3.
        let readings = [
            reading("a", "a", Some("a")),
            reading("a", "a", Some("a")),
            reading("a", "b", Some("b")),
            reading("b", "b", Some("b")),
            reading("b", "b", Some("b")),
            reading("b", "a", None),
        ];
        let found = agreement(&readings)["en"];
        assert_eq!((found.rows, found.same, found.wrong, found.removed), (6, 4, 1, 1));
        assert!((found.kappa - 1.0 / 3.0).abs() < 1e-9);
        assert!(agreement_table(&readings).contains("| en | 6 | 66.7 | 0.333 | 1 | 16.67 | 1 |"));
    }
}
