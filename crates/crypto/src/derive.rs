//! What follows from a person's secret: the private space that every user has, without anything to store.
//!
//! Each derivation is BLAKE3's `derive_key` with its own context string, so that none of the results says
//! anything about another, or about the secret: <https://github.com/BLAKE3-team/BLAKE3-specs>, section 6.2.

use crate::{BoxKey, DedupKey, LinkId, RecipientKey, SigningKey};
use potluck_types::{SpaceId, UserId};
use zeroize::Zeroizing;

const PRIVATE_SPACE_ID: &str = "potluck 2026-11 private space id v1";
const PRIVATE_SPACE_KEY: &str = "potluck 2026-11 private space key v1";
const RECIPIENT_KEY: &str = "potluck 2026-11 recipient key v1";
const MACHINE_KEY: &str = "potluck 2026-11 machine recipient key v1";
const LINK_KEY: &str = "potluck 2026-11 link keeper key v1";
const DEDUP_KEY: &str = "potluck 2026-11 dedup key v1";
const AREA_KEY: &str = "potluck 2026-11 space area key v1";
const CHECKPOINT_ID: &str = "potluck 2026-11 space checkpoint id v1";
pub(crate) const CHUNKING_SEED: &str = "potluck 2026-11 chunking seed v1";

/// The id of a user's private space. It follows from the public key, so that whoever keeps the space's log can check whose it is.
pub fn private_space_id(user: UserId) -> SpaceId {
    SpaceId::from_bytes(blake3::derive_key(PRIVATE_SPACE_ID, user.as_bytes()))
}

/// The key of the first epoch of a user's private space.
pub fn private_space_key(user: &SigningKey) -> BoxKey {
    BoxKey::from_bytes(blake3::derive_key(PRIVATE_SPACE_KEY, user.seed()))
}

/// What opens the messages that others wrap for a user.
pub fn recipient_key(user: &SigningKey) -> RecipientKey {
    RecipientKey::derive(&Zeroizing::new(blake3::derive_key(RECIPIENT_KEY, user.seed())))
}

/// What opens the messages that are wrapped for one machine, by its own key.
pub fn machine_key(node: &SigningKey) -> RecipientKey {
    RecipientKey::derive(&Zeroizing::new(blake3::derive_key(MACHINE_KEY, node.seed())))
}

/// What the keys of the links are sealed under that a user has made.
pub fn link_key(user: &SigningKey) -> BoxKey {
    BoxKey::from_bytes(blake3::derive_key(LINK_KEY, user.seed()))
}

/// The dedup key of a space, from the key of its *first* epoch: it stays the same when the epoch changes, as
/// content stored before is still there to be recognised.
pub fn dedup_key(first_epoch_key: &BoxKey) -> DedupKey {
    DedupKey::from_bytes(blake3::derive_key(DEDUP_KEY, first_epoch_key.as_bytes()))
}

/// The key of an area of a space, from the key of an epoch: who has that reads every area, and who has this no more than one.
pub fn area_key(epoch_key: &BoxKey, area: [u8; 4]) -> BoxKey {
    let material = Zeroizing::new([&epoch_key.as_bytes()[..], &area].concat());
    BoxKey::from_bytes(blake3::derive_key(AREA_KEY, &material))
}

/// What a space's checkpoint is published under while an epoch's key is in use: who has that finds it, and nobody else knows it for one.
pub fn checkpoint_id(epoch_key: &BoxKey) -> LinkId {
    let id = blake3::derive_key(CHECKPOINT_ID, epoch_key.as_bytes());
    LinkId::from_bytes(*id.first_chunk().expect("16 of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// A user's data depends on these never changing.
    #[test]
    fn derived_keys_are_those_of_format_md() {
        let user = SigningKey::from_seed(&[7; 32]);
        let hex = |bytes: &[u8; 32]| HEXLOWER.encode(bytes);
        assert_eq!(
            hex(private_space_id(user.user_id()).as_bytes()),
            "2c497d1913376c501d63be6acecaf90871bf569e4a18285aa84d593e7e8467c6"
        );
        assert_eq!(
            hex(private_space_key(&user).as_bytes()),
            "4a10631a7163d5432712ab03861a7b1e2d3ab93d42300a25e0c4e93094b62f1f"
        );
        let dedup = dedup_key(&private_space_key(&user));
        assert_eq!(
            hex(dedup.as_bytes()),
            "c66afe479ba883724d66d924d5ef6abfed6bf0f2fbc5a25287ca47a7cbb6d511"
        );
        assert_eq!(dedup.chunking_seed(), 11_699_212_128_380_603_125);
        assert_eq!(
            hex(area_key(&private_space_key(&user), [1, 2, 3, 4]).as_bytes()),
            "25fd08bee1621f2bad984eeda68506515e6461f51d152b8424103531f0927162"
        );
        assert_eq!(
            HEXLOWER.encode(checkpoint_id(&private_space_key(&user)).as_bytes()),
            "ecadcb86af572b647ee446cc8b3e826c"
        );
    }
}
