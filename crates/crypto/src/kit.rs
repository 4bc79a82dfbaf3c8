//! The recovery kit: one file and one passphrase that bring a person's data back when every device of theirs is gone.
//!
//! It is [sealed under a passphrase](Passphrase).

use crate::{
    Passphrase, PassphraseError, SigningKey, UserKeys,
    ticket::{is_address, is_pool_name},
};
use potluck_types::{
    CodecError, NodeId, PoolId, Timestamp, from_canonical,
    limits::{ADDRESSES_MAX, KIT_BYTES_MAX, KIT_MEMBERS_MAX},
    to_canonical,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use zeroize::{Zeroize, Zeroizing};

/// The first byte of what is encrypted: the version of a kit of a person who has had one key.
const VERSION: u8 = 1;
/// The same, of one who has had several.
const VERSION_OF_SEVERAL: u8 = 2;

/// What a person needs to come back.
#[derive(Clone, Debug)]
pub struct Kit {
    /// The person's keys.
    pub user: UserKeys,
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
    #[error("the recovery kit does not open: {}", PassphraseError::TooMuchWork { required: *required })]
    TooMuchWork {
        /// The power of two.
        required: u8,
    },
    /// It was made by a newer program.
    #[error("the recovery kit has version {version}, and this program reads {VERSION_OF_SEVERAL}: update it first")]
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
        Ok(Passphrase::from(passphrase).seal(&self.plain()?))
    }

    /// Whether this can be a kit's file, as far as that shows without the passphrase.
    pub fn check(file: &[u8]) -> Result<(), KitError> {
        check_len(file)?;
        Ok(Passphrase::check(file)?)
    }

    /// Opens a kit's file. Takes about a second for a kit, and not much more for anything else.
    pub fn decrypt(file: &[u8], passphrase: &str) -> Result<Self, KitError> {
        check_len(file)?;
        let plain = Passphrase::from(passphrase).open(file)?;
        match plain.split_first() {
            Some((&(VERSION | VERSION_OF_SEVERAL), record)) => Self::from_record(record),
            Some((&version, _)) if version > VERSION_OF_SEVERAL => Err(KitError::FutureVersion { version }),
            _ => Err(KitError::NotAKit),
        }
    }

    /// What is sealed.
    fn plain(&self) -> Result<Zeroizing<Vec<u8>>, KitError> {
        check(&self.pool_name, &self.members)?;
        let version = match self.user.is_replaced() {
            false => VERSION,
            true => VERSION_OF_SEVERAL,
        };
        Ok(Zeroizing::new([&[version], &self.to_record()[..]].concat()))
    }

    pub(crate) fn to_record(&self) -> Zeroizing<Vec<u8>> {
        let mut seeds = self.user.all().map(|key| Seed(ByteArray::new(*key.seed())));
        Zeroizing::new(to_canonical(&Record {
            seed: seeds.next().expect("a person has a key"),
            later: seeds.collect(),
            pool: self.pool,
            pool_name: self.pool_name.clone(),
            members: self.members.clone(),
            made_at: self.made_at,
        }))
    }

    pub(crate) fn from_record(bytes: &[u8]) -> Result<Self, KitError> {
        let record: Record = from_canonical(bytes).map_err(KitError::Codec)?;
        check(&record.pool_name, &record.members)?;
        let seeds = std::iter::once(&record.seed).chain(&record.later);
        let keys = seeds.map(|seed| SigningKey::from_seed(seed.0.as_ref()));
        Ok(Self {
            user: UserKeys::of(keys).expect("a record has a seed"),
            pool: record.pool,
            pool_name: record.pool_name,
            members: record.members,
            made_at: record.made_at,
        })
    }
}

impl From<PassphraseError> for KitError {
    fn from(error: PassphraseError) -> Self {
        match error {
            PassphraseError::Wrong => Self::WrongPassphrase,
            PassphraseError::NotSealed => Self::NotAKit,
            PassphraseError::Damaged => Self::Damaged,
            PassphraseError::TooMuchWork { required } => Self::TooMuchWork { required },
        }
    }
}

fn check_len(file: &[u8]) -> Result<(), KitError> {
    match file.len() {
        len if len > KIT_BYTES_MAX => Err(KitError::TooLarge { len }),
        _ => Ok(()),
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

/// The encoded form of a kit, after the version.
#[derive(Serialize, Deserialize)]
struct Record {
    seed: Seed,
    /// Of the keys that took its place, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    later: Vec<Seed>,
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
            user: UserKeys::new(SigningKey::from_seed(&[7; 32])),
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
    fn sealed(kit: &Kit) -> Vec<u8> {
        Passphrase::from("correct horse").seal_with(&kit.plain().unwrap(), 4)
    }

    fn file() -> Vec<u8> {
        sealed(&kit())
    }

    #[test]
    fn a_kit_comes_back_with_its_passphrase() {
        let file = kit().encrypt("correct horse").unwrap();
        assert!(file.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----\n"));
        let opened = Kit::decrypt(&file, "correct horse").unwrap();
        assert_eq!(opened.user.signing().seed(), &[7; 32]);
        assert_eq!((opened.pool, opened.members), (kit().pool, kit().members));
        assert_eq!((opened.pool_name, opened.made_at), (kit().pool_name, kit().made_at));
        assert!(matches!(
            Kit::decrypt(&file, "battery staple"),
            Err(KitError::WrongPassphrase)
        ));
    }

    #[test]
    fn a_kit_has_all_keys_of_its_person() {
        let mut kit = kit();
        kit.user.push(SigningKey::from_seed(&[8; 32]));
        let opened = Kit::decrypt(&sealed(&kit), "correct horse").unwrap();
        let seeds: Vec<_> = opened.user.all().map(|key| *key.seed()).collect();
        assert_eq!(seeds, [[7; 32], [8; 32]]);
    }

    /// A kit is read years after it was written.
    #[test]
    fn a_kit_written_before_opens() {
        let file = include_bytes!("../testdata/kit-v1.age");
        assert_eq!(
            Kit::decrypt(file, "correct horse").unwrap().user.signing().seed(),
            &[7; 32]
        );
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
        let sealed = |plain: &[u8]| Passphrase::from("correct horse").seal_with(plain, 4);
        assert!(matches!(
            check(&sealed(b"\x03later")),
            KitError::FutureVersion { version: 3 }
        ));
        assert!(matches!(check(&sealed(b"\x01later")), KitError::Codec(_)));
        assert!(matches!(check(&sealed(b"")), KitError::NotAKit));
    }

    #[test]
    fn impossible_kits_are_not_made() {
        let check = |change: fn(&mut Kit)| {
            let mut kit = kit();
            change(&mut kit);
            assert!(matches!(kit.plain(), Err(KitError::Impossible { .. })));
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
        assert_eq!(
            Kit::decrypt(&sealed(&large), "correct horse").unwrap().members,
            large.members
        );
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
            prop_assert!(opened.is_err() || opened.is_ok_and(|kit| kit.user.signing().seed() == &[7; 32]));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(Kit::decrypt(&bytes, "x").is_err());
            let _ = Kit::decrypt(&[b"age-encryption.org/v1\n", &bytes[..]].concat(), "x");
            let _ = Kit::from_record(&bytes);
        }
    }
}
