//! Times of records: milliseconds since 1970, written as RFC 3339 in UTC.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The end of the year 9999, the last that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;
const DAY_MS: u64 = 86_400_000;

/// A point in time, to the millisecond. Times before 1970 become its start, times after 9999 its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since 1970-01-01T00:00:00Z.
    pub fn from_unix_ms(ms: u64) -> Self {
        Timestamp(ms.min(LAST_MS))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_ms(self) -> u64 {
        self.0
    }

    /// The UTC day, such as `2026-11-30`.
    pub fn date(self) -> String {
        let mut date = self.to_string();
        date.truncate(10);
        date
    }

    /// Midnight before.
    pub(super) fn start_of_day(self) -> Self {
        Timestamp(self.0 - self.0 % DAY_MS)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        humantime::parse_rfc3339(text).ok().map(Timestamp::from)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let ms = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Timestamp::from_unix_ms(u64::try_from(ms).unwrap_or(LAST_MS))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Timestamp::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no RFC 3339 time in UTC")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_out_of_range_are_held_at_the_ends() {
        let before = Timestamp::from(UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!((before.to_string().as_str(), before.unix_ms()), ("1970-01-01T00:00:00.000Z", 0));
        let after = Timestamp::from_unix_ms(u64::MAX);
        assert_eq!((after.to_string().as_str(), after.date().as_str()), ("9999-12-31T23:59:59.999Z", "9999-12-31"));
        assert_eq!(after.start_of_day().to_string(), "9999-12-31T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn a_time_survives_json(ms in 0..=LAST_MS) {
            let time = Timestamp::from_unix_ms(ms);
            let json = serde_json::to_string(&time).unwrap();
            prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text in "\\PC{0,40}|[0-9T:.Z+-]{15,30}") {
            if let Some(time) = Timestamp::parse(&text) {
                prop_assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
            }
        }
    }
}
