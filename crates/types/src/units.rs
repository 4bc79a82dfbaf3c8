//! What people type: sizes, zones, names of machines and spaces.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Why text is not one of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseUnitError {
    /// Not a number with a unit.
    #[error("`{0}` is not a size: write a number and a unit, `200GB` or `1.5TiB`")]
    Size(String),
    /// Not a name for a failure domain.
    #[error("`{0}` is not a zone: use 1 to 64 letters, digits, `-`, `_` or `.`")]
    Zone(String),
    /// Not a name for a region.
    #[error("`{0}` is not a region: use 1 to 64 letters, digits, `-`, `_` or `.`")]
    Region(String),
    /// Not a name for a machine.
    #[error("`{0}` is not a name for a machine: use 1 to 64 letters, digits, `-`, `_` or `.`")]
    MachineName(String),
    /// Not a name for a person.
    #[error("`{0}` is not a name for a person: use 1 to 64 letters, digits, `-`, `_` or `.`")]
    UserName(String),
    /// Not a name for a space.
    #[error("`{0}` is not a name for a space: use 1 to 64 letters, digits, `-`, `_` or `.`")]
    SpaceName(String),
}

/// A number of bytes, written `200GB` (powers of 1000) or `1.5TiB` (powers of 1024).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(pub u64);

/// More than any machine has; beyond it, three digits of a size may say more than a number holds.
const BYTES_MAX: u64 = 1_000_000_000_000_000_000;

const UNITS: [(&str, u64); 11] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("b", 1),
];

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let wrong = || ParseUnitError::Size(text.chars().take(40).collect());
        let lower = text.trim().to_ascii_lowercase();
        let split = lower
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(lower.len());
        let (number, unit) = (&lower[..split], lower[split..].trim());
        let factor = match unit {
            "" => 1,
            "k" => 1_000,
            "m" => 1_000_000,
            "g" => 1_000_000_000,
            "t" => 1_000_000_000_000,
            _ => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        if let Ok(whole) = number.parse::<u64>() {
            let bytes = whole.checked_mul(factor).filter(|bytes| *bytes <= BYTES_MAX);
            return bytes.map(Self).ok_or_else(wrong);
        }
        let fraction: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = fraction * factor as f64;
        if bytes.is_finite() && bytes <= BYTES_MAX as f64 {
            Ok(Self(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

/// Three significant digits in powers of 1000, as disks are sold: `1.50 GB`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is rounded up to the next unit, or to one digit more, is shown as that.
        let value_in = |factor: u64| self.0 as f64 / factor as f64;
        let text = match UNITS[5..10]
            .iter()
            .rev()
            .find(|(_, factor)| value_in(*factor) >= 0.9995)
        {
            None => format!("{} B", self.0),
            Some((unit, factor)) => {
                let value = value_in(*factor);
                let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
                let unit = if *unit == "kb" {
                    "kB".to_owned()
                } else {
                    unit.to_ascii_uppercase()
                };
                format!("{value:.decimals$} {unit}")
            }
        };
        f.pad(&text)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

/// From a number of bytes or, where people write it, from text.
impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or text such as \"200GB\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes)
                    .map(ByteSize)
                    .map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $error:ident) => {
        label!($(#[$doc])* $name, $error, str::to_owned);
    };
    ($(#[$doc:meta])* $name:ident, $error:ident, $as_kept:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseUnitError;

            fn from_str(text: &str) -> Result<Self, ParseUnitError> {
                if is_label(text) {
                    Ok(Self($as_kept(text)))
                } else {
                    Err(ParseUnitError::$error(text.chars().take(80).collect()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseUnitError;

            fn try_from(text: String) -> Result<Self, ParseUnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

label! {
    /// A failure domain that a node declares: a house, a rack, a cloud region. Machines of one zone are expected
    /// to fail together, so no two shards of a stripe share one while zones suffice.
    Zone, Zone
}

label! {
    /// Where a machine stands, as it says itself: a country, a jurisdiction. A space may be kept in some regions only. In small letters, whatever was typed: `EU` is `eu`.
    Region, Region, str::to_ascii_lowercase
}

/// Where the data of a space may be: on machines that say that they stand in one of these regions.
pub type Regions = BTreeSet<Region>;

label! {
    /// What a person calls a machine. Nothing rests on it: two may have the same.
    MachineName, MachineName
}

label! {
    /// What a person calls a space: what comes before the colon of `photos:/2026`. Others may call it otherwise.
    SpaceName, SpaceName
}

label! {
    /// What a person wants to be called. Nothing rests on it: two may have the same.
    UserName, UserName
}

impl SpaceName {
    const HOME: &'static str = "home";

    /// What everybody calls their private space.
    pub fn home() -> Self {
        Self(Self::HOME.to_owned())
    }

    /// Whether it is that.
    pub fn is_home(&self) -> bool {
        self.0 == Self::HOME
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let check = |text: &str, bytes| assert_eq!(text.parse::<ByteSize>().ok(), bytes, "{text}");
        check("200GB", Some(ByteSize(200_000_000_000)));
        check("1.5 TiB", Some(ByteSize(1_649_267_441_664)));
        check("4096", Some(ByteSize(4096)));
        check("10g", Some(ByteSize(10_000_000_000)));
        check("0", Some(ByteSize(0)));
        for wrong in ["", "GB", "-1GB", "1e5", "99999999999PB", "1.2.3GB", "ten"] {
            check(wrong, None);
        }
    }

    /// The fuzzer found one that was taken, and whose text was not.
    #[test]
    fn the_largest_size_comes_back_from_its_text() {
        for text in ["18446744073709551615", "18446PB", "1001PB", "1000.1PB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        let largest: ByteSize = "999999999999999999".parse().unwrap();
        assert_eq!(largest.to_string().parse(), Ok(ByteSize(BYTES_MAX)));
    }

    #[test]
    fn a_region_is_the_same_however_it_is_typed() {
        let region = |text: &str| text.parse::<Region>().unwrap();
        assert_eq!(region("EU"), region("eu"));
        assert_eq!(region("EU").as_str(), "eu");
        assert!("e u".parse::<Region>().is_err());
    }

    #[test]
    fn sizes_print_three_digits() {
        let check = |bytes, text: &str| assert_eq!(ByteSize(bytes).to_string(), text);
        check(0, "0 B");
        check(999, "999 B");
        check(1_500, "1.50 kB");
        check(268_435_456, "268 MB");
        check(2_000_000_000_000, "2.00 TB");
        // The fuzzer found these with four digits.
        check(9_999_999_999, "10.0 GB");
        check(99_960_000, "100 MB");
        check(999_900_000_000, "1.00 TB");
        check(999_499, "999 kB");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_size_panic(text: String) {
            let _ = text.parse::<ByteSize>();
            assert_eq!(text.parse::<Zone>().is_ok(), text.parse::<MachineName>().is_ok());
        }
    }
}
