//! What can be wrong with a profile, and where.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text is no TOML, or a key is unknown, is missing or has a value of the wrong type.
    #[error("{place}{}{why}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
    Toml {
        /// Where it is.
        place: Place,
        /// The key, such as `keywords[0].action`; empty where there is none.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A value is out of its range.
    #[error("{place}{key} is {value}, expected {expected}")]
    Value {
        /// Where it is.
        place: Place,
        /// The key, such as `texts.en.refusal`.
        key: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: String,
    },
}

/// Where in a profile an error is. Shows as `shop.toml:12: `.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, if the profile is from one.
    pub path: Option<PathBuf>,
    /// The line, from 1 on, if the profile is from a text and the error is at a place in it.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (Some(path), Some(line)) => write!(f, "{}:{line}: ", path.display()),
            (Some(path), None) => write!(f, "{}: ", path.display()),
            (None, Some(line)) => write!(f, "line {line}: "),
            (None, None) => Ok(()),
        }
    }
}

impl ProfileError {
    /// An error of the parser.
    pub(super) fn toml(text: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map(|span| span.start);
        ProfileError::Toml {
            place: Place { path: None, line: at.map(|at| line(text, at)) },
            key: at.and_then(|at| key_at(text, at)).unwrap_or_default(),
            why: error.message().to_owned(),
        }
    }

    /// Names the file.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        if let ProfileError::Toml { place, .. } | ProfileError::Value { place, .. } = &mut self {
            place.path = Some(path.to_owned());
        }
        self
    }
}

/// A value that cannot be used, before it is known where it comes from.
#[derive(Debug)]
pub(super) struct Invalid {
    key: String,
    value: String,
    expected: String,
}

impl Invalid {
    pub(super) fn new(key: impl Into<String>, value: impl fmt::Display, expected: impl Into<String>) -> Self {
        Invalid { key: key.into(), value: value.to_string(), expected: expected.into() }
    }

    pub(super) fn in_toml(self, text: &str) -> ProfileError {
        let line = offset_of(text, &self.key).map(|at| line(text, at));
        ProfileError::Value {
            place: Place { path: None, line },
            key: self.key,
            value: self.value,
            expected: self.expected,
        }
    }
}

impl From<Invalid> for ProfileError {
    fn from(Invalid { key, value, expected }: Invalid) -> Self {
        ProfileError::Value { place: Place::default(), key, value, expected }
    }
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// Where `key` stands in `text`, or as much of it as there is.
fn offset_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut parts = key.split(['.', '[', ']']).filter(|part| !part.is_empty());
    let first = parts.next()?;
    let (name, mut value) = document.get_ref().iter().find(|(name, _)| name.get_ref() == first)?;
    let mut at = name.span().start;
    for part in parts {
        let inner = match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().find(|(name, _)| name.get_ref() == part).map(|(name, value)| (name.span().start, value))
            }
            DeValue::Array(array) => {
                part.parse().ok().and_then(|n: usize| array.get(n)).map(|value| (value.span().start, value))
            }
            _ => None,
        };
        let Some(inner) = inner else { break };
        (at, value) = inner;
    }
    Some(at)
}

/// The innermost key whose name or value is at `at`.
fn key_at(text: &str, at: usize) -> Option<String> {
    /// The span of a table is that of its header, so what is inside is always looked at.
    fn within(path: String, value: &toml::Spanned<DeValue<'_>>, at: usize) -> Option<String> {
        let inner = match value.get_ref() {
            DeValue::Table(table) => table.iter().find_map(|(name, value)| {
                let path = format!("{path}.{}", name.get_ref());
                within(path.clone(), value, at).or_else(|| name.span().contains(&at).then_some(path))
            }),
            DeValue::Array(array) => {
                array.iter().enumerate().find_map(|(n, value)| within(format!("{path}[{n}]"), value, at))
            }
            _ => None,
        };
        inner.or_else(|| value.span().contains(&at).then_some(path))
    }
    let document = DeTable::parse(text).ok()?;
    document.get_ref().iter().find_map(|(name, value)| {
        let path = name.get_ref().to_string();
        within(path.clone(), value, at).or_else(|| name.span().contains(&at).then_some(path))
    })
}
