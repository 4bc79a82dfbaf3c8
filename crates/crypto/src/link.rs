//! Links: what lets whoever has it read one file or directory of a space, and nothing else.
//!
//! A link carries a secret of 16 bytes. What its maker publishes under the link's id is sealed under a key that follows from that secret, from a password where the maker
//! wanted one, and from a share that one machine gives away where they wanted the readers counted. Who keeps what is published learns nothing from it: the id
//! says nothing about the key.

use crate::{
    BoxKey,
    secret::{KeyShare, byte_string},
    text::{self, TextError},
};
use data_encoding::BASE32_NOPAD;
use potluck_types::{Entropy, Hash, PoolId, SpaceId, limits::LINK_TEXT_BYTES_MAX};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

const TEXT: text::Kind = text::Kind {
    name: "potlink",
    version: 1,
    chars_max: LINK_TEXT_BYTES_MAX,
};
const ID: &str = "potluck 2026-11 link id v1";
const KEY: &str = "potluck 2026-11 link key v1";
const PROOF: &str = "potluck 2026-11 link proof v1";
/// Bytes of a pool's id that a link carries: enough to tell that it is of another one.
const POOL_BYTES: usize = 8;
/// The password is needed, too.
const WITH_PASSWORD: u8 = 1;
/// scrypt (RFC 7914) with N = 2^15, r = 8, p = 1: it takes 32 MiB.
const SCRYPT: (u8, u32, u32) = (15, 8, 1);

/// Names a link, to those who keep what it shows: it follows from the link's secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId([u8; 16]);

impl LinkId {
    /// From its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({self})")
    }
}

byte_string!(LinkId);

/// A link. Displays as the text to send, which is a secret; prints, for debugging, without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The start of the id of the pool that it leads into.
    pool: [u8; POOL_BYTES],
    /// The space that it shows something of.
    pub space: SpaceId,
    secret: Zeroizing<[u8; 16]>,
    /// Whether a password is needed, too.
    pub needs_password: bool,
}

/// Why text is no link.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseLinkError {
    /// It does not start as one.
    #[error("this is not a link: a link starts with `potlink1`")]
    NotALink,
    /// It starts as one, but some of its characters are wrong or missing.
    #[error("the link is mistyped or incomplete")]
    Typo,
    /// It is longer than any link.
    #[error("the text has {len} characters, and a link at most {LINK_TEXT_BYTES_MAX}")]
    TooLong {
        /// How many there are.
        len: usize,
    },
    /// It was made by a newer program.
    #[error("the link was made by a later version of this program: update it first")]
    FutureVersion,
}

impl Link {
    /// A new link into a space.
    pub fn generate(pool: PoolId, space: SpaceId, needs_password: bool, entropy: &dyn Entropy) -> Self {
        Self {
            pool: start_of(pool),
            space,
            secret: Zeroizing::new(entropy.bytes()),
            needs_password,
        }
    }

    /// Whether it leads into this pool.
    pub fn is_into(&self, pool: PoolId) -> bool {
        self.pool == start_of(pool)
    }

    /// What it is published under.
    pub fn id(&self) -> LinkId {
        let derived = Zeroizing::new(blake3::derive_key(ID, &*self.secret));
        LinkId(*derived.first_chunk().expect("a key has more than 16 bytes"))
    }

    /// What shows that one has the link, without giving it away: the id alone is known to whoever keeps what is published.
    pub fn proof(&self) -> Hash {
        Hash::from_bytes(blake3::derive_key(PROOF, &*self.secret))
    }

    /// What is published is sealed under this key. With a password it is slow on purpose.
    pub fn key(&self, password: Option<&str>, share: Option<&KeyShare>) -> BoxKey {
        // Each part has a fixed length, so together they are read one way only.
        let mut material = Zeroizing::new([0; 16 + 32 + 32]);
        material[..16].copy_from_slice(&*self.secret);
        if let Some(password) = password {
            let (log_n, r, p) = SCRYPT;
            let params = scrypt::Params::new(log_n, r, p, 32).expect("constants that fit");
            let out = &mut material[16..48];
            scrypt::scrypt(password.as_bytes(), self.id().as_bytes(), &params, out).expect("32 bytes fit");
        }
        if let Some(share) = share {
            material[48..].copy_from_slice(share.as_bytes());
        }
        BoxKey::from_bytes(blake3::derive_key(KEY, &*material))
    }
}

