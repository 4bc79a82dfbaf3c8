//! Doors for the fuzzer: decoders that no other crate sees. Only there when it builds.

use crate::{Kit, SigningKey, UserKeys, kit::KitMember};
use potluck_types::{NodeId, PoolId, Timestamp};

/// What is encrypted in a recovery kit, after the version.
///
/// # Panics
/// When what is taken has another encoding.
pub fn kit_record(bytes: &[u8]) {
    if let Ok(kit) = Kit::from_record(bytes) {
        assert_eq!(*kit.to_record(), bytes);
    }
}

/// One that is taken, for the fuzzer to begin from.
pub fn kit_record_seed() -> Vec<u8> {
    let mut user = UserKeys::new(SigningKey::from_seed(&[1; 32]));
    user.push(SigningKey::from_seed(&[4; 32]));
    let kit = Kit {
        user,
        pool: PoolId::from_bytes([2; 32]),
        pool_name: "home".to_owned(),
        members: vec![KitMember {
            node: NodeId::from_bytes([3; 32]),
            addresses: vec!["/ip4/192.0.2.1/tcp/4720".to_owned()],
        }],
        made_at: Timestamp::from_millis(1),
    };
    kit.to_record().to_vec()
}
