//! Spans of time as people type them: `90s`, `15m`, `24h`, `7d`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Why text is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a span of time: write a number and a unit, `90s`, `15m`, `24h` or `7d`")]
pub(crate) struct ParseSpanError(String);

/// A span of whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(u64);

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl Span {
    /// So many seconds.
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// As the standard library has it.
    pub(crate) const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let wrong = || ParseSpanError(text.chars().take(40).collect());
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| text.trim().strip_suffix(*unit).map(|number| (number, *factor)))
            .ok_or_else(wrong)?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl TryFrom<String> for Span {
    type Error = ParseSpanError;

    fn try_from(text: String) -> Result<Self, ParseSpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// In the largest unit that loses nothing.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .into_iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print() {
        let check = |text: &str, expected: Option<(u64, &str)>| {
            let span = text.parse::<Span>().ok().map(|span| (span.0, span.to_string()));
            assert_eq!(
                span,
                expected.map(|(seconds, text)| (seconds, text.to_owned())),
                "{text:?}"
            );
        };
        check("90s", Some((90, "90s")));
        check("15m", Some((900, "15m")));
        check("24h", Some((86_400, "1d")));
        check("0s", Some((0, "0s")));
        for wrong in ["", "15", "m", "-1s", "1.5h", "99999999999999999999d", "1w"] {
            check(wrong, None);
        }
    }
}
