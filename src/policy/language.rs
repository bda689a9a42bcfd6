//! BCP 47 codes as they come: from a guard, a platform, a profile.

/// Whether two codes are the same but for case and `_` in place of `-`.
pub(super) fn same(a: &str, b: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| plain(a) == plain(b))
}

/// Whether `code` has the form of a language code.
pub(super) fn is_code(code: &str) -> bool {
    let mut parts = code.split(['-', '_']);
    let letters = |part: &str| (2..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    parts.next().is_some_and(letters)
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// `code` and what it falls back to, most specific first: `pt-BR`, `pt`.
pub(super) fn fallbacks(code: &str) -> impl Iterator<Item = &str> {
    // The regions that write the other Chinese.
    let traditional = ["zh-TW", "zh-HK", "zh-MO"].iter().any(|region| same(region, code)).then_some("zh-Hant");
    let mut codes = std::iter::successors(Some(code), |code| Some(&code[..code.rfind(['-', '_'])?]));
    codes.next().into_iter().chain(traditional).chain(codes)
}

/// Whether a message that is taken for `message` may well be in `language`: Chinese in either script, Hindi in either, and
/// Indonesian and Malay are easily taken for each other.
pub(super) fn related(language: &str, message: &str) -> bool {
    let main = |code| fallbacks(code).last().unwrap_or_default();
    let malay = |code: &str| same(code, "id") || same(code, "ms");
    let (language, message) = (main(language), main(message));
    same(language, message) || (malay(language) && malay(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_and_scripts_fall_back() {
        let list = |code| fallbacks(code).collect::<Vec<_>>();
        assert_eq!(list("pt-BR"), ["pt-BR", "pt"]);
        assert_eq!(list("hi-Latn-IN"), ["hi-Latn-IN", "hi-Latn", "hi"]);
        assert_eq!(list("zh_tw"), ["zh_tw", "zh-Hant", "zh"]);
        assert_eq!(list("en"), ["en"]);
    }

    #[test]
    fn related_languages() {
        for (a, b) in [("zh", "zh-Hant"), ("hi-Latn", "hi"), ("id", "ms"), ("pt-BR", "PT"), ("de", "de")] {
            assert!(related(a, b) && related(b, a), "{a} {b}");
        }
        for (a, b) in [("de", "en"), ("zh", "ja"), ("id", "it")] {
            assert!(!related(a, b) && !related(b, a), "{a} {b}");
        }
    }

    #[test]
    fn codes() {
        assert!(["en", "hi-Latn", "pt_BR", "fil", "zh-Hant-TW"].into_iter().all(is_code));
        assert!(!["", "e", "english", "en-", "-", "en US", "日本", "mul.x"].into_iter().any(is_code));
    }
}
