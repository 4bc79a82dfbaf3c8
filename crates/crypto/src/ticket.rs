//! Tickets: what one person sends another so that a machine may join the pool.
//!
//! A ticket says where the pool is found and carries a secret that the inviter will know again.

use crate::{
    secret::byte_string,
    text::{self, TextError},
};
use potluck_types::{
    CodecError, Entropy, Hash, NodeId, PoolId, Timestamp, from_canonical,
    limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, POOL_NAME_BYTES_MAX, TICKET_TEXT_BYTES_MAX},
    to_canonical,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Every ticket starts with this and the number of its version.
const NAME: &str = "potluck";
/// The only version so far.
const VERSION: u32 = 1;
const TEXT: text::Kind = text::Kind {
    name: NAME,
    version: VERSION,
    chars_max: TICKET_TEXT_BYTES_MAX,
};
const SECRET_CONTEXT: &str = "potluck 2026-11 ticket secret v1";

/// What shows the inviter that a stranger holds its ticket.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TicketSecret([u8; 16]);

impl TicketSecret {
    /// A new random secret.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(entropy.bytes())
    }

    /// From its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes, to be shown to the inviter alone.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What the inviter stores instead of the secret.
    pub fn hash(&self) -> Hash {
        Hash::from_bytes(blake3::derive_key(SECRET_CONTEXT, &self.0))
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(secret)")
    }
}

byte_string!(TicketSecret);

/// An invitation into a pool. Displays as the text to send; prints, for debugging, without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The pool.
    pub pool: PoolId,
    /// Its name, as the inviter knows it: for people, not to be relied on.
    pub pool_name: String,
    /// The node that made the ticket and will accept it.
    pub inviter: NodeId,
    /// Where it can be reached, as multiaddrs: <https://github.com/multiformats/multiaddr>.
    pub addresses: Vec<String>,
    /// Proof of holding the ticket.
    pub secret: TicketSecret,
    /// When it stops being accepted.
    pub expires: Timestamp,
    /// Whether it is for another machine of the inviter's own user.
    pub mine: bool,
}

/// Why text is not a ticket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTicketError {
    /// It does not start as one.
    #[error("this is not a ticket: a ticket starts with `{NAME}{VERSION}`")]
    NotATicket,
    /// It starts as one, but some of its characters are wrong or missing.
    #[error("the ticket is mistyped or incomplete")]
    Typo,
    /// It is longer than any ticket.
    #[error("the text has {len} characters, and a ticket at most {TICKET_TEXT_BYTES_MAX}")]
    TooLong {
        /// How many there are.
        len: usize,
    },
    /// It was made by a newer program.
    #[error("the ticket has version {version}, and this program reads {VERSION}: update it first")]
    FutureVersion {
        /// The version.
        version: u32,
    },
    /// It is typed right, but no ticket: whoever made it did it wrong.
    #[error("the ticket is unreadable")]
    Codec(#[source] CodecError),
    /// It is typed right, but holds names or addresses that are none.
    #[error("the ticket is impossible: its {field} is not one")]
    Impossible {
        /// Which part of it.
        field: &'static str,
    },
}

impl Ticket {
    /// Whether it is no longer accepted.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }

    fn checked(self) -> Result<Self, ParseTicketError> {
        let field = if !is_pool_name(&self.pool_name) {
            "pool name"
        } else if self.addresses.len() > ADDRESSES_MAX || !self.addresses.iter().all(|text| is_address(text)) {
            "address"
        } else {
            return Ok(self);
        };
        Err(ParseTicketError::Impossible { field })
    }
}

/// Whether this can be a pool's name: short, and nothing in it that would confuse a terminal.
pub(crate) fn is_pool_name(text: &str) -> bool {
    text.len() <= POOL_NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Whether this can be a multiaddr, whose parts only the network crate knows.
pub(crate) fn is_address(text: &str) -> bool {
    text.starts_with('/') && text.len() <= ADDRESS_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticket = self.clone();
        let record = Zeroizing::new(to_canonical(&Record(
            ticket.pool,
            ticket.pool_name,
            ticket.inviter,
            ticket.addresses,
            ticket.secret,
            ticket.expires,
            ticket.mine,
        )));
        f.write_str(&TEXT.write(&record))
    }
}

impl From<TextError> for ParseTicketError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Other => Self::NotATicket,
            TextError::Typo => Self::Typo,
            TextError::TooLong(len) => Self::TooLong { len },
            TextError::FutureVersion(version) => Self::FutureVersion { version },
        }
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let record = TEXT.read(text)?;
        let Record(pool, pool_name, inviter, addresses, secret, expires, mine) =
            from_canonical(&record).map_err(ParseTicketError::Codec)?;
        Self {
            pool,
            pool_name,
            inviter,
            addresses,
            secret,
            expires,
            mine,
        }
        .checked()
    }
}

