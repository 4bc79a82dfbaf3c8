//! The canonical encoding: DAG-CBOR, in the one form that a value has.
//!
//! All that is signed, hashed, stored or sent goes through these two functions. Decoding accepts only the
//! bytes that encoding would have made, so that a record has one hash and a signature covers one reading of it.

use serde::{Serialize, de::DeserializeOwned};

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
    let value: T = serde_ipld_dagcbor::from_slice(bytes).map_err(|error| CodecError::Malformed {
        len: bytes.len(),
        reason: error.to_string(),
    })?;
    if to_canonical(&value) == bytes {
        Ok(value)
    } else {
        Err(CodecError::NotCanonical { len: bytes.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_comes_back(value: (u64, String, Vec<Option<i32>>)) {
            prop_assert_eq!(from_canonical::<(u64, String, Vec<Option<i32>>)>(&to_canonical(&value)).unwrap(), value);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = from_canonical::<(u64, String, Vec<Option<i32>>)>(&bytes);
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
