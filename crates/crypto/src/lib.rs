//! Keys, sealing and signatures; and the two things that people carry: tickets and recovery kits.
//!
//! - [`SigningKey`], [`PublicKey`]: Ed25519 keys of nodes and users; [`UserKeys`]: all that one person has had.
//! - [`Signed`]: a record that is worth nothing until its signature is checked.
//! - [`seal`]: one piece under one random key, in frames that open alone.
//! - [`secret_box`]: many messages under one long-lived [`BoxKey`].
//! - [`recipient`]: messages that one person alone can open.
//! - [`mod@derive`]: what follows from a user's secret.
//! - [`Ticket`], [`Kit`]: an invitation into a pool, and the way back after losing every device.
//! - [`Link`]: what lets whoever has it read one file or directory.
//!
//! Nothing here does I/O or knows of files and peers. Secrets are erased when dropped, and never printed.

pub mod derive;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keys;
mod kit;
mod link;
mod passphrase;
pub mod recipient;
pub mod seal;
mod secret;
pub mod secret_box;
mod signed;
mod text;
mod ticket;
mod user;

pub use keys::{BadSignature, PublicKey, Signature, SigningKey};
pub use kit::{Kit, KitError, KitMember};
pub use link::{Link, LinkId, ParseLinkError};
pub use passphrase::{Passphrase, PassphraseError};
pub use recipient::{Recipient, RecipientKey};
pub use secret::{BoxKey, DedupKey, Fingerprint, KeyShare, PieceKey};
pub use secret_box::Purpose;
pub use signed::{Record, Signed, SignedError, Verified};
pub use ticket::{ParseTicketError, Ticket, TicketSecret};
pub use user::{RecipientKeys, Speaker, Speakers, UserKeys};

#[cfg(test)]
mod tests {
    use potluck_types::Entropy;
    use std::sync::atomic::{AtomicU8, Ordering};

    /// Entropy that counts: 0, 1, 2 and so on.
    pub(crate) struct Counter(AtomicU8);

    impl Counter {
        pub(crate) const fn new() -> Self {
            Self(AtomicU8::new(0))
        }
    }

    impl Entropy for Counter {
        fn fill(&self, buffer: &mut [u8]) {
            for byte in buffer {
                *byte = self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
