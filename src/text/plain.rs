//! The quick way: text of which every character has a normal form of its own, in one pass.
//!
//! Most messages are such text. What is not, in whole, is left to the long way, which this one agrees with.

use super::{MAX_MARKS, MAX_RUN};

/// What a character is, as far as the rules between characters ask.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Space,
    /// A letter of Latin script.
    Latin,
    /// A letter of a script that has look-alikes of Latin letters.
    LookAlike,
    /// Any other letter.
    Letter,
    Digit,
    /// A combining mark.
    Mark,
    /// A pictograph or a sign that can stand between the letters of a spelled-out word.
    Between,
    Sign,
}

/// Gaps between letters or digits from which on the long way has to look for spelled-out words.
const GAPS: usize = 3;

/// Appends the normal form of `text` to `out`; on `false` what was appended is no normal form.
pub(super) fn normalize(text: &str, out: &mut String) -> bool {
    let mut writer = Writer { out, last: '\0', kind: Kind::Space, run: 0, marks: 0, gaps: 0, scripts: [false; 2] };
    let first = writer.out.len();
    for c in text.chars() {
        let Some((plain, kind)) = plain(c, writer.last) else { return false };
        if kind == Kind::Space {
            if writer.out.len() > first {
                writer.kind = Kind::Space;
                writer.scripts = [false; 2];
            }
            continue;
        }
        match plain {
            // Compatibility forms of several characters.
            '…' => (0..3).for_each(|_| writer.push('.', Kind::Between, first)),
            'ำ' => {
                writer.push('\u{e4d}', Kind::Mark, first);
                writer.push('\u{e32}', Kind::Letter, first);
            }
            plain => writer.push(plain, kind, first),
        }
        if writer.gaps >= GAPS || writer.scripts == [true; 2] {
            return false;
        }
    }
    true
}

struct Writer<'a> {
    out: &'a mut String,
    last: char,
    /// Of the last character, space included.
    kind: Kind,
    run: usize,
    marks: usize,
    gaps: usize,
    /// Whether the letters since the last other character include Latin ones, and possible look-alikes.
    scripts: [bool; 2],
}

impl Writer<'_> {
    #[inline(always)]
    fn push(&mut self, c: char, kind: Kind, first: usize) {
        if self.kind == Kind::Space {
            if self.out.len() > first {
                self.out.push(' ');
                self.last = ' ';
            }
            (self.run, self.marks) = (0, 0);
        }
        let letter_or_digit = matches!(kind, Kind::Latin | Kind::LookAlike | Kind::Letter | Kind::Digit);
        self.gaps += usize::from(letter_or_digit && self.kind == Kind::Between);
        match kind {
            Kind::Latin => self.scripts[0] = true,
            Kind::LookAlike => self.scripts[1] = true,
            Kind::Letter | Kind::Mark => {}
            _ => self.scripts = [false; 2],
        }
        self.run = if c == self.last { self.run + 1 } else { 1 };
        self.marks = if kind == Kind::Mark { self.marks + 1 } else { 0 };
        (self.last, self.kind) = (c, kind);
        if (self.run <= MAX_RUN || kind == Kind::Digit) && self.marks <= MAX_MARKS {
            self.out.push(c);
        }
    }
}

