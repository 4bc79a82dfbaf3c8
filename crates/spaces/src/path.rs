//! Names and paths in a space.

use potluck_types::limits;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why text is no path in a space.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Empty, `.` or `..`.
    #[error("`{0}` is not a name for a file or directory")]
    Reserved(String),
    /// A slash or a NUL byte.
    #[error("the name `{}` has a slash or a NUL byte in it", .0.escape_default())]
    Character(String),
    /// Over 255 bytes, which no common file system could hold.
    #[error("a name of {len} bytes is over the limit of {}: `{start}…`", limits::NAME_BYTES_MAX)]
    NameTooLong {
        /// Its length.
        len: usize,
        /// How it begins.
        start: String,
    },
    /// Over 4,096 bytes.
    #[error("a path of {len} bytes is over the limit of {}", limits::PATH_BYTES_MAX)]
    PathTooLong {
        /// Its length.
        len: usize,
    },
}

/// The name of a file or directory: 1 to 255 bytes of UTF-8 without `/` and NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        if matches!(&*text, "" | "." | "..") {
            Err(PathError::Reserved(text))
        } else if text.contains(['/', '\0']) {
            Err(PathError::Character(text))
        } else if text.len() > limits::NAME_BYTES_MAX {
            Err(PathError::NameTooLong {
                len: text.len(),
                start: text.chars().take(20).collect(),
            })
        } else {
            Ok(Self(text))
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A place in a space: names from the root down; none for the root itself. Its text form starts with `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(Vec<Name>);

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// The names from the root down.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// The place of this name below.
    #[must_use]
    pub fn join(&self, name: Name) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }

    /// This path followed by another.
    #[must_use]
    pub fn concat(&self, below: &Self) -> Self {
        Self(self.0.iter().chain(&below.0).cloned().collect())
    }

    /// The directory that holds this, and its name there; none for the root.
    pub fn split(&self) -> Option<(Self, &Name)> {
        let (name, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), name))
    }

    /// Whether this is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl FromStr for Path {
    type Err = PathError;

    /// Slashes at the start, at the end and in a row count as one; `.` and `..` are refused, not resolved.
    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.len() > limits::PATH_BYTES_MAX {
            return Err(PathError::PathTooLong { len: text.len() });
        }
        let names = text
            .split('/')
            .filter(|name| !name.is_empty())
            .map(|name| Name::try_from(name.to_owned()));
        names.collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for Path {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.to_string()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_canonical() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(
                text.parse::<Path>().ok().map(|path| path.to_string()).as_deref(),
                expected,
                "{text:?}"
            );
        };
        check("", Some("/"));
        check("/", Some("/"));
        check("a/b", Some("/a/b"));
        check("//a//b/", Some("/a/b"));
        check("/a/../b", None);
        check("/./a", None);
        check("/a\0b", None);
        check(&"x".repeat(256), None);
        check(&"x/".repeat(3000), None);
        check("/naïve/файл/\u{1b}[31m\n", Some("/naïve/файл/\u{1b}[31m\n"));
    }

    proptest! {
        #[test]
        fn text_comes_back(text: String) {
            if let Ok(path) = text.parse::<Path>() {
                prop_assert_eq!(path.to_string().parse::<Path>().unwrap(), path);
            }
        }
    }
}
