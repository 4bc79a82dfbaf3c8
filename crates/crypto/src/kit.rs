//! The recovery kit: one file and one passphrase that bring a person's data back when every device of theirs is gone.
//!
//! It is an armored `age` file with a passphrase (<https://c2sp.org/age>), so that it can also be opened with the tool of that
//! name, and printed. The passphrase is stretched with scrypt; how much is bounded both ways, so that a kit is worth little to
//! a thief, and opening a hostile file costs at most a second or two and 1 GiB.
//!
//! `age` draws its own salt and nonce from the operating system: of this crate, only a kit does not follow from
//! its inputs alone.

use crate::{
    SigningKey,
    ticket::{is_address, is_pool_name},
};
use age::{DecryptError, Decryptor, armor::ArmoredReader, secrecy::SecretString};
use potluck_types::{
    CodecError, NodeId, PoolId, Timestamp, from_canonical,
    limits::{ADDRESSES_MAX, KIT_BYTES_MAX, KIT_MEMBERS_MAX},
    to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use std::{io::Read, iter};
use zeroize::{Zeroize, Zeroizing};

/// The only version so far: the first byte of what is encrypted.
const VERSION: u8 = 1;
/// The work factor of a new kit, as a power of two: about a second, and 256 MiB.
const WORK_FACTOR: u8 = 18;
/// The most work that opening a kit may take, for kits that `age` itself encrypted anew on a faster machine.
const WORK_FACTOR_MAX: u8 = 20;

/// What a person needs to come back.
#[derive(Clone, Debug)]
pub struct Kit {
    /// The person's key.
    pub user: SigningKey,
    /// The pool that holds their data.
    pub pool: PoolId,
    /// Its name.
    pub pool_name: String,
    /// Members through whom the pool can be found again.
    pub members: Vec<KitMember>,
    /// When the kit was made.
    pub made_at: Timestamp,
}

/// A member of the pool, as a kit knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KitMember {
    /// The node.
    pub node: NodeId,
    /// Where it was last reached, as multiaddrs.
    pub addresses: Vec<String>,
}

/// Why a kit cannot be made or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// The passphrase is another, or the part of the file that it is checked with is damaged.
    #[error("the passphrase does not open this recovery kit")]
    WrongPassphrase,
    /// The file is something else.
    #[error("this is not a recovery kit")]
    NotAKit,
    /// The file was a kit, but some of it was changed or is missing.
    #[error("the recovery kit is damaged")]
    Damaged,
    /// The file is larger than any kit.
    #[error("{len} bytes are more than a recovery kit has, which is {KIT_BYTES_MAX} at most")]
    TooLarge {
        /// How many bytes it has.
        len: usize,
    },
    /// The file demands more work than this program is willing to do.
    #[error("the file asks for 2^{required} rounds of scrypt, and a recovery kit for 2^{WORK_FACTOR_MAX} at most")]
    TooMuchWork {
        /// The power of two.
        required: u8,
    },
    /// It was made by a newer program.
    #[error("the recovery kit has version {version}, and this program reads {VERSION}: update it first")]
    FutureVersion {
        /// The version.
        version: u8,
    },
    /// It opens, but what is inside is no kit's content.
    #[error("the content of the recovery kit is unreadable")]
    Codec(#[source] CodecError),
    /// A name or address that is none, or too many of them.
    #[error("the recovery kit is impossible: its {field} is not one")]
    Impossible {
        /// Which part of it.
        field: &'static str,
    },
}

impl Kit {
    /// The kit's file: text. Takes about a second, on purpose.
    pub fn encrypt(&self, passphrase: &str) -> Result<Vec<u8>, KitError> {
        self.encrypt_with(passphrase, WORK_FACTOR)
    }

    /// Whether this can be a kit's file, as far as that shows without the passphrase.
    pub fn check(file: &[u8]) -> Result<(), KitError> {
        decryptor(file).map(drop)
    }