/// The lower-cased normal form of a character that neither joins nor changes places with what stands `before` it; `None`
/// if it is not as simple as that.
#[inline(always)]
fn plain(c: char, before: char) -> Option<(char, Kind)> {
    let plus = |offset: u32| char::from_u32(c as u32 + offset);
    Some(match c {
        'a'..='z' => (c, Kind::Latin),
        'A'..='Z' => (c.to_ascii_lowercase(), Kind::Latin),
        '0'..='9' => (c, Kind::Digit),
        ' ' | '\t' | '\n' | '\r' | '\u{a0}' | '\u{3000}' => (' ', Kind::Space),
        '.' | '-' | '_' | '*' => (c, Kind::Between),
        '!'..='~' => (c, Kind::Sign),
        'ß'..='ö' | 'ø'..='ÿ' => (c, Kind::Latin),
        'À'..='Ö' | 'Ø'..='Þ' => (plus(32)?, Kind::Latin),
        '\u{100}'..='\u{12f}' | '\u{14a}'..='\u{177}' | '\u{1ea0}'..='\u{1ef9}' => {
            (plus(1 - c as u32 % 2)?, Kind::Latin)
        }
        '\u{139}'..='\u{13e}' | '\u{141}'..='\u{148}' | '\u{179}'..='\u{17e}' => (plus(c as u32 % 2)?, Kind::Latin),
        'ı' | 'ơ' | 'ư' => (c, Kind::Latin),
        'Ơ' | 'Ư' => (plus(1)?, Kind::Latin),
        'а'..='я' | 'ё' | 'є' | 'і' | 'ї' => (c, Kind::LookAlike),
        'А'..='Я' => (plus(32)?, Kind::LookAlike),
        'Ё' | 'Є' | 'І' | 'Ї' => (plus(80)?, Kind::LookAlike),
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{ac00}'..='\u{d7a3}' => (c, Kind::Letter),
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | 'ー' => (c, Kind::Letter),
        '、'..='〃' | '〈'..='】' | '〔'..='〛' | '・' => (c, Kind::Sign),
        '\u{ff01}'..='\u{ff5e}' => return plain(char::from_u32(c as u32 - 0xfee0)?, before),
        // Consonants and vowels; those with a dot in one code point fall apart.
        '\u{904}'..='\u{939}' | '\u{93d}' | '\u{950}' => (c, Kind::Letter),
        '\u{900}'..='\u{903}' | '\u{93e}'..='\u{94c}' => (c, Kind::Mark),
        // The sign for no vowel, unless it has to pass a Thai mark.
        '\u{94d}' if !matches!(before, '\u{e38}' | '\u{e39}' | '\u{e48}'..='\u{e4b}') => (c, Kind::Mark),
        // The dot, where it neither makes one code point of two nor has a mark to pass.
        '\u{93c}' if matches!(before, '\u{915}'..='\u{939}') && !matches!(before, 'न' | 'र' | 'ळ') => {
            (c, Kind::Mark)
        }
        '।' | '॥' => (c, Kind::Sign),
        '०'..='९' | '٠'..='٩' | '۰'..='۹' => (c, Kind::Digit),
        'ก'..='ะ' | 'า' | 'ำ' | 'เ'..='ๆ' => (c, Kind::Letter),
        'ั' | '\u{e34}'..='\u{e37}' | '\u{e47}'..='\u{e4e}' => (c, Kind::Mark),
        // The vowels below, unless they have to pass a tone mark.
        '\u{e38}' | '\u{e39}' if !matches!(before, '\u{e48}'..='\u{e4b}') => (c, Kind::Mark),
        '\u{621}'..='\u{63a}' | '\u{641}'..='\u{64a}' | '\u{679}'..='\u{6bf}' | 'ہ' | 'ی' | 'ے' => (c, Kind::Letter),
        '،' | '؛' | '؟' => (c, Kind::Sign),
        '¿' | '¡' | '«' | '»' | '£' | '¥' | '€' | '₹' | '₽' | '₺' | '₩' | '°' | '—' | '‘'..='”' => {
            (c, Kind::Sign)
        }
        '·' | '•' | '–' | '…' => (c, Kind::Between),
        '\u{2600}'..='\u{26ff}' | '❤' | '✅' | '✨' | '❌' | '❗' | '❓' => (c, Kind::Between),
        '\u{1f300}'..='\u{1f64f}' | '\u{1f680}'..='\u{1f6ff}' | '\u{1f900}'..='\u{1faff}' => (c, Kind::Between),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::normalize_at_length, *};
    use proptest::prelude::*;

    fn agrees(text: &str) {
        let mut quick = String::new();
        if normalize(text, &mut quick) {
            let mut long = String::new();
            normalize_at_length(text, &mut Default::default(), &mut long);
            assert_eq!(quick, long, "{text:?}");
        }
    }

    #[test]
    fn every_character_agrees_beside_every_kind_of_neighbour() {
        for c in '\0'..=char::MAX {
            for (left, right) in [
                ("", ""),
                ("a", "b"),
                ("д", "b"),
                ("न", "\u{93c}"),
                ("क", "\u{94d}"),
                ("ก", "\u{e38}"),
                ("ا", "ا"),
                ("か", "가"),
                (" ", "1"),
            ] {
                agrees(&format!("{left}{c}{right}"));
            }
            agrees(&String::from(c).repeat(6));
        }
    }

    #[test]
    fn ordinary_text_takes_the_quick_way() {
        for text in [
            "¿Dónde está mi pedido? Llegó el 3…",
            "Wann kommt die Lieferung – heute?",
            "Где мой ЗАКАЗ, ёлки",
            "你们家那个蓝色的杯子还有货吗，有的话我要两个！",
            "배송 언제 와요? 😀",
            "मेरा ऑर्डर कब तक आएगा, दो हफ़्ते हो गए।",
            "สั่งน้ำไปแล้ว ยังไม่ได้เลยค่ะ",
            "ابغى احجز موعد يوم الاحد العصر؟",
            "tôi muốn đặt hàng Ở ĐÂU",
            "Kargom nerede? Şikâyet ığdır",
        ] {
            assert!(normalize(text, &mut String::new()), "{text}");
            agrees(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_agrees(text in any::<String>()) {
            agrees(&text);
        }

        #[test]
        fn text_of_plain_characters_agrees(
            text in "[a-cA-C .\\-_0-9!À-ÿĀ-žƠưа-яА-ЯёЁ你好か가ー！Ａ０　क-हा-्\u{93c}\u{904}ก-์\u{e33}ا-ي٠۰،…–•❤\u{fe0f}😀👍🏽\u{200d}\u{301}]{0,30}"
        ) {
            agrees(&text);
        }
    }
}