fn start_of(pool: PoolId) -> [u8; POOL_BYTES] {
    *pool.as_bytes().first_chunk().expect("an id is longer")
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, secret)", self.id())
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.needs_password { WITH_PASSWORD } else { 0 };
        let bytes = Zeroizing::new([&self.pool[..], self.space.as_bytes(), &self.secret[..], &[flags]].concat());
        f.write_str(&TEXT.write(&bytes))
    }
}

impl FromStr for Link {
    type Err = ParseLinkError;

    fn from_str(text: &str) -> Result<Self, ParseLinkError> {
        let bytes = TEXT.read(text)?;
        let mut rest = &bytes[..];
        let pool = take(&mut rest)?;
        let space = SpaceId::from_bytes(take(&mut rest)?);
        let secret = Zeroizing::new(take(&mut rest)?);
        let needs_password = match rest {
            [0] => false,
            [WITH_PASSWORD] => true,
            _ => return Err(ParseLinkError::FutureVersion),
        };
        Ok(Self {
            pool,
            space,
            secret,
            needs_password,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ParseLinkError> {
    let (first, left) = rest.split_first_chunk().ok_or(ParseLinkError::Typo)?;
    *rest = left;
    Ok(*first)
}

impl From<TextError> for ParseLinkError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Other => Self::NotALink,
            TextError::Typo => Self::Typo,
            TextError::TooLong(len) => Self::TooLong { len },
            TextError::FutureVersion(_) => Self::FutureVersion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Counter;
    use data_encoding::HEXLOWER;

    fn link(needs_password: bool) -> Link {
        let (pool, space) = (PoolId::from_bytes([1; 32]), SpaceId::from_bytes([2; 32]));
        Link::generate(pool, space, needs_password, &Counter::new())
    }

    #[test]
    fn text_id_and_key_are_those_of_format_md() {
        let link = link(true);
        assert_eq!(
            link.to_string(),
            "potlink1aeaqcaibaeaqcaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaaaqeayeaudaocajbifqydiob4auooovqm"
        );
        assert_eq!(link.id().to_string(), "w7fi3en3tgmrddinqryrag7una");
        assert_eq!(
            link.proof().to_string(),
            "bafkr4ighan66s4c2ps6vitmhoy77bsgbp64vdogjs75bb6cv3mdbauexj4"
        );
        let share = KeyShare::from_bytes([3; 32]);
        let hex = |key: BoxKey| HEXLOWER.encode(key.as_bytes());
        assert_eq!(
            hex(link.key(None, None)),
            "ce5a8cac7dba5ea9aad7f1b6bd894ee117b1eea822143318bd9a38142d1f5859"
        );
        assert_eq!(
            hex(link.key(Some("open sesame"), Some(&share))),
            "e131378f74755340439b728ef3087d3fa4e8540ba0280d976f033d3eb32ce203"
        );
    }

    #[test]
    fn a_link_survives_how_people_pass_it_on() {
        let link = link(false);
        let text = link.to_string();
        for passed_on in [text.to_uppercase(), format!(" {text}\n"), text.replace('q', "q\r\n")] {
            assert_eq!(passed_on.parse::<Link>().unwrap(), link);
        }
        assert!(link.is_into(PoolId::from_bytes([1; 32])) && !link.is_into(PoolId::from_bytes([2; 32])));
    }

    #[test]
    fn each_mistake_is_named() {
        let text = link(false).to_string();
        let check = |text: &str| text.parse::<Link>().unwrap_err();
        assert_eq!(check("home:/photos"), ParseLinkError::NotALink);
        assert_eq!(check(&text[..text.len() - 2]), ParseLinkError::Typo);
        assert_eq!(
            check(&text.replacen("potlink1", "potlink2", 1)),
            ParseLinkError::FutureVersion
        );
        assert_eq!(check(&"potlink1".repeat(1000)), ParseLinkError::TooLong { len: 8000 });
        for at in 8..text.len() {
            let mut wrong = text.clone();
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            wrong.replace_range(at..=at, other);
            assert!(wrong.parse::<Link>().is_err(), "character {at}");
        }
    }

    #[test]
    fn password_and_share_are_each_needed() {
        let (link, share) = (link(true), KeyShare::from_bytes([3; 32]));
        let keys = [
            link.key(None, None),
            link.key(Some("a"), None),
            link.key(Some("b"), None),
            link.key(None, Some(&share)),
            link.key(Some("a"), Some(&share)),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
        assert!(!format!("{link:?}{share:?}").contains(&link.to_string()[40..60]));
    }
}