    /// Opens a kit's file. Takes about a second for a kit, and not much more for anything else.
    pub fn decrypt(file: &[u8], passphrase: &str) -> Result<Self, KitError> {
        let decryptor = decryptor(file)?;
        let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase));
        identity.set_max_work_factor(WORK_FACTOR_MAX);
        let mut reader = decryptor
            .decrypt(iter::once(&identity as _))
            .map_err(|error| match error {
                DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => KitError::WrongPassphrase,
                DecryptError::ExcessiveWork { required, .. } => KitError::TooMuchWork { required },
                _ => KitError::Damaged,
            })?;
        // Never more than the file has, so this does not grow and leave copies behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(file.len()));
        reader.read_to_end(&mut plain).map_err(|_| KitError::Damaged)?;
        match plain.split_first() {
            Some((&VERSION, record)) => Self::from_record(record),
            Some((&version, _)) if version > VERSION => Err(KitError::FutureVersion { version }),
            _ => Err(KitError::NotAKit),
        }
    }

    fn encrypt_with(&self, passphrase: &str, work_factor: u8) -> Result<Vec<u8>, KitError> {
        check(&self.pool_name, &self.members)?;
        let plain = Zeroizing::new([&[VERSION], &self.to_record()[..]].concat());
        let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase));
        recipient.set_work_factor(work_factor);
        let text = age::encrypt_and_armor(&recipient, &plain).expect("writing to memory with one recipient succeeds");
        Ok(text.into_bytes())
    }

    pub(crate) fn to_record(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(to_canonical(&Record {
            seed: Seed(ByteArray::new(*self.user.seed())),
            pool: self.pool,
            pool_name: self.pool_name.clone(),
            members: self.members.clone(),
            made_at: self.made_at,
        }))
    }

    pub(crate) fn from_record(bytes: &[u8]) -> Result<Self, KitError> {
        let record: Record = from_canonical(bytes).map_err(KitError::Codec)?;
        check(&record.pool_name, &record.members)?;
        Ok(Self {
            user: SigningKey::from_seed(record.seed.0.as_ref()),
            pool: record.pool,
            pool_name: record.pool_name,
            members: record.members,
            made_at: record.made_at,
        })
    }
}

fn decryptor(file: &[u8]) -> Result<Decryptor<impl Read + '_>, KitError> {
    if file.len() > KIT_BYTES_MAX {
        return Err(KitError::TooLarge { len: file.len() });
    }
    let kit_or = |error: KitError| if is_age_file(file) { error } else { KitError::NotAKit };
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(file)).map_err(|_| kit_or(KitError::Damaged))?;
    if decryptor.is_scrypt() {
        Ok(decryptor)
    } else {
        Err(KitError::NotAKit)
    }
}

fn check(pool_name: &str, members: &[KitMember]) -> Result<(), KitError> {
    let reachable = |member: &KitMember| {
        member.addresses.len() <= ADDRESSES_MAX && member.addresses.iter().all(|text| is_address(text))
    };
    let field = if !is_pool_name(pool_name) {
        "pool name"
    } else if members.len() > KIT_MEMBERS_MAX {
        "number of members"
    } else if !members.iter().all(reachable) {
        "address"
    } else {
        return Ok(());
    };
    Err(KitError::Impossible { field })
}

/// Whether a file starts as `age` files do, armored or not.
fn is_age_file(file: &[u8]) -> bool {
    let text = file.trim_ascii_start();
    text.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") || text.starts_with(b"age-encryption.org/")
}

/// The encoded form of a kit, after the version.
#[derive(Serialize, Deserialize)]
struct Record {
    seed: Seed,
    pool: PoolId,
    pool_name: String,
    members: Vec<KitMember>,
    made_at: Timestamp,
}

