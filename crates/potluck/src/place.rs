//! Places as people type them: `home:/photos/a.jpg` in a space, `0-99` in a file; and names as terminals can show them.

use crate::{complaint::Complaint, local::message::Source};
use potluck_crypto::{Link, ParseLinkError};
use potluck_spaces::Path;
use potluck_types::SpaceName;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParsePlaceError {
    /// It is a link, where a place in a space is needed.
    #[error("this is a link: it can be listed and read (`ls`, `get`, `cat`, `stat`), and nothing else")]
    IsLink,
    /// There is no space name in it.
    #[error("`{0}` names no space")]
    NoSpace(String),
    /// What comes before the colon is no name of a space.
    #[error(transparent)]
    Space(#[from] potluck_types::ParseUnitError),
    /// It begins as a link, and is none.
    #[error(transparent)]
    Link(#[from] ParseLinkError),
    /// The path is impossible.
    #[error(transparent)]
    Path(#[from] potluck_spaces::PathError),
}

impl From<ParsePlaceError> for Complaint {
    fn from(error: ParsePlaceError) -> Self {
        if let ParsePlaceError::Link(error) = error {
            return error.into();
        }
        Self::usage(error.to_string()).hint("a place is written `home:/PATH`; `potluck space ls` names your spaces")
    }
}

/// A path in a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// What the person calls the space.
    pub(crate) space: SpaceName,
    /// The path.
    pub(crate) path: Path,
    /// Whether it was typed as a directory: with a slash at its end, or as the space alone.
    pub(crate) is_directory: bool,
}

impl FromStr for Place {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, ParsePlaceError> {
        if is_link(text) {
            return Err(ParsePlaceError::IsLink);
        }
        let Some((space, path)) = text.split_once(':') else {
            return Err(ParsePlaceError::NoSpace(text.to_owned()));
        };
        Ok(Self {
            space: space.parse()?,
            path: path.parse()?,
            is_directory: path.is_empty() || path.ends_with('/'),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.space, escape(&self.path.to_string()))
    }
}

impl Place {
    /// The root of the private space.
    pub(crate) fn root() -> Self {
        Self::root_of(SpaceName::home())
    }

    /// The root of a space.
    pub(crate) fn root_of(space: SpaceName) -> Self {
        Self {
            space,
            path: Path::root(),
            is_directory: true,
        }
    }

    /// Another path in the same space.
    pub(crate) fn at(&self, path: &Path) -> Self {
        Self {
            space: self.space.clone(),
            path: path.clone(),
            is_directory: false,
        }
    }
}

/// What a link's text starts with.
const LINK: &str = "potlink1";
/// A link that is on standard input.
const INPUT: &str = "-";
/// So much of a link is shown where it is mentioned: the rest of it is a secret.
const LINK_CHARS_SHOWN: usize = 14;

/// Whether text begins as a link does.
fn is_link(text: &str) -> bool {
    let start = text.trim_start().get(..LINK.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(LINK))
}

/// What can be listed and read: a path in a space, or below what a link shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    /// What the path begins in.
    pub(crate) from: Source,
    /// The path.
    pub(crate) path: Path,
    /// Whether a password is needed that is not there yet.
    pub(crate) needs_password: bool,
}

impl From<Place> for Spot {
    fn from(place: Place) -> Self {
        Self {
            from: Source::Space(place.space),
            path: place.path,
            needs_password: false,
        }
    }
}

impl FromStr for Spot {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, ParsePlaceError> {
        if text == INPUT {
            return Ok(Self {
                from: Source::Link {
                    link: String::new(),
                    password: None,
                },
                path: Path::root(),
                needs_password: false,
            });
        }
        if !is_link(text) {
            return Ok(text.parse::<Place>()?.into());
        }
        let (link, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let parsed: Link = link.parse()?;
        Ok(Self {
            from: Source::Link {
                link: parsed.to_string(),
                password: None,
            },
            path: path.parse()?,
            needs_password: parsed.needs_password,
        })
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escape(&self.path.to_string());
        match &self.from {
            Source::Space(space) => write!(f, "{space}:{path}"),
            Source::Link { link, .. } if self.path.names().is_empty() => write!(f, "{link:.LINK_CHARS_SHOWN$}…"),
            Source::Link { link, .. } => write!(f, "{link:.LINK_CHARS_SHOWN$}…{path}"),
        }
    }
}

impl Spot {
    /// Whether it is still to be read from standard input.
    pub(crate) fn is_on_input(&self) -> bool {
        matches!(&self.from, Source::Link { link, .. } if link.is_empty())
    }

    /// What it is called when nothing else has a name.
    pub(crate) fn root_name(&self) -> &str {
        match &self.from {
            Source::Space(space) => space.as_str(),
            Source::Link { .. } => "link",
        }
    }
}

/// Why text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a range of bytes: write `0-99` for the first hundred, `100-` for the rest, `-100` for the last hundred"
)]
pub(crate) struct ParseRangeError(String);

/// Which bytes of a file, as in HTTP: both ends count (RFC 9110, section 14.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ByteRange {
    /// From this byte to the end.
    From(u64),
    /// From the first byte to the second, which is not before it.
    Span(u64, u64),
    /// So many at the end.
    Last(u64),
}

