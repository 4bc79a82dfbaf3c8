//! The canonical encoding: DAG-CBOR, in the one form that a value has.
//!
//! All that is signed, hashed, stored or sent goes through these functions. Decoding accepts only the
//! bytes that encoding would have made, so that a record has one hash and a signature covers one reading of it; where nodes of several versions talk to each
//! other it also accepts what a later one would have made.

use ipld_core::ipld::Ipld;
use serde::{Serialize, de::DeserializeOwned};

/// What later versions have added to is looked at up to this length, which all records and almost all messages are below: it takes some tens of times its memory.
const LATER_BYTES_MAX: usize = 64 << 10;

/// Why bytes are not the canonical encoding of the expected type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes are not DAG-CBOR, or not of this type.
    #[error("malformed record of {len} bytes: {reason}")]
    Malformed {
        /// How many bytes were given.
        len: usize,
        /// What the decoder says.
        reason: String,
    },
    /// The bytes decode, but another encoding of the same value is the canonical one.
    #[error("record of {len} bytes is not in canonical form")]
    NotCanonical {
        /// How many bytes were given.
        len: usize,
    },
}

/// Encodes a value canonically.
///
/// # Panics
/// When the type itself has no DAG-CBOR form (a map with keys that are no strings, say): a mistake in the
/// code, found by the first test that encodes one.
pub fn to_canonical<T: Serialize>(value: &T) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("every record type has a DAG-CBOR form")
}

/// Decodes a value, and refuses every encoding of it but the canonical one.
pub fn from_canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let value: T = from_own(bytes)?;
    if to_canonical(&value) == bytes {
        Ok(value)
    } else {
        Err(CodecError::NotCanonical { len: bytes.len() })
    }
}

/// Decodes what this machine has encoded and kept itself. Whether the form is canonical was settled then, and is not looked at again: that takes as long as the decoding.
pub fn from_own<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    serde_ipld_dagcbor::from_slice(bytes).map_err(|error| CodecError::Malformed {
        len: bytes.len(),
        reason: error.to_string(),
    })
}

/// Decodes a value in which later versions may say more: fields of maps that this version does not know are passed over. The bytes are in canonical form all the
/// same. What must not be passed over comes with another version of the record, or another name of the message.
pub fn from_canonical_or_later<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match from_canonical(bytes) {
        Err(CodecError::NotCanonical { len }) if len <= LATER_BYTES_MAX => {
            from_canonical::<Ipld>(bytes)?;
            from_own(bytes)
        }
        decoded => decoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Known {
        id: u64,
        names: Vec<String>,
    }

    /// As a later version might say it.
    #[derive(Serialize)]
    struct Later {
        id: u64,
        names: Vec<String>,
        more: Vec<Option<bool>>,
    }

    fn later(names: Vec<String>) -> Vec<u8> {
        let (id, more) = (7, vec![None, Some(true)]);
        to_canonical(&Later { id, names, more })
    }

    #[test]
    fn what_later_versions_add_is_passed_over() {
        let known = Known {
            id: 7,
            names: vec!["a".to_owned()],
        };
        let later = later(known.names.clone());
        assert!(matches!(
            from_canonical::<Known>(&later),
            Err(CodecError::NotCanonical { .. })
        ));
        assert_eq!(from_canonical_or_later::<Known>(&later).unwrap(), known);
        // In canonical form, whatever it says; and with all that this version must know.
        let at = later.windows(2).position(|pair| pair == [b'd', 7]).unwrap();
        let longer = [&later[..=at], &[0x18, 7], &later[at + 2..]].concat();
        assert!(from_canonical_or_later::<Known>(&longer).is_err());
        let in_another_order = b"\xa3eafter\x01bid\x07enames\x80";
        assert!(from_canonical_or_later::<Known>(in_another_order).is_err());
        assert!(from_canonical_or_later::<Known>(&to_canonical(&[("id", 7)])).is_err());
    }

    #[test]
    fn what_is_long_is_what_this_version_says() {
        let long = Known {
            id: 7,
            names: vec!["a".repeat(LATER_BYTES_MAX)],
        };
        assert_eq!(from_canonical_or_later::<Known>(&to_canonical(&long)).unwrap(), long);
        assert!(from_canonical_or_later::<Known>(&later(long.names)).is_err());
    }

    proptest! {
        #[test]
        fn a_value_comes_back(value: (u64, String, Vec<Option<i32>>)) {
            prop_assert_eq!(from_canonical::<(u64, String, Vec<Option<i32>>)>(&to_canonical(&value)).unwrap(), value);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = from_canonical::<(u64, String, Vec<Option<i32>>)>(&bytes);
            let _ = from_canonical_or_later::<Known>(&bytes);
        }
    }

    #[test]
    fn a_longer_form_of_the_same_number_is_refused() {
        assert!(from_canonical::<u64>(&[0x18, 0x05]).is_err());
        assert_eq!(from_canonical::<u64>(&[0x05]).unwrap(), 5);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert!(from_canonical::<u64>(&[0x05, 0x05]).is_err());
    }
}
