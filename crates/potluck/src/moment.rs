//! Moments as people type them: `2026-11-26`, `2026-11-26T03:00`, `2026-11-26T03:00:07.123Z`, or `2h` for two hours ago. Always in UTC, as they are
//! printed.

use crate::span::Span;
use potluck_types::Timestamp;
use std::str::FromStr;

/// Why text is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a moment: write `2026-11-26T03:00:00Z`, in UTC, or a day, or how long ago: `2h`")]
pub(crate) struct ParseMomentError(String);

/// A moment, or how long ago it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// By date and time.
    At(Timestamp),
    /// Before now.
    Ago(Span),
}

impl Moment {
    /// Which moment, when it is `now`.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => {
                let ago = u64::try_from(span.duration().as_millis()).unwrap_or(u64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(ago))
            }
        }
    }
}

impl FromStr for Moment {
    type Err = ParseMomentError;

    fn from_str(text: &str) -> Result<Self, ParseMomentError> {
        if let Ok(span) = text.parse() {
            return Ok(Self::Ago(span));
        }
        let millis = parse(text.trim()).ok_or_else(|| ParseMomentError(text.chars().take(40).collect()))?;
        Ok(Self::At(Timestamp::from_millis(millis)))
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = match time.len() {
        5 => {
            let [hour, minute] = numbers(time, ':', [2, 2])?;
            [hour, minute, 0]
        }
        _ => numbers(time, ':', [2, 2, 2])?,
    };
    let is_digits = !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
    let is_time = hour < 24 && minute < 60 && second < 60;
    if !is_digits || !is_time || year < 1970 || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day)
    {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some((((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut found = [0; N];
    let mut parts = text.split(between);
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_read_as_people_write_them() {
        let check = |text: &str, expected: &str| {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(
                moment.resolve(Timestamp::from_millis(1_795_269_720_000)).precise(),
                expected,
                "{text}"
            );
        };
        check("2026-11-21T14:02:00Z", "2026-11-21T14:02:00.000Z");
        check("2026-11-21 14:02", "2026-11-21T14:02:00.000Z");
        check("2024-02-29", "2024-02-29T00:00:00.000Z");
        check("2026-11-21T14:02:07.1", "2026-11-21T14:02:07.100Z");
        check("2h", "2026-11-21T12:02:00.000Z");
        for wrong in [
            "",
            "yesterday",
            "2026-13-01",
            "2025-02-29",
            "2026-11-21T24:00",
            "1969-01-01",
            "26-11-21",
            "2026-11-21T1:2",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in 0u64..4_102_444_800_000, text: String) {
            let printed = Timestamp::from_millis(millis).precise();
            prop_assert_eq!(printed.parse::<Moment>().unwrap(), Moment::At(Timestamp::from_millis(millis)));
            let _ = text.parse::<Moment>();
        }
    }
}