impl ByteRange {
    /// The bytes of a file of this length. One that starts behind the end stays as it is, for the node to refuse.
    pub(crate) fn of(self, len: u64) -> std::ops::Range<u64> {
        match self {
            Self::From(first) => first..len.max(first),
            Self::Span(first, last) => first..last.saturating_add(1).min(len).max(first),
            Self::Last(count) => len.saturating_sub(count)..len,
        }
    }
}

impl FromStr for ByteRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let wrong = || ParseRangeError(text.chars().take(40).collect());
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten().ok_or_else(wrong)
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => number(first).map(Self::From),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if first <= last {
                    Ok(Self::Span(first, last))
                } else {
                    Err(wrong())
                }
            }
        }
    }
}

/// Text that a terminal prints as it is: control characters, and those that turn the direction of writing, are shown as escapes.
pub(crate) fn escape(text: &str) -> String {
    let unsafe_character = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if unsafe_character(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_read_as_people_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                text.parse::<Place>().ok().map(|place| place.to_string()).as_deref(),
                expected,
                "{text:?}"
            );
        };
        check("home:", Some("home:/"));
        check("home:/", Some("home:/"));
        check("home:/photos/a.jpg", Some("home:/photos/a.jpg"));
        check("home:photos//a.jpg/", Some("home:/photos/a.jpg"));
        check("home:/a:b", Some("home:/a:b"));
        check("home:/../etc", None);
        check("work:/a", Some("work:/a"));
        check("../work:/a", None);
        check(":/a", None);
        check("/photos", None);
        check("", None);
        let is_directory = |text: &str| text.parse::<Place>().unwrap().is_directory;
        assert!(
            is_directory("home:") && is_directory("home:/") && is_directory("home:/a/") && !is_directory("home:/a")
        );
    }

    #[test]
    fn ranges_count_both_ends() {
        let check = |text: &str, expected: Option<(u64, u64)>| {
            let range = text.parse::<ByteRange>().ok().map(|range| range.of(1000));
            assert_eq!(range.map(|range| (range.start, range.end)), expected, "{text:?}");
        };
        check("0-99", Some((0, 100)));
        check("100-", Some((100, 1000)));
        check("-100", Some((900, 1000)));
        check("-2000", Some((0, 1000)));
        check("990-5000", Some((990, 1000)));
        check("0-18446744073709551615", Some((0, 1000)));
        check("2000-", Some((2000, 2000)));
        for wrong in ["", "-", "99-0", "a-b", "+1-2", "1", "1-2-3", "0x1-2"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(escape("naïve файл"), "naïve файл");
        assert_eq!(escape("\u{1b}[31mred\r\n"), "\\u{1b}[31mred\\r\\n");
        assert_eq!(escape("a\u{202e}gpj.exe"), "a\\u{202e}gpj.exe");
    }

    proptest! {
        #[test]
        fn nothing_escaped_has_control_characters(text: String) {
            prop_assert!(!escape(&text).chars().any(char::is_control));
            let _ = (text.parse::<Place>(), text.parse::<ByteRange>());
        }
    }
}
