//! How a piece is coded: *k* and *m* from the number of losses to survive and of failure domains at hand.

use potluck_types::{Geometry, limits};

/// Why a pool cannot give what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is here (machines and zones: {domains}) survives the loss of {possible}, not of {asked}")]
pub struct GeometryError {
    /// Losses that were to be survived.
    pub asked: u8,
    /// Failure domains at hand.
    pub domains: usize,
    /// What they allow at most.
    pub possible: u8,
}

/// Domains left free, so that a repair has somewhere to go.
const fn spare(domains: usize) -> usize {
    match domains {
        0..=3 => 0,
        4..=11 => 1,
        _ => 2,
    }
}

/// Shards of a stripe over so many domains.
fn shards(domains: usize) -> usize {
    (domains - spare(domains)).clamp(1, limits::SHARDS_MAX)
}

/// How many losses data survives when nobody says: none alone, 1 with two or three domains, 2 with more.
pub fn default_survive(domains: usize) -> u8 {
    match domains {
        0..=1 => 0,
        2..=3 => 1,
        _ => 2,
    }
}

/// The most losses that so many domains can be asked to survive: *k* is at least 1.
pub fn survivable(domains: usize) -> u8 {
    u8::try_from(shards(domains.max(1)) - 1).expect("at most 20 shards")
}

/// The coding that survives `survive` losses over so many domains.
pub fn geometry(domains: usize, survive: u8) -> Result<Geometry, GeometryError> {
    let domains = domains.max(1);
    let possible = survivable(domains);
    if survive > possible {
        return Err(GeometryError {
            asked: survive,
            domains,
            possible,
        });
    }
    let n = u8::try_from(shards(domains)).expect("at most 20 shards");
    Ok(Geometry::new(n - survive, survive).expect("k is at least 1, n at most 20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_are_those_of_the_design() {
        let check = |domains, survive, expected: Option<(u8, u8)>| {
            let found = geometry(domains, survive).ok().map(|g| (g.k(), g.m()));
            assert_eq!(found, expected, "{domains} domains, survive {survive}");
        };
        check(1, 0, Some((1, 0)));
        check(1, 1, None);
        check(2, 1, Some((1, 1)));
        check(3, 1, Some((2, 1)));
        check(3, 2, Some((1, 2)));
        check(4, 2, Some((1, 2)));
        check(5, 2, Some((2, 2)));
        check(6, 2, Some((3, 2)));
        check(12, 2, Some((8, 2)));
        check(1000, 2, Some((18, 2)));
        check(1000, 19, Some((1, 19)));
        check(1000, 20, None);
    }

    #[test]
    fn the_default_is_always_possible() {
        for domains in 0..100 {
            assert!(geometry(domains, default_survive(domains)).is_ok());
        }
    }
}