/// A user's seed, erased when dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Seed(ByteArray<32>);

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kit() -> Kit {
        Kit {
            user: SigningKey::from_seed(&[7; 32]),
            pool: PoolId::from_bytes([1; 32]),
            pool_name: "home".to_owned(),
            members: vec![KitMember {
                node: NodeId::from_bytes([2; 32]),
                addresses: vec!["/ip4/192.168.1.7/tcp/4100".to_owned()],
            }],
            made_at: Timestamp::from_millis(1_795_269_720_000),
        }
    }

    /// Little work, so that a test costs none.
    fn file() -> Vec<u8> {
        kit().encrypt_with("correct horse", 4).unwrap()
    }

    #[test]
    fn a_kit_comes_back_with_its_passphrase() {
        let file = kit().encrypt("correct horse").unwrap();
        assert!(file.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----\n"));
        let opened = Kit::decrypt(&file, "correct horse").unwrap();
        assert_eq!(opened.user.seed(), &[7; 32]);
        assert_eq!((opened.pool, opened.members), (kit().pool, kit().members));
        assert_eq!((opened.pool_name, opened.made_at), (kit().pool_name, kit().made_at));
        assert!(matches!(
            Kit::decrypt(&file, "battery staple"),
            Err(KitError::WrongPassphrase)
        ));
    }

    /// A kit is read years after it was written.
    #[test]
    fn a_kit_written_before_opens() {
        let file = include_bytes!("../testdata/kit-v1.age");
        assert_eq!(Kit::decrypt(file, "correct horse").unwrap().user.seed(), &[7; 32]);
    }

    #[test]
    fn what_is_not_a_kit_is_named() {
        let check = |file: &[u8]| Kit::decrypt(file, "correct horse").unwrap_err();
        assert!(matches!(check(b""), KitError::NotAKit));
        assert!(matches!(check(b"potluck1abc"), KitError::NotAKit));
        assert!(matches!(
            check(&vec![b'a'; KIT_BYTES_MAX + 1]),
            KitError::TooLarge { .. }
        ));
        let sound = file();
        assert!(matches!(check(&sound[..60]), KitError::Damaged));
        assert!(matches!(check(&sound[..sound.len() - 80]), KitError::Damaged));
        let sealed = |plain: &[u8]| {
            let mut recipient = age::scrypt::Recipient::new(SecretString::from("correct horse"));
            recipient.set_work_factor(4);
            age::encrypt(&recipient, plain).unwrap()
        };
        assert!(matches!(
            check(&sealed(b"\x02later")),
            KitError::FutureVersion { version: 2 }
        ));
        assert!(matches!(check(&sealed(b"\x01later")), KitError::Codec(_)));
        assert!(matches!(check(&sealed(b"")), KitError::NotAKit));
        // The stanza's last argument is the work factor: `-> scrypt SALT 4`.
        let mut bytes = sealed(b"");
        let at = bytes.windows(3).position(|window| window == b" 4\n").unwrap();
        bytes.splice(at + 1..at + 2, *b"30");
        assert!(matches!(check(&bytes), KitError::TooMuchWork { required: 30 }));
    }

    #[test]
    fn impossible_kits_are_not_made() {
        let check = |change: fn(&mut Kit)| {
            let mut kit = kit();
            change(&mut kit);
            assert!(matches!(kit.encrypt_with("x", 4), Err(KitError::Impossible { .. })));
        };
        check(|kit| kit.pool_name = "x".repeat(65));
        check(|kit| kit.members = vec![kit.members[0].clone(); KIT_MEMBERS_MAX + 1]);
        check(|kit| kit.members[0].addresses = vec!["nowhere".to_owned()]);
    }

    #[test]
    fn the_largest_kit_is_accepted() {
        let mut large = kit();
        large.members[0].addresses = vec![format!("/{}", "x".repeat(255)); ADDRESSES_MAX];
        large.members = vec![large.members[0].clone(); KIT_MEMBERS_MAX];
        let file = large.encrypt_with("x", 4).unwrap();
        assert_eq!(Kit::decrypt(&file, "x").unwrap().members, large.members);
    }

    #[test]
    fn a_kit_prints_nothing_secret() {
        assert!(!format!("{:?}", kit()).contains("7, 7"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn damage_is_found(at: prop::sample::Index, bit in 0u8..7) {
            let mut file = file();
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            let opened = Kit::decrypt(&file, "correct horse");
            // The armor ignores some white space, and the work factor may be lowered or raised by the change.
            prop_assert!(opened.is_err() || opened.is_ok_and(|kit| kit.user.seed() == &[7; 32]));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(Kit::decrypt(&bytes, "x").is_err());
            let _ = Kit::decrypt(&[b"age-encryption.org/v1\n", &bytes[..]].concat(), "x");
            let _ = Kit::from_record(&bytes);
        }
    }
}