/// The encoded form of a ticket: a list, as every byte of it is typed or scanned.
#[derive(Serialize, Deserialize)]
struct Record(PoolId, String, NodeId, Vec<String>, TicketSecret, Timestamp, bool);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        Ticket {
            pool: PoolId::from_bytes([1; 32]),
            pool_name: "home".to_owned(),
            inviter: NodeId::from_bytes([2; 32]),
            addresses: vec!["/ip4/192.168.1.7/tcp/4100".to_owned()],
            secret: TicketSecret::from_bytes([0xab; 16]),
            expires: Timestamp::from_millis(1_795_269_720_000),
            mine: true,
        }
    }

    #[test]
    fn text_is_that_of_format_md() {
        assert_eq!(
            ticket().to_string(),
            "potluck1q5mcaaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibmrug63lflaqaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaubpams62lqgqxtcojsfyytmobogexdol3umnyc6nbrgayfbk5lvov2xk5lvov2xk5lvov2xky3aaaadip6nh34b5o6ttmzm"
        );
        assert_eq!(
            Hash::to_string(&ticket().secret.hash()),
            "bafkr4igbe7vjvmfczkcukbedzkeze2covauvuap32ecjvi44kqkdkhf6gu"
        );
    }

    #[test]
    fn a_ticket_survives_how_people_pass_it_on() {
        let text = ticket().to_string();
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(40)
            .map(|line| str::from_utf8(line).unwrap())
            .collect();
        let wrapped = lines.join("\r\n  ");
        for passed_on in [text.to_uppercase(), format!("\n {text}\t"), wrapped] {
            assert_eq!(passed_on.parse::<Ticket>().unwrap(), ticket());
        }
    }

    #[test]
    fn each_mistake_is_named() {
        let text = ticket().to_string();
        let check = |text: &str| text.parse::<Ticket>().unwrap_err();
        assert!(matches!(check(""), ParseTicketError::NotATicket));
        assert!(matches!(check("potluck"), ParseTicketError::NotATicket));
        assert!(matches!(check("https://example.org"), ParseTicketError::NotATicket));
        assert!(matches!(check("potluck1"), ParseTicketError::Typo));
        assert!(matches!(check(&text[..text.len() - 3]), ParseTicketError::Typo));
        assert!(matches!(check(&format!("{text}a")), ParseTicketError::Typo));
        let newer = text.replacen('1', "2", 1);
        assert!(matches!(check(&newer), ParseTicketError::FutureVersion { version: 2 }));
        assert!(matches!(
            check(&"potluck1".repeat(1 << 17)),
            ParseTicketError::TooLong { .. }
        ));
    }

    #[test]
    fn names_and_addresses_that_are_none_are_refused() {
        let check = |change: fn(&mut Ticket)| {
            let mut ticket = ticket();
            change(&mut ticket);
            assert!(matches!(
                ticket.to_string().parse::<Ticket>(),
                Err(ParseTicketError::Impossible { .. })
            ));
        };
        check(|t| t.pool_name = "\x1b[2J".to_owned());
        check(|t| t.pool_name = "x".repeat(65));
        check(|t| t.addresses = vec!["example.org".to_owned()]);
        check(|t| t.addresses = vec![format!("/{}", "x".repeat(256))]);
        check(|t| t.addresses = vec!["/x".to_owned(); 17]);
    }

    #[test]
    fn the_largest_ticket_is_accepted() {
        let large = Ticket {
            pool_name: "x".repeat(POOL_NAME_BYTES_MAX),
            addresses: vec![format!("/{}", "x".repeat(ADDRESS_BYTES_MAX - 1)); ADDRESSES_MAX],
            ..ticket()
        };
        assert_eq!(large.to_string().parse::<Ticket>().unwrap(), large);
    }

    #[test]
    fn a_ticket_prints_without_its_secret() {
        assert!(format!("{:?}", ticket()).contains("TicketSecret(secret)"));
        assert!(ticket().is_expired(ticket().expires) && !ticket().is_expired(Timestamp::default()));
    }

    proptest! {
        #[test]
        fn a_wrong_character_is_a_typo(at: prop::sample::Index, wrong in "[a-z2-7]") {
            let mut text = ticket().to_string();
            let at = NAME.len() + 1 + at.index(text.len() - NAME.len() - 1);
            prop_assume!(text[at..=at] != wrong);
            text.replace_range(at..=at, &wrong);
            prop_assert!(matches!(text.parse::<Ticket>(), Err(ParseTicketError::Typo)));
        }

        #[test]
        fn no_text_panics(text: String, tail in "[a-z2-7]{0,200}") {
            let _ = text.parse::<Ticket>();
            let _ = format!("potluck1{text}").parse::<Ticket>();
            let _ = format!("potluck1{tail}").parse::<Ticket>();
        }

        #[test]
        fn no_record_panics(record: Vec<u8>) {
            prop_assert!(matches!(TEXT.write(&record).parse::<Ticket>(), Err(ParseTicketError::Codec(_))));
        }
    }
}
