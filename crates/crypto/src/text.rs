//! What people pass on as text: base32 behind a name and the number of a version, with a checksum. It survives copying, dictation in capitals and line breaks, and one that
//! is mistyped is told from one that is refused for another reason.

use data_encoding::BASE32_NOPAD;
use potluck_types::Hash;
use zeroize::Zeroizing;

const CHECKSUM_BYTES: usize = 4;

/// One kind of text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// What it starts with.
    pub(crate) name: &'static str,
    /// The only version that is read and written; one digit.
    pub(crate) version: u32,
    /// Characters, with the white space that came in between.
    pub(crate) chars_max: usize,
}

/// Why text is not of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TextError {
    /// It does not start as one.
    Other,
    /// Some of its characters are wrong or missing.
    Typo,
    /// It is longer than any.
    TooLong(usize),
    /// A newer program made it.
    FutureVersion(u32),
}

impl Kind {
    /// Writes bytes, which are a secret, as text.
    pub(crate) fn write(self, bytes: &[u8]) -> Zeroizing<String> {
        let summed = Zeroizing::new([bytes, &checksum(bytes)].concat());
        let digits = Zeroizing::new(BASE32_NOPAD.encode(&summed));
        let digits = Zeroizing::new(digits.to_ascii_lowercase());
        Zeroizing::new(format!("{}{}{}", self.name, self.version, digits.as_str()))
    }

    /// The bytes that text stands for.
    pub(crate) fn read(self, text: &str) -> Result<Zeroizing<Vec<u8>>, TextError> {
        if text.len() > self.chars_max {
            return Err(TextError::TooLong(text.len()));
        }
        let compact: Zeroizing<String> =
            Zeroizing::new(text.split_whitespace().collect::<String>().to_ascii_uppercase());
        let rest = compact
            .strip_prefix(&self.name.to_ascii_uppercase())
            .ok_or(TextError::Other)?;
        // Base32 has the digits 2 to 7, so a version ends where the first digit does.
        let version = rest.chars().next().and_then(|digit| digit.to_digit(10));
        let version = version.ok_or(TextError::Other)?;
        if version != self.version {
            return Err(TextError::FutureVersion(version));
        }
        let bytes = BASE32_NOPAD.decode(&rest.as_bytes()[1..]);
        let mut bytes = Zeroizing::new(bytes.map_err(|_| TextError::Typo)?);
        let (record, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TextError::Typo)?;
        if *sum != checksum(record) {
            return Err(TextError::Typo);
        }
        let len = record.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *Hash::of(record)
        .as_bytes()
        .first_chunk()
        .expect("a hash has more than 4 bytes")
}
